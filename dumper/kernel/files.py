"""Open files of stopped processes, as raw as the kernel tells them: proc_pid_fd(5), kcmp(2), getsockopt(2).

All of it is made for the freeze: buffers are allocated before it, and what was read is looked at after it.
"""

import errno
import os
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from dumper.kernel.native import checked, ffi, lib, new_array

_STATUS = struct.Struct("<iii6I4xQQQ")
_SOCKET = struct.Struct("<10iQ")
_REF = struct.Struct("<iiII")
_OPTION_HEADER = struct.Struct("<iiii")
_OPTION_BYTES = _OPTION_HEADER.size + lib.PD_OPTION_BYTES
_KCMP_FILE = 0

MSG_CTRUNC, MSG_TRUNC = 0x08, 0x20  # recv(2)


class RawFile(NamedTuple):
    """What /proc says of a descriptor; `*_bytes` and `stat_result` are -errno where it does not, the rest is 0 then."""

    link_bytes: int
    fdinfo_bytes: int
    stat_result: int
    mode: int
    n_links: int
    device_major: int
    device_minor: int
    special_major: int
    special_minor: int
    inode: int
    size_bytes: int
    mtime_ns: int


class FileReader:
    """Reads what /proc says of descriptors, one after the other."""

    def __init__(self) -> None:
        self._file: Any = ffi.new("struct pd_open_file *")
        self._status = ffi.buffer(ffi.cast("uint8_t *", self._file), _STATUS.size)
        self._link = ffi.buffer(self._file.link)
        self._fdinfo = ffi.buffer(self._file.fdinfo)

    def read(self, fd_dir: int, fdinfo_dir: int, fd: int) -> tuple[RawFile, bytes, bytes] | None:
        """Status, link and fdinfo, through the directories /proc/PID/fd and fdinfo; None: no such descriptor."""
        if lib.pd_read_open_file(fd_dir, fdinfo_dir, fd, self._file) < 0:
            return None
        raw = RawFile._make(_STATUS.unpack(self._status))
        return raw, self._link[: max(0, raw.link_bytes)], self._fdinfo[: max(0, raw.fdinfo_bytes)]


class Shared(IntEnum):
    """What threads can share: kcmp(2), include/uapi/linux/kcmp.h."""

    MEMORY = 1
    DESCRIPTORS = 2
    DIRECTORIES = 3
    HANDLERS = 4


def _numbers(refs: Sequence[tuple[int, int, int]], kcmp_type: int) -> dict[tuple[int, int], int]:
    packed = bytearray(b"".join([_REF.pack(tid, fd, group, 0) for tid, fd, group in refs]))
    checked(lib.pd_order_files(ffi.cast("struct pd_file_ref *", ffi.from_buffer(packed)), len(refs), kcmp_type))
    return {(tid, fd): number for tid, fd, _, number in _REF.iter_unpack(packed)}


def number_descriptions(refs: Sequence[tuple[int, int, int]]) -> dict[tuple[int, int], int]:
    """Which descriptors share an open file description: a number for each (tid, fd), from 1 on.

    refs: (tid, fd, group); only descriptors of one group can share one. Those that the kernel does not compare count
    as different.
    """
    return _numbers(refs, _KCMP_FILE)


def number_sharers(tids: Sequence[int], what: Shared) -> dict[int, int]:
    """Which threads share it: a number for each, from 1 on."""
    return {tid: number for (tid, _), number in _numbers([(tid, 0, 0) for tid in tids], what).items()}


def tells_descriptions_apart() -> bool:
    """Whether the kernel has kcmp(2) (CONFIG_KCMP)."""
    return bool(lib.pd_compare_tables(os.getpid(), os.getpid()) != -errno.ENOSYS)


def share_table(tid: int, other_tid: int) -> bool:
    """Whether both threads use one table of descriptors. Raises OSError: ESRCH, EPERM, ENOSYS."""
    return checked(lib.pd_compare_tables(tid, other_tid)) == 0


