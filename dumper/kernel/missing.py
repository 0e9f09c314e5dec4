"""Pages that are brought when they are asked for: userfaultfd(2) in missing mode, and the sentinel over their users."""

import os
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from dumper.kernel.native import checked, ffi, lib
from formats.files import Buffer

_MESSAGE = struct.Struct("<B7xQQQ")  # struct uffd_msg: include/uapi/linux/userfaultfd.h
_MESSAGES_AT_ONCE = 64
_PAGE_FAULT, _FORK, _REMAP, _REMOVE, _UNMAP = 0x12, 0x13, 0x14, 0x15, 0x16


class Event(IntFlag):
    """UFFD_FEATURE_EVENT_*: the process waits until we have read of it."""

    FORK = 1 << 1
    REMAP = 1 << 2
    REMOVE = 1 << 3
    UNMAP = 1 << 6


ALL_EVENTS = Event.FORK | Event.REMAP | Event.REMOVE | Event.UNMAP


@dataclass(frozen=True, slots=True)
class Fault:
    """Somebody waits for the page at `addr`."""

    addr: int


@dataclass(frozen=True, slots=True)
class Forked:
    """A child has a copy of the memory; what it misses is asked for at `uffd`."""

    uffd: int


@dataclass(frozen=True, slots=True)
class Moved:
    """mremap(2): pages and faults of the range are elsewhere from now on."""

    from_addr: int
    to_addr: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """munmap(2), or madvise(2): what was in the range is zeros now, or not mapped."""

    start_addr: int
    end_addr: int


Message = Fault | Forked | Moved | Dropped


def read_messages(uffd: int) -> Iterator[Message]:
    """What there is to say now; `uffd` does not block. Raises OSError: its process has ended."""
    try:
        content = os.read(uffd, _MESSAGE.size * _MESSAGES_AT_ONCE)
    except BlockingIOError:
        return
    for kind, first, second, third in _MESSAGE.iter_unpack(content):
        if kind == _PAGE_FAULT:
            yield Fault(second)
        elif kind == _FORK:
            yield Forked(first & 0xFFFFFFFF)
        elif kind == _REMAP:
            yield Moved(first, second, third)
        elif kind in (_REMOVE, _UNMAP):
            yield Dropped(first, second)


def watch(uffd: int, start_addr: int, end_addr: int) -> None:
    """Have faults on missing pages of a range told. Raises OSError: EINVAL where that is not to be had."""
    checked(lib.pd_uffd_watch(uffd, start_addr, end_addr))


def copy(uffd: int, addr: int, content: Buffer) -> int:
    """Bring whole pages, but for those that are there or mapped no more; how many bytes are done. Wakes nobody.

    Raises BlockingIOError if messages are to be read first, ProcessLookupError if the memory is gone, OSError.
    """
    data = ffi.from_buffer(content)
    return checked(lib.pd_uffd_copy(uffd, addr, data, len(data), lib.PD_UFFD_COPY_DONTWAKE))


def zero(uffd: int, addr: int, n_bytes: int) -> None:
    """Bring zeros; as `copy`."""
    checked(lib.pd_uffd_zero(uffd, addr, n_bytes))


def wake(uffd: int, addr: int, n_bytes: int) -> None:
    """Who waits for pages of a range looks for them again. Raises OSError."""
    checked(lib.pd_uffd_wake(uffd, addr, n_bytes))


class Sentinel:
    """A process that kills others when this one ends without having said that it may.

    It has our descriptors as its own, so that a userfaultfd stays open until then: with its last descriptor the kernel
    would give zeros to who waits.
    """

    def __init__(self) -> None:
        """Raises OSError."""
        self._memory: Any = lib.pd_sentinel_memory()
        self.pid = checked(lib.pd_sentinel_start(self._memory))

    def add(self, pid: int) -> None:
        """A process that must not live on without us. Raises OSError: ENOSPC."""
        checked(lib.pd_sentinel_add(self._memory, pid))

    def see_to(self) -> None:
        """Start it again if somebody has killed it. Raises OSError."""
        if os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = checked(lib.pd_sentinel_start(self._memory))

    def end(self) -> None:
        """Nobody needs it any more."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
