"""Open files of stopped processes: what a target of known descriptors has, and that nothing of it changes."""

from __future__ import annotations

import os
import socket
import struct
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dumper.state.descriptors import DescriptorCapture
from dumper.state.openfiles import DescriptorRecords
from dumper.target import Target
from formats.checkpoint import Checkpoint
from formats.openfiles import EpollWatch, Eventfd, OpenFileKind
from formats.processstate import FileLock
from formats.segments import SegmentKind
from formats.sources import ObjectSources
from tests import harness
from tests.e2e.opened import Seen, capture, info_of

pytestmark = pytest.mark.usefixtures("targets")

KNOWN_TEXT_BYTES = 70
FULL = bytes((i * 7 + i // 256) % 256 for i in range(65536))
TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET = 1, 2
O_LARGEFILE = 0o100000


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Target]:
    harness.build_targets()
    with harness.Target.spawn("descriptors", tmp_path_factory.mktemp("files")) as running:
        yield running


def from_checkpoint(captured: Seen, checkpoint: Path) -> Seen:
    """The same of a dump, as a reader of its images finds it."""
    harness.predump("dump", "-t", captured.pid, "-D", checkpoint)
    info = Checkpoint.open(checkpoint).round()
    manifest = info.manifest
    states = {process.pid: process.state for process in manifest.processes if process.state}
    contents = {}
    with ObjectSources(info) as objects:
        for one in manifest.objects:
            content = bytearray(one.pages_end_bytes)
            for piece in objects.segments(one.id, 0, one.pages_end_bytes):
                if piece.kind is SegmentKind.DATA:
                    content[piece.start_addr : piece.end_addr] = objects.read(piece, piece.page_index, piece.n_pages)
            contents[one.path] = (one.kind, bytes(content[: one.size_bytes]), one.id)
    records = DescriptorRecords(
        open_files=manifest.open_files,
        pipes=manifest.pipes,
        descriptors={pid: state.descriptors for pid, state in states.items()},
        locks={pid: state.locks for pid, state in states.items()},
        missing={process.pid: process.missing for process in manifest.processes},
    )
    return replace(captured, records=records, contents=contents)


@pytest.fixture(scope="module")
def captured(target: harness.Target) -> Seen:
    child, named = info_of(target)
    return capture(target.pid, [child], named)


@pytest.fixture(scope="module", params=["captured", "in a checkpoint"])
def seen(request: pytest.FixtureRequest, captured: Seen, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    if request.param == "captured":
        return captured
    return from_checkpoint(captured, tmp_path_factory.mktemp("descriptors") / "checkpoint")


# ---- files -------------------------------------------------------------------------------------------------------


def test_regular_files(seen: Seen) -> None:
    one = seen.file("file")
    assert one.kind is OpenFileKind.FILE
    assert Path(one.path).name == "file"
    assert one.offset == 42
    assert one.flags == os.O_RDWR | os.O_APPEND | O_LARGEFILE
    assert one.size_bytes == KNOWN_TEXT_BYTES
    assert one.mode == 0o100640
    assert not one.deleted
    status = Path(one.path).stat()
    assert (one.inode, one.device) == (status.st_ino, f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}")
    other = seen.file("file_other")
    assert (other.inode, other.offset, other.object) == (one.inode, 7, None)
    assert other.flags == os.O_RDONLY | os.O_NOATIME | O_LARGEFILE
    assert one.mtime_ns == status.st_mtime_ns


def test_mount_ids(seen: Seen, target: harness.Target) -> None:
    ids = {line.split()[0] for line in Path(f"/proc/{target.pid}/mountinfo").read_text().splitlines()}
    assert str(seen.file("file").mount_id) in ids


def test_which_descriptors_share_an_open_file(seen: Seen) -> None:
    one = seen.descriptor("file")
    again = seen.descriptor("file_dup")
    assert again.open_file == one.open_file
    assert (one.close_on_exec, again.close_on_exec) == (False, True)
    assert seen.descriptor("file_other").open_file != one.open_file
    assert seen.descriptor("file", seen.child).open_file == one.open_file
    assert seen.descriptor("eventfd").open_file != seen.descriptor("semaphore").open_file
    assert len({seen.descriptor(name).open_file for name in ("epoll", "strange_epoll", "timer", "timer_over")}) == 4
    # Those opened after the fork are not the child's, and the one that it closed is not there.
    in_child = {one.fd for one in seen.records.descriptors[seen.child]}
    assert seen.named["flocked"] in in_child, "the end of a pipe has this number there"
    assert seen.named["inotify"] not in in_child
    assert seen.named["file_other"] not in in_child


def test_ids_count_from_one(seen: Seen) -> None:
    assert [one.id for one in seen.records.open_files] == list(range(1, len(seen.records.open_files) + 1))
    used = {one.open_file for of_process in seen.records.descriptors.values() for one in of_process}
    assert used == {one.id for one in seen.records.open_files}


def test_every_descriptor_is_there(seen: Seen, target: harness.Target) -> None:
    numbers = {int(entry.name) for entry in Path(f"/proc/{target.pid}/fd").iterdir()}
    assert [one.fd for one in seen.records.descriptors[seen.pid]] == sorted(numbers)


def test_deleted_files_have_their_bytes_kept_once(seen: Seen) -> None:
    one = seen.file("deleted")
    assert (Path(one.path).name, one.deleted, one.offset) == ("deleted", True, 5)
    kind, content, number = seen.contents[one.path]
    assert content == b"bytes of a file without a name"
    assert kind in ("deleted", "shmem")
    assert one.object == number
    assert seen.file("deleted_again").id == one.id
    temporary = seen.file("temporary")
    assert temporary.deleted
    assert seen.contents[temporary.path][1] == b"bytes of O_TMPFILE"
    assert temporary.object == seen.contents[temporary.path][2]


def test_a_name_that_looks_deleted(seen: Seen) -> None:
    one = seen.file("odd_name")
    assert (Path(one.path).name, one.deleted, one.object) == ("odd (deleted)", False, None)


def test_a_file_that_lost_one_of_its_names(seen: Seen) -> None:
    one = seen.file("one_of_two")
    assert (Path(one.path).name, one.deleted) == ("one", True)
    assert one.object is not None


def test_memfd(seen: Seen) -> None:
    one = seen.file("memfd")
    assert (one.kind, one.path, one.offset) == (OpenFileKind.MEMFD, "/memfd:known", 16)
    assert seen.contents[one.path] == ("memfd", b"bytes of a memfd", one.object)


def test_other_things_with_a_path(seen: Seen, target: harness.Target) -> None:
    path = seen.file("path")
    assert path.flags & os.O_PATH
    assert path.inode == seen.file("file").inode
    assert seen.missing("path") == []
    directory = seen.file("directory")
    assert directory.kind is OpenFileKind.DIRECTORY
    assert directory.path == str(Path(f"/proc/{target.pid}/cwd").readlink())
    null = seen.file("null")
    assert (null.kind, null.path, null.special) == (OpenFileKind.DEVICE, "/dev/null", "01:03")
    assert seen.missing("null") == []


def test_things_without_a_path(seen: Seen, target: harness.Target) -> None:
    one = seen.file("namespace")
    assert (one.kind, one.path) == (OpenFileKind.NAMESPACE, str(Path(f"/proc/{target.pid}/ns/net").readlink()))
    assert (seen.file("pidfd").kind, seen.file("pidfd").pid) == (OpenFileKind.PIDFD, target.pid)


# ---- pipes -------------------------------------------------------------------------------------------------------


def test_pipes(seen: Seen) -> None:
    one = seen.file("pipe_out")
    assert one.kind is OpenFileKind.PIPE
    assert one.flags == os.O_RDONLY | os.O_NONBLOCK
    assert seen.file("pipe_in").flags == os.O_WRONLY | os.O_NONBLOCK
    assert seen.pipe("pipe_in") == seen.pipe("pipe_out")
    pipe = seen.pipe("pipe_out")
    assert (pipe.content, pipe.packet_bytes, pipe.capacity_bytes) == (b"some bytes, and some more", [], 65536)
    assert seen.pipe("full_out").content == FULL


def test_pipes_of_packets(seen: Seen) -> None:
    pipe = seen.pipe("packets_in")
    assert (pipe.content, pipe.packet_bytes) == (b"apacketsof bytes", [1, 7, 8])


def test_pipes_whose_other_end_is_elsewhere(seen: Seen) -> None:
    assert seen.pipe("lone_in").content == b"for the child"
    assert seen.pipe("unread_in").content == b""
    assert seen.missing("unread_in") == [], "nobody can ever read it"
    ((what, reason),) = seen.missing("unread_fifo")
    assert what == "content of it"
    assert "nobody has it open for reading" in reason


def test_fifos(seen: Seen) -> None:
    one = seen.file("fifo")
    assert (one.kind, Path(one.path).name) == (OpenFileKind.FIFO, "fifo")
    pipe = seen.pipe("fifo")
    assert (pipe.content, pipe.capacity_bytes) == (b"fifo", 8192)


# ---- terminals ---------------------------------------------------------------------------------------------------


def test_terminals(seen: Seen) -> None:
    master, slave = seen.file("master"), seen.file("slave")
    assert (master.kind, slave.kind) == (OpenFileKind.TERMINAL, OpenFileKind.TERMINAL)
    assert master.terminal is not None
    assert slave.terminal is not None
    assert slave.path == f"/dev/pts/{slave.terminal.index}"
    assert master.terminal.index == slave.terminal.index
    assert (master.terminal.is_master, slave.terminal.is_master) == (True, False)
    assert (slave.terminal.rows, slave.terminal.columns) == (33, 101)
    _, _, _, local, _ = struct.unpack_from("IIIIB", slave.terminal.termios)
    assert len(slave.terminal.termios) == 44
    assert not local & (termios.ECHO | termios.ICANON)
    assert slave.terminal.termios[17 + termios.VMIN] == 3
    assert (slave.terminal.session, slave.terminal.foreground_group) == (0, 0)
    assert not master.terminal.locked
    assert seen.missing("slave") == []


# ---- events ------------------------------------------------------------------------------------------------------


def test_eventfds(seen: Seen) -> None:
    assert seen.file("eventfd").eventfd == Eventfd(count=7, semaphore=False)
    assert seen.file("semaphore").eventfd == Eventfd(count=0x123, semaphore=True)
    assert seen.file("semaphore").flags == os.O_RDWR | os.O_NONBLOCK
    assert seen.descriptor("semaphore").close_on_exec


def test_epoll(seen: Seen) -> None:
    pipe, semaphore = seen.file("pipe_out"), seen.file("semaphore")
    watches = seen.file("epoll").epoll
    assert watches is not None
    assert sorted(watches, key=lambda watch: watch.fd) == [
        EpollWatch(
            fd=seen.named["pipe_out"],
            events=0x80000001 | 0x18,  # EPOLLET, EPOLLIN; EPOLLERR and EPOLLHUP always
            data=0xFEDCBA9876543210,
            device=pipe.device,
            inode=pipe.inode,
        ),
        EpollWatch(
            fd=seen.named["semaphore"],
            events=0x40000004 | 0x18,
            data=77,
            device=semaphore.device,
            inode=semaphore.inode,
        ),
    ]
    assert seen.missing("epoll") == []
    ((what, reason),) = seen.missing("strange_epoll")
    assert (what, reason) == (
        "watch of it on descriptor 200",
        "it was made with a descriptor that has been closed since, and it is not known of which open file",
    )


def test_timerfds(seen: Seen) -> None:
    timer, absolute, over = (seen.file(name).timerfd for name in ("timer", "timer_absolute", "timer_over"))
    assert timer is not None
    assert (timer.clock, timer.ticks, timer.flags, timer.interval_ns) == (1, 0, 0, 3_000_000_007)
    assert 900 * 10**9 < timer.remaining_ns <= 1000 * 10**9 + 5
    assert absolute is not None
    assert (absolute.clock, absolute.flags) == (0, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)
    assert (absolute.ticks, absolute.interval_ns) == (0, 0)
    assert absolute.remaining_ns > 10**18
    assert over is not None
    assert (over.clock, over.ticks, over.interval_ns) == (7, 1, 100_000 * 10**9)


def test_signalfd(seen: Seen) -> None:
    assert seen.file("signalfd").kind is OpenFileKind.SIGNALFD
    assert seen.file("signalfd").signalfd_mask == 1 << 9 | 1 << 36


def test_inotify(seen: Seen) -> None:
    watches = seen.file("inotify").inotify
    assert watches is not None
    on_directory, on_file = sorted(watches, key=lambda watch: -watch.wd)
    file, directory = seen.file("file"), seen.file("directory")
    assert (on_file.wd, on_file.mask, on_file.inode, on_file.device) == (1, 0x2 | 0x4, file.inode, file.device)
    assert (on_directory.wd, on_directory.mask, on_directory.inode) == (2, 0x200, directory.inode)
    assert (on_file.path, on_directory.path) == (file.path, directory.path)
    assert on_file.handle
    assert on_file.handle != on_directory.handle
    assert seen.missing("inotify") == []
    assert [what for what, _ in seen.missing("inotify_unread")] == ["events of it"]


# ---- sockets -----------------------------------------------------------------------------------------------------


def test_unix_streams(seen: Seen) -> None:
    stream, peer = seen.socket("stream"), seen.socket("stream_peer")
    assert (stream.family, stream.type, stream.state) == (socket.AF_UNIX, socket.SOCK_STREAM, "established")
    assert (stream.queue, peer.queue) == ([b"bytes of a stream"], [])
    assert stream.peer_inode == seen.file("stream_peer").inode
    assert peer.peer_inode == seen.file("stream").inode
    assert (stream.shutdown, peer.shutdown) == (2, 1)
    assert (stream.local, stream.peer) == ("", "")
    assert stream.options["so_rcvlowat"] == 4
    assert stream.options["so_rcvtimeo_us"] == 3_252_000, "the kernel rounds it to its ticks"
    assert stream.options["so_peek_off"] == -1
    assert stream.options["so_peercred_pid"] == seen.pid
    assert (seen.file("stream").owner, seen.file("stream").owner_signal) == (seen.pid, 44)
    assert seen.missing("stream") == []


def test_queues_that_cannot_be_seen_whole(seen: Seen) -> None:
    assert seen.socket("credentials").queue == [b"with credentials"]
    assert seen.socket("credentials").options["so_passcred"] == 1
    assert seen.missing("credentials") == []
    ((what, reason),) = seen.missing("passing")
    assert what == "queued messages of it"
    assert "sent along" in reason
    ((what, reason),) = seen.missing("peeking")
    assert what == "queued messages of it"
    assert "SO_PEEK_OFF" in reason


def test_messages_of_unix_sockets(seen: Seen) -> None:
    assert seen.socket("packet").queue == [b"one message, whole"]
    assert seen.missing("packet") == []
    assert seen.socket("datagram").queue == [b"a datagram"]
    assert seen.socket("datagram").state == "established"
    assert seen.missing("datagram") == []
    for name in ("packets", "datagrams"):
        assert seen.socket(name).queue == [b"first"]
        assert [what for what, _ in seen.missing(name)] == ["queued messages of it"], name


def test_listening_unix_sockets(seen: Seen) -> None:
    listener = seen.socket("listener")
    assert (listener.state, listener.backlog, listener.local) == ("listen", 5, "socket")
    assert listener.local_sockaddr == struct.pack("=H", socket.AF_UNIX) + b"socket\0"
    assert seen.missing("listener") == []
    abstract = seen.socket("abstract")
    assert (abstract.state, abstract.backlog) == ("listen", 9)
    assert abstract.local == f"@predump-test-{seen.pid}"
    ((what, reason),) = seen.missing("abstract")
    assert (what, reason) == ("it", "1 connections waiting to be accepted are not captured")
    assert seen.socket("waiting").peer == abstract.local


def test_listening_tcp_sockets(seen: Seen) -> None:
    tcp = seen.socket("tcp")
    assert (tcp.family, tcp.type, tcp.protocol) == (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    assert (tcp.state, tcp.backlog) == ("listen", 17)
    (port,) = struct.unpack_from("!H", tcp.local_sockaddr, 2)
    assert (tcp.local, tcp.peer) == (f"127.0.0.1:{port}", "")
    assert tcp.options["so_reuseaddr"] == 1
    assert seen.missing("tcp") == []
    tcp6 = seen.socket("tcp6")
    assert (tcp6.state, tcp6.backlog, tcp6.options["ipv6_v6only"]) == ("listen", 3, 1)
    assert tcp6.local.startswith("[::1]:")
    ((_, reason),) = seen.missing("tcp6")
    assert "1 connections waiting" in reason


def test_tcp_connections(seen: Seen) -> None:
    client, server = seen.socket("client"), seen.socket("server")
    assert (client.state, server.state) == ("established", "established")
    assert (client.local, client.peer) == (server.peer, server.local)
    assert (client.shutdown, client.backlog) == (0, 0)
    assert (client.options["tcp_nodelay"], client.options["tcp_keepidle"], client.options["so_linger"]) == (1, 123, 6)
    assert server.options["so_linger"] == -1
    assert client.congestion_control
    ((what, reason),) = seen.missing("server")
    assert what == "it"
    assert "established; 6 bytes received" in reason


def test_udp_sockets(seen: Seen) -> None:
    udp, full = seen.socket("udp"), seen.socket("udp_full")
    assert (udp.type, udp.protocol, udp.state) == (socket.SOCK_DGRAM, socket.IPPROTO_UDP, "established")
    assert (full.state, udp.peer) == ("unconnected", full.local)
    assert udp.options["so_broadcast"] == 1
    assert seen.missing("udp") == []
    assert [what for what, _ in seen.missing("udp_full")] == ["queued messages of it"]


# ---- locks, and what is missing ----------------------------------------------------------------------------------


def test_locks(seen: Seen) -> None:
    by_fd = {lock.fd: lock for lock in seen.records.locks[seen.pid]}
    expected = {
        "flocked": ("flock", "write", 0, -1),
        "posix": ("posix", "write", 10, 19),
        "ofd": ("ofd", "read", 5, -1),
        "leased": ("lease", "read", 0, -1),
    }
    for name, (kind, mode, start, end) in expected.items():
        fd = seen.named[name]
        assert by_fd.pop(fd) == FileLock(fd=fd, kind=kind, mode=mode, start=start, end=end)
    assert by_fd == {}
    assert seen.file("leased").owner_signal == 45
    assert seen.records.locks[seen.child] == []


def test_kinds_that_are_not_captured_are_named(seen: Seen) -> None:
    if "io_uring" not in seen.named:
        pytest.skip("the kernel has no io_uring for us")
    assert seen.file("io_uring").kind is OpenFileKind.OTHER
    assert seen.missing("io_uring") == [("it", "files of this kind are not captured")]


def test_nothing_else_is_missing(seen: Seen) -> None:
    named = ("unread_fifo", "strange_epoll", "inotify_unread", "passing", "peeking", "packets", "datagrams", "abstract")
    named += ("tcp6", "client", "server", "caller6", "udp_full", "io_uring")
    labels = tuple(f"descriptor {seen.named[name]} (" for name in named if name in seen.named)
    labels += ("writes of io_uring in the freeze",)
    assert [item for item in seen.records.missing[seen.pid] if not any(label in item.what for label in labels)] == []
    assert seen.records.missing[seen.child] == []


def test_what_can_be_foreseen(seen: Seen, target: harness.Target) -> None:
    with DescriptorCapture() as descriptors, Target(target.pid) as process:
        foreseen = descriptors.foresee(process)
    names = ["client", "server", "caller6", *(["io_uring"] if "io_uring" in seen.named else [])]
    assert [item.what.split(" (")[0] for item in foreseen] == [f"descriptor {seen.named[name]}" for name in names]


# ---- harmlessness ------------------------------------------------------------------------------------------------


def test_no_copy_is_held_after_reading(captured: Seen) -> None:
    assert captured.left_open == set()


def test_what_is_opened_for_its_content_is_not_shared_with_the_target(captured: Seen, target: harness.Target) -> None:
    """The target's offset and locks are its own: each content is read through a description of ours."""
    assert set(captured.object_ids.values()) == {content[2] for content in captured.contents.values()}
    fdinfo = Path(f"/proc/{target.pid}/fdinfo/{captured.named['deleted']}").read_text()
    assert "pos:\t5\n" in fdinfo


# ---- all together ------------------------------------------------------------------------------------------------


def test_the_target_has_every_kind_of_file(captured: Seen) -> None:
    kinds = {one.kind for one in captured.records.open_files}
    assert kinds | {OpenFileKind.OTHER} == set(OpenFileKind)
