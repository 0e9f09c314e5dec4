"""Open files of a process that is put back: they must be the same; offsets, flags and counts go back."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from dumper.kernel.probes import pidfd_getfd
from dumper.kernel.remote import Sys
from formats.openfiles import EpollWatch, Eventfd, OpenFile, OpenFileKind, Pipe, Timerfd
from formats.processstate import Descriptor
from restorer.rewind.findings import Findings
from restorer.rewind.guarded import GuardedProcess

SEEKABLE = frozenset((OpenFileKind.FILE, OpenFileKind.DIRECTORY, OpenFileKind.MEMFD))
ANONYMOUS = frozenset((OpenFileKind.EVENTFD, OpenFileKind.EPOLL, OpenFileKind.TIMERFD, OpenFileKind.SIGNALFD))
SETTABLE_FLAGS = os.O_APPEND | os.O_NONBLOCK | os.O_ASYNC | os.O_DIRECT | os.O_NOATIME  # F_SETFL: fcntl(2)
TFD_TIMER_ABSTIME, TFD_IOC_SET_TICKS = 1, 0x40085400  # include/uapi/linux/timerfd.h
NS = 1_000_000_000
MAX_SEMAPHORE_STEPS = 1 << 16
EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD = 1, 2, 3


@dataclass(frozen=True, slots=True)
class FileSet:
    """Open files by id, and the descriptors of one process."""

    files: dict[int, OpenFile]
    descriptors: dict[int, Descriptor]
    pipes: dict[tuple[str, int], Pipe]

    @classmethod
    def of(cls, files: Sequence[OpenFile], pipes: Sequence[Pipe], descriptors: Sequence[Descriptor]) -> FileSet:
        """From records."""
        return cls(
            {one.id: one for one in files},
            {one.fd: one for one in descriptors},
            {(pipe.device, pipe.inode): pipe for pipe in pipes},
        )

    def at(self, fd: int) -> OpenFile:
        """What is open there."""
        return self.files[self.descriptors[fd].open_file]

    def with_file(self, fd: int, one: OpenFile) -> FileSet:
        """The same, but for what is open there."""
        number = self.descriptors[fd].open_file
        return replace(self, files={**self.files, number: replace(one, id=number)})

    def first_fds(self) -> dict[int, int]:
        """For each descriptor, the lowest one that shares its open file description."""
        first: dict[int, int] = {}
        return {fd: first.setdefault(one.open_file, fd) for fd, one in sorted(self.descriptors.items())}


def compare_files(now: FileSet, then: FileSet, findings: Findings) -> None:
    """The same files must be open as the same descriptors; what of them is left as it is."""
    for fd in sorted(now.descriptors.keys() | then.descriptors.keys()):
        if fd not in then.descriptors:
            findings.obstacles.append(f"descriptor {fd} ({now.at(fd).path}) was not open then")
        elif fd not in now.descriptors:
            findings.obstacles.append(f"descriptor {fd} ({then.at(fd).path}) has been closed since")
        elif _identity(now.at(fd)) != _identity(then.at(fd)):
            findings.obstacles.append(f"descriptor {fd} is {now.at(fd).path} now, and was {then.at(fd).path}")
        else:
            _compare_one(fd, now, then, findings)
    if not findings.obstacles and now.first_fds() != then.first_fds():
        findings.obstacles.append("descriptors do not share open files as they did")


def _identity(one: OpenFile) -> tuple[object, ...]:
    if one.kind in ANONYMOUS:
        return (one.kind,)
    return one.kind, one.device, one.inode, one.special, one.flags & os.O_ACCMODE


def _compare_one(fd: int, now: FileSet, then: FileSet, findings: Findings) -> None:
    one, was = now.at(fd), then.at(fd)
    changed = {
        "flags": (one.flags ^ was.flags) & ~SETTABLE_FLAGS,
        "size": one.kind is OpenFileKind.FILE and one.object is None and one.size_bytes != was.size_bytes,
        "mask of signals": one.signalfd_mask != was.signalfd_mask,
        "watches": one.inotify != was.inotify,
        "count": _is_far(one.eventfd, was.eventfd),
        "settings": one.terminal != was.terminal,
        "owner": (one.owner, one.owner_signal) != (was.owner, was.owner_signal),
        "state": one.socket != was.socket,
    }
    if one.kind in (OpenFileKind.PIPE, OpenFileKind.FIFO):
        changed["content"] = now.pipes.get((one.device, one.inode)) != then.pipes.get((was.device, was.inode))
    findings.left += [f"{what} of descriptor {fd} ({one.path})" for what, differs in changed.items() if differs]


def movable(now: OpenFile, then: OpenFile) -> bool:
    """Whether something of the open file itself is not as it was, and would be put back."""
    settable = (now.flags ^ then.flags) & SETTABLE_FLAGS
    offset = now.kind in SEEKABLE and now.offset != then.offset
    return bool(settable or offset or (now.eventfd, now.timerfd, now.epoll) != (then.eventfd, then.timerfd, then.epoll))


def set_files(process: GuardedProcess, now: FileSet, then: FileSet, undo: ExitStack) -> None:
    """What goes back of files that are the same. Raises OSError, with what came before to be undone."""
    firsts = sorted(set(now.first_fds().values()))
    for fd in firsts:
        one, was = now.at(fd), then.at(fd)
        if movable(one, was):
            undo.callback(_set_file, process, fd, was, one)
            _set_file(process, fd, one, was)
    for fd, descriptor in sorted(now.descriptors.items()):
        close_on_exec = then.descriptors[fd].close_on_exec
        if descriptor.close_on_exec != close_on_exec:
            undo.callback(process.call, Sys.FCNTL, fd, fcntl.F_SETFD, int(descriptor.close_on_exec))
            process.call(Sys.FCNTL, fd, fcntl.F_SETFD, int(close_on_exec))


def _set_file(process: GuardedProcess, fd: int, now: OpenFile, then: OpenFile) -> None:
    """Takes it from one state to the other. Raises OSError."""
    if now.epoll != then.epoll:
        _set_watches(process, fd, now.epoll or [], then.epoll or [])
    with _copy(process, fd) as copy_fd:
        if now.kind in SEEKABLE and now.offset != then.offset:
            os.lseek(copy_fd, then.offset, os.SEEK_SET)
        if (now.flags ^ then.flags) & SETTABLE_FLAGS:
            fcntl.fcntl(copy_fd, fcntl.F_SETFL, then.flags & SETTABLE_FLAGS)
        if now.eventfd and then.eventfd:
            _set_eventfd(copy_fd, now.eventfd, then.eventfd)
        if then.timerfd and now.timerfd != then.timerfd:
            _set_timerfd(process, fd, copy_fd, then.timerfd)


@contextmanager
def _copy(process: GuardedProcess, fd: int) -> Iterator[int]:
    """A descriptor of ours for what the process has open. Raises OSError."""
    copy_fd = pidfd_getfd(process.target.files_pidfd, fd)
    try:
        yield copy_fd
    finally:
        os.close(copy_fd)


def _is_far(now: Eventfd | None, then: Eventfd | None) -> bool:
    """Whether a semaphore would have to be taken too many times: one at a time is all that it gives."""
    return bool(now and then and now.semaphore and now.count - then.count > MAX_SEMAPHORE_STEPS)


def _set_eventfd(fd: int, now: Eventfd, then: Eventfd) -> None:
    if now.count == then.count or _is_far(now, then):
        return
    missing = then.count - now.count
    if missing < 0:
        for _ in range(-missing if now.semaphore else 1):
            os.read(fd, 8)
        missing = 0 if now.semaphore else then.count
    if missing:
        os.write(fd, struct.pack("Q", missing))


def _set_timerfd(process: GuardedProcess, fd: int, copy_fd: int, then: Timerfd) -> None:
    setting = struct.pack("4q", *divmod(then.interval_ns, NS), *divmod(then.remaining_ns, NS))
    process.call(Sys.TIMERFD_SETTIME, fd, then.flags & ~TFD_TIMER_ABSTIME, process.put(setting), 0)
    if then.ticks:
        fcntl.ioctl(copy_fd, TFD_IOC_SET_TICKS, struct.pack("Q", then.ticks))


def _set_watches(process: GuardedProcess, fd: int, now: Sequence[EpollWatch], then: Sequence[EpollWatch]) -> None:
    before = {(one.fd, one.device, one.inode): one for one in now}
    after = {(one.fd, one.device, one.inode): one for one in then}
    for key in before.keys() - after.keys():
        process.call(Sys.EPOLL_CTL, fd, EPOLL_CTL_DEL, key[0], 0)
    for key, one in after.items():
        if before.get(key) == one:
            continue
        event_addr = process.put(struct.pack("=IQ", one.events, one.data))  # struct epoll_event, which is packed
        operation = EPOLL_CTL_MOD if key in before else EPOLL_CTL_ADD
        process.call(Sys.EPOLL_CTL, fd, operation, one.fd, event_addr)
