"""The parsers of /proc/PID/fdinfo and what goes with it: samples, and text that is none."""

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumper.proc import fdinfo, mounts, nettcp, ttydrivers
from dumper.state import unixdiag
from dumper.state.socketnames import name_of

COMMON = b"pos:\t42\nflags:\t02102002\nmnt_id:\t27\nino:\t2146930\n"
LOCKS = (
    b"lock:\t1: FLOCK  ADVISORY  WRITE 2962 fe:00:2146930 0 EOF\n"
    b"lock:\t2: POSIX  ADVISORY  READ 2962 fe:00:2146930 5 14\n"
    b"lock:\t3: LEASE  BREAKING  UNLCK 2962 fe:00:2146930 0 EOF\n"
)
TIMER = COMMON + b"clockid: 7\nticks: 3\nsettime flags: 01\nit_value: (0, 999999999)\nit_interval: (2, 5)\n"
EPOLL = (
    COMMON + b"tfd:        4 events:       1d data:     7ffd00000004  pos:0 ino:49061 sdev:f\n"
    b"tfd:      123 events: 4000001d data: ffffffffffffffff  pos:7fffffffffffffff ino:1 sdev:800001\n"
)
INOTIFY = (
    COMMON + b"inotify wd:3 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 "
    b"f_handle:7e9e0000640d1b6d\ninotify wd:a ino:2 sdev:5 mask:2 ignored_mask:0 \n"
)
PARSERS = [
    fdinfo.parse_fdinfo,
    fdinfo.parse_locks,
    fdinfo.parse_eventfd,
    fdinfo.parse_epoll,
    fdinfo.parse_timerfd,
    fdinfo.parse_signalfd,
    fdinfo.parse_pidfd,
    fdinfo.parse_inotify,
]


def test_what_every_descriptor_has() -> None:
    assert fdinfo.parse_fdinfo(COMMON + LOCKS) == fdinfo.FdInfo(offset=42, flags=0o2102002, mount_id=27)


def test_locks() -> None:
    assert fdinfo.parse_locks(COMMON + LOCKS) == [
        fdinfo.Lock(kind="flock", mode="write", start=0, end=-1),
        fdinfo.Lock(kind="posix", mode="read", start=5, end=14),
        fdinfo.Lock(kind="lease", mode="unlck", start=0, end=-1),
    ]
    assert fdinfo.parse_locks(COMMON) == []


def test_eventfd_of_old_and_new_kernels() -> None:
    assert fdinfo.parse_eventfd(COMMON + b"eventfd-count:               1f\neventfd-id: 4\n") == (0x1F, False)
    assert fdinfo.parse_eventfd(COMMON + b"eventfd-count: ffffffffffffffff\neventfd-semaphore: 1\n") == (
        2**64 - 1,
        True,
    )


def test_timerfd() -> None:
    assert fdinfo.parse_timerfd(TIMER) == fdinfo.Timer(
        clock=7, ticks=3, flags=1, remaining_ns=999_999_999, interval_ns=2_000_000_005
    )


def test_epoll() -> None:
    first, second = fdinfo.parse_epoll(EPOLL)
    assert first == fdinfo.Watched(fd=4, events=0x1D, data=0x7FFD00000004, inode=0x49061, device=0xF)
    assert (second.fd, second.data) == (123, 2**64 - 1)
    assert fdinfo.device_numbers(second.device) == (8, 1)


def test_inotify() -> None:
    first, second = fdinfo.parse_inotify(INOTIFY)
    assert first == fdinfo.Inotify(
        wd=3,
        inode=0x9E7E,
        device=0x800013,
        mask=0x800AFCE,
        handle_type=1,
        handle=bytes.fromhex("7e9e0000640d1b6d"),
    )
    assert (second.wd, second.handle) == (10, b""), "a file system without handles"
    with pytest.raises(ValueError, match="8 bytes has 7"):
        fdinfo.parse_inotify(INOTIFY.replace(b"7e9e0000640d1b6d", b"7e9e0000640d1b"))


def test_signalfd_and_pidfd() -> None:
    assert fdinfo.parse_signalfd(COMMON + b"sigmask:\t0000001000000200\n") == 1 << 36 | 1 << 9
    assert fdinfo.parse_pidfd(COMMON + b"Pid:\t-1\nNSpid:\t-1\n") == -1


