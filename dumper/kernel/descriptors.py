"""Descriptors of kinds that Python does not make: openat2(2), timerfd, signalfd, inotify, epoll, file handles.

All of them are close-on-exec.
"""

import os
from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from dumper.kernel.native import checked, ffi, lib

RESOLVE_NO_SYMLINKS = 0x04  # openat2(2)
CLONE_FS, CLONE_FILES = 0x200, 0x400  # unshare(2)
EPOLL_CTL_ADD, EPOLL_CTL_MOD = 1, 3

Result = TypeVar("Result")


def open_path(path: str, flags: int, resolve: int = 0) -> int:
    """openat2(2), which adds no flag of its own (open(2) adds O_LARGEFILE); raises OSError."""
    return checked(lib.pd_open_path(os.fsencode(path), flags | os.O_CLOEXEC, resolve))


def open_handle(mount_fd: int, kind: int, handle: bytes, flags: int) -> int:
    """The file that `handle`, of type `kind`, stands for on the mount of `mount_fd`: open_by_handle_at(2).

    Raises OSError: ESTALE if there is none, EPERM without CAP_DAC_READ_SEARCH.
    """
    return checked(lib.pd_open_handle(mount_fd, kind, ffi.from_buffer(handle), len(handle), flags | os.O_CLOEXEC))


def make_timerfd(clock: int, flags: int) -> int:
    """timerfd_create(2); raises OSError."""
    return checked(lib.pd_make_timerfd(clock, flags | os.O_CLOEXEC))


def set_timerfd(fd: int, flags: int, value_ns: int, interval_ns: int) -> None:
    """timerfd_settime(2); raises OSError."""
    checked(lib.pd_set_timerfd(fd, flags, value_ns, interval_ns))


def set_timerfd_ticks(fd: int, ticks: int) -> None:
    """How many expirations a read will tell. Raises OSError: ENOTTY if the kernel does not let it be set."""
    checked(lib.pd_set_timerfd_ticks(fd, ticks))


def make_signalfd(mask: int, flags: int) -> int:
    """signalfd(2), bit n-1 of `mask` for signal n; raises OSError."""
    return checked(lib.pd_make_signalfd(mask, flags | os.O_CLOEXEC))


def make_inotify(flags: int) -> int:
    """inotify_init1(2); raises OSError."""
    return checked(lib.pd_make_inotify(flags | os.O_CLOEXEC))


def add_inotify_watch(fd: int, wd: int, path: str, mask: int) -> int:
    """inotify_add_watch(2) with `wd` as the wanted number; the number it got. Raises OSError."""
    return checked(lib.pd_add_inotify_watch(fd, wd, os.fsencode(path), mask))


def make_epoll(flags: int) -> int:
    """epoll_create1(2); raises OSError."""
    return checked(lib.pd_make_epoll(flags | os.O_CLOEXEC))


def set_epoll_watch(epoll_fd: int, operation: int, fd: int, events: int, data: int) -> None:
    """epoll_ctl(2), with all 64 bits of `data`; raises OSError."""
    checked(lib.pd_set_epoll_watch(epoll_fd, operation, fd, events, data))


def take_epoll_event(epoll_fd: int) -> int | None:
    """The data of an event that is reported now, if there is one: epoll_wait(2). Raises OSError."""
    data = ffi.new("uint64_t *")
    return int(data[0]) if checked(lib.pd_take_epoll_event(epoll_fd, data)) else None


def apart(what: int, work: Callable[[], Result]) -> Result:
    """What `work` returns, done by a thread with a table of descriptors (CLONE_FILES) or directories (CLONE_FS) apart.

    Raises what `work` raises, and OSError.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            checked(lib.pd_unshare(what))
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
