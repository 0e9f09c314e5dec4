"""Questions to a copy of a descriptor that change nothing: ioctl(2), fcntl(2)."""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

FIONREAD = 0x541B  # include/uapi/asm-generic/ioctls.h
F_GETSIG = 11  # fcntl(2)

_INT = struct.Struct("i")


def query_int(fd: int, request: int) -> int:
    """The int that an ioctl answers with. Raises OSError: ENOTTY if it does not know the request."""
    (value,) = _INT.unpack(fcntl.ioctl(fd, request, bytes(_INT.size)))
    return int(value)


def query_bytes(fd: int, request: int, size: int) -> bytes:
    """The struct that an ioctl answers with. Raises OSError: ENOTTY if it does not know the request."""
    return fcntl.ioctl(fd, request, bytes(size))


def owner(fd: int) -> tuple[int, int]:
    """Who gets signals of the description (negative for a group, 0 nobody) and which (0: SIGIO). Raises OSError."""
    return fcntl.fcntl(fd, fcntl.F_GETOWN), fcntl.fcntl(fd, F_GETSIG)


@contextmanager
def query_fd(fd: int, request: int) -> Iterator[int]:
    """The descriptor that an ioctl answers with, closed at the end. Raises OSError."""
    answer = fcntl.ioctl(fd, request)
    try:
        yield answer
    finally:
        os.close(answer)