@given(
    st.binary()
    | st.sampled_from([LOCKS, TIMER, EPOLL, INOTIFY]).flatmap(lambda t: st.integers(0, len(t)).map(lambda n: t[:n]))
)
def test_junk_is_refused_by_an_expected_error(text: bytes) -> None:
    for parse in PARSERS:
        with contextlib.suppress(ValueError, KeyError):
            parse(text)


def test_tty_drivers() -> None:
    text = (
        b"/dev/ptmx            /dev/ptmx       5       2 system\n"
        b"pty_slave            /dev/pts      136 0-1048575 pty:slave\n"
        b"my serial            /dev/ttyS       4 64-95 serial\n"
    )
    assert ttydrivers.parse_tty_drivers(text) == ((5, 2, 2), (136, 0, 1048575), (4, 64, 95))


def test_tcp_connections() -> None:
    text = (
        b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        b"   0: 00000000:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1134 1 0000 100\n"
        b"   1: 0100007F:8FAF 0100007F:9E5E 01 00000000:00000000 03:00000180 00000000     0        0 77 3 0000\n"
        b"   2: 0100007F:8FAF 0100007F:9E5E 08 00000000:00000000 03:00000180 00000000     0        0 78 3 0000\n"
    )
    assert nettcp.parse_connections(text) == {77, 78}


def test_mount_types() -> None:
    text = (
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
        b"40 36 0:50 / /home\\040x rw shared:7 master:9 - fuse.sshfs host:/ rw\n"
    )
    assert mounts.parse_mount_types(text) == {36: "ext3", 40: "fuse.sshfs"}


# ---- sockets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sockaddr", "name"),
    [
        (b"", ""),
        (struct.pack("=H", socket.AF_UNIX), ""),
        (struct.pack("=H", socket.AF_UNIX) + b"/run/x\0", "/run/x"),
        (struct.pack("=H", socket.AF_UNIX) + b"\0name", "@name"),
        (struct.pack("=H", socket.AF_INET) + b"\0\x50\x7f\0\0\x01" + bytes(8), "127.0.0.1:80"),
        (struct.pack("=H", socket.AF_INET6) + b"\x01\xbb" + bytes(19) + b"\x01" + bytes(4), "[::1]:443"),
        (struct.pack("=H", socket.AF_INET) + b"\0", ""),
        (struct.pack("=HHII", socket.AF_NETLINK, 0, 7, 3), "port 7 groups 0x3"),
        (struct.pack("=H", socket.AF_VSOCK) + bytes(14), ""),
    ],
)
def test_names_of_addresses(sockaddr: bytes, name: str) -> None:
    assert name_of(sockaddr) == name


def answer_about(inode: int, *attributes: tuple[int, bytes]) -> bytes:
    body = struct.pack("<BBBBIII", socket.AF_UNIX, socket.SOCK_STREAM, 1, 0, inode, 1, 2)
    for kind, value in attributes:
        body += struct.pack("<HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    return struct.pack("<IHHII", 16 + len(body), unixdiag.SOCK_DIAG_BY_FAMILY, 0, 0, 0) + body


def test_answers_about_unix_sockets() -> None:
    first = answer_about(5, (unixdiag.ATTR_PEER, b"\x06\0\0\0"), (unixdiag.ATTR_SHUTDOWN, b"\x02"))
    second = answer_about(
        7, (unixdiag.ATTR_RQLEN, struct.pack("<II", 3, 128)), (unixdiag.ATTR_MEMINFO, struct.pack("<9I", *range(9)))
    )
    done = struct.pack("<IHHIIi", 20, unixdiag.NLMSG_DONE, 0, 0, 0, 0)
    assert unixdiag.parse_answer(first + second + done) == [
        unixdiag.UnixSocket(inode=5, peer_inode=6, shutdown=2),
        unixdiag.UnixSocket(inode=7, receive_queue=3, backlog=128, sent_bytes=2),
    ]


def test_a_refused_question() -> None:
    refusal = struct.pack("<IHHIIi", 36, unixdiag.NLMSG_ERROR, 0, 0, 0, -2) + bytes(16)
    with pytest.raises(FileNotFoundError):
        unixdiag.parse_answer(refusal)


@given(st.binary())
def test_junk_answers_end(answer: bytes) -> None:
    with contextlib.suppress(OSError, struct.error):
        unixdiag.parse_answer(answer)