class RawSocket(NamedTuple):
    """What sockets of all kinds tell; -1 or -errno where one does not. `cookie`: of its network namespace."""

    domain: int
    type: int
    protocol: int
    listens: int
    in_bytes: int
    out_bytes: int
    local_bytes: int
    peer_bytes: int
    n_filter: int
    events: int
    cookie: int


class SocketReader:
    """Asks sockets, one after the other."""

    def __init__(self, peek_bytes: int) -> None:
        self._socket: Any = ffi.new("struct pd_socket *")
        self._status = ffi.buffer(ffi.cast("uint8_t *", self._socket), _SOCKET.size)
        self._local = ffi.buffer(self._socket.local)
        self._peer = ffi.buffer(self._socket.peer)
        self._peeked: Any = ffi.new("uint8_t[]", peek_bytes)
        self._peek_bytes = peek_bytes
        self._flags: Any = ffi.new("int32_t *")

    def read(self, fd: int) -> tuple[RawSocket, bytes, bytes]:
        """Its state and both addresses (struct sockaddr). Raises OSError: ENOTSOCK."""
        checked(lib.pd_read_socket(fd, self._socket))
        raw = RawSocket._make(_SOCKET.unpack(self._status))
        return raw, self._local[: max(0, raw.local_bytes)], self._peer[: max(0, raw.peer_bytes)]

    def peek(self, fd: int, room_bytes: int, *, credentials: bool) -> tuple[bytes, int, int]:
        """The first message of a queue (of a stream, what lies in it), its whole length, and MSG_* of recvmsg(2).

        The socket must have no SO_PEEK_OFF; `credentials`: it has SO_PASSCRED. MSG_CTRUNC then says that something
        else comes with the message, as a descriptor in flight.

        Raises OSError: EAGAIN if there is none.
        """
        if room_bytes > self._peek_bytes:
            self._peeked = new_array("uint8_t", room_bytes)
            self._peek_bytes = room_bytes
        n_bytes = checked(lib.pd_peek(fd, credentials, self._peeked, self._peek_bytes, self._flags))
        return ffi.buffer(self._peeked, min(n_bytes, self._peek_bytes))[:], n_bytes, self._flags[0]


class OptionReader:
    """Reads a fixed set of socket options, given as (level, name)."""

    def __init__(self, options: Sequence[tuple[int, int]]) -> None:
        self._options: Any = ffi.new("struct pd_option[]", max(1, len(options)))
        self._buffer = ffi.buffer(self._options)
        self._count = len(options)
        for item, (level, name) in zip(self._options, options, strict=False):
            item.level, item.name = level, name

    def read(self, fd: int) -> bytes:
        """All of them, for `option_values`."""
        lib.pd_read_options(fd, self._options, self._count)
        return bytes(self._buffer[:])


def option_values(packed: bytes) -> dict[tuple[int, int], bytes]:
    """What OptionReader read, by (level, name); what the socket refused is left out."""
    found = {}
    for start in range(0, len(packed), _OPTION_BYTES):
        level, name, n_bytes, _ = _OPTION_HEADER.unpack_from(packed, start)
        if n_bytes >= 0:
            value_start = start + _OPTION_HEADER.size
            found[level, name] = packed[value_start : value_start + min(n_bytes, lib.PD_OPTION_BYTES)]
    return found


def join_namespace(namespace_fd: int) -> None:
    """Moves the calling thread, and it alone, into a network or IPC namespace. Raises OSError: EPERM, EINVAL."""
    checked(lib.pd_join_namespace(namespace_fd))


def tee(source_fd: int, into_fd: int, n_bytes: int) -> int:
    """Doubles what lies in a pipe into another one without taking it out: tee(2), which never waits here.

    Raises OSError: EAGAIN if there is nothing, EINVAL if one of them is no pipe.
    """
    return checked(lib.pd_tee(source_fd, into_fd, n_bytes))
