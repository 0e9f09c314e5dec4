"""TCP connections in the kernel's repair mode: net/ipv4/tcp.c, include/uapi/linux/tcp.h.

All of it raises OSError with EPERM for callers without CAP_NET_ADMIN over the network namespace of the socket.
"""

import errno
import struct
from typing import Any, NamedTuple

from dumper.kernel.native import checked, ffi, lib, new_array

STATUS = struct.Struct("<9i3I5I4xQ")
_ROOM_BYTES = 1 << 20
_MAX_ROOM_BYTES = 1 << 30


class RawConnection(NamedTuple):
    """struct pd_tcp of csrc/cdef.h."""

    state: int
    options: int
    send_window_scale: int
    receive_window_scale: int
    mss: int
    has_urgent: int
    received_bytes: int
    unacknowledged_bytes: int
    unsent_bytes: int
    receive_sequence: int
    send_sequence: int
    timestamp: int
    window: tuple[int, int, int, int, int]
    received_ever_bytes: int


def parse_connection(packed: bytes) -> RawConnection:
    """Of STATUS.size bytes."""
    numbers = STATUS.unpack(packed)
    return RawConnection._make((*numbers[:12], numbers[12:17], numbers[17]))


class ConnectionReader:
    """Reads locked connections, one after the other."""

    def __init__(self) -> None:
        self._status: Any = ffi.new("struct pd_tcp *")
        self._room_bytes = _ROOM_BYTES
        self._queues: Any = new_array("uint8_t", self._room_bytes)

    def read(self, fd: int, *, reuse: bool) -> tuple[bytes, bytes]:
        """Its numbers, packed, and both queues, one behind the other. `reuse`: whether it has SO_REUSEADDR.

        Raises OSError: EAGAIN if it changed meanwhile, EBUSY if it has SO_PEEK_OFF.
        """
        n_bytes = self._read(fd, reuse)
        while n_bytes == -errno.ENOBUFS and self._room_bytes < _MAX_ROOM_BYTES:
            self._room_bytes *= 2
            self._queues = new_array("uint8_t", self._room_bytes)
            n_bytes = self._read(fd, reuse)
        checked(n_bytes)
        return ffi.buffer(self._status)[:], ffi.buffer(self._queues, n_bytes)[:]

    def _read(self, fd: int, reuse: bool) -> int:
        return int(lib.pd_tcp_read(fd, reuse, self._status, self._queues, self._room_bytes))


def lock(fd: int) -> None:
    """From now on it takes no segment. Raises OSError: EBUSY if it has a filter, or is in repair mode already."""
    checked(lib.pd_tcp_lock(fd))


def unlock(fd: int, *, reuse: bool) -> None:
    """It goes on as it was, whatever was done to it here."""
    checked(lib.pd_tcp_unlock(fd, reuse))


def silence(fd: int) -> None:
    """Into repair mode: once nobody has it open, it is gone, and its peer is told nothing."""
    checked(lib.pd_tcp_silence(fd))


def is_silent(fd: int) -> bool:
    """Whether it is in repair mode."""
    return checked(lib.pd_tcp_is_silent(fd)) == 1


def is_locked(fd: int) -> bool:
    """Whether it has a filter."""
    return checked(lib.pd_tcp_is_locked(fd)) == 1


def received_ever(fd: int) -> int:
    """How many bytes it has taken from the network since it was made."""
    return checked(lib.pd_tcp_received_ever(fd))
