"""Records of open files, made of what was gathered in the freeze."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from dumper.filesystems import device_name
from dumper.proc import fdinfo
from dumper.proc.stat import parse_controlled_terminal
from dumper.state.filekinds import is_path_only, known_problem
from dumper.state.found import FoundDescriptor, FoundFile, Key
from dumper.state.notes import Notes
from dumper.state.pipes import PipeCapture
from dumper.state.terminals import terminal_record
from dumper.state.watchedpaths import WatchedPaths
from formats.manifest import Missing
from formats.openfiles import (
    EpollWatch,
    Eventfd,
    InotifyWatch,
    OpenFile,
    OpenFileKind,
    Pipe,
    Socket,
    Timerfd,
)
from formats.processstate import Descriptor, FileLock

SocketRecords = Mapping[int, tuple[Socket, Notes]]


@dataclass(slots=True)
class Gathered:
    """What was found in the freeze: open files, what is missing of each process, texts of /proc/PID/stat.

    general: what is missing of all descriptors.
    """

    notes: dict[int, Notes]
    files: list[FoundFile]
    stats: list[bytes] = field(default_factory=list)
    general: str = ""


@dataclass(frozen=True, slots=True)
class DescriptorRecords:
    """Open files and pipes of a round; descriptors, locks, and what is missing by process."""

    open_files: list[OpenFile]
    pipes: list[Pipe]
    descriptors: dict[int, list[Descriptor]]
    locks: dict[int, list[FileLock]]
    missing: dict[int, list[Missing]]


def make_records(
    gathered: Gathered, pipes: PipeCapture, sockets: SocketRecords, object_ids: Mapping[Key, int]
) -> DescriptorRecords:
    """All records. What is missing of an open file is noted with the first process that has it."""
    maker = _OpenFileMaker(gathered, pipes, sockets, object_ids)
    open_files = [maker.record(number, one) for number, one in enumerate(gathered.files, 1)]
    descriptors: dict[int, list[Descriptor]] = {pid: [] for pid in gathered.notes}
    for number, one in enumerate(gathered.files, 1):
        for descriptor in one.descriptors:
            close_on_exec = bool(descriptor.flags & os.O_CLOEXEC)
            descriptors[descriptor.pid].append(
                Descriptor(fd=descriptor.fd, open_file=number, close_on_exec=close_on_exec)
            )
    for of_process in descriptors.values():
        of_process.sort(key=lambda descriptor: descriptor.fd)
    if gathered.general:
        for notes in gathered.notes.values():
            notes.add("open file descriptions", gathered.general)
    locks = _locks(gathered)
    return DescriptorRecords(
        open_files=open_files,
        pipes=pipes.records(),
        descriptors=descriptors,
        locks=locks,
        missing={pid: notes.missing() for pid, notes in gathered.notes.items()},
    )


def _locks(gathered: Gathered) -> dict[int, list[FileLock]]:
    """Each lock of a process once: a POSIX lock is seen through all descriptors of the file, the others through all of
    the open file description.
    """
    found: dict[int, list[FileLock]] = {pid: [] for pid in gathered.notes}
    seen = set()
    for number, one in enumerate(gathered.files, 1):
        for descriptor in one.descriptors:
            if b"lock:" not in descriptor.fdinfo:
                continue
            notes = gathered.notes[descriptor.pid]
            parse = partial(fdinfo.parse_locks, descriptor.fdinfo)
            none: list[fdinfo.Lock] = []
            locks = notes.attempt(f"locks of {descriptor.label}", parse, none)
            for lock in locks:
                of_what = descriptor.key if lock.kind == "posix" else number
                key = (descriptor.pid, of_what, lock)
                if key not in seen:
                    seen.add(key)
                    found[descriptor.pid].append(
                        FileLock(fd=descriptor.fd, kind=lock.kind, mode=lock.mode, start=lock.start, end=lock.end)
                    )
    return found


def _device(device: int) -> str:
    """As records have it, of a device as the kernel keeps it."""
    return device_name(os.makedev(*fdinfo.device_numbers(device)))


def _eventfd(text: bytes) -> Eventfd:
    count, semaphore = fdinfo.parse_eventfd(text)
    return Eventfd(count=count, semaphore=semaphore)


def _epoll(text: bytes) -> list[EpollWatch]:
    return [
        EpollWatch(fd=one.fd, events=one.events, data=one.data, device=_device(one.device), inode=one.inode)
        for one in fdinfo.parse_epoll(text)
    ]


def _timerfd(text: bytes) -> Timerfd:
    one = fdinfo.parse_timerfd(text)
    return Timerfd(
        clock=one.clock,
        ticks=one.ticks,
        flags=one.flags,
        remaining_ns=one.remaining_ns,
        interval_ns=one.interval_ns,
    )


def _inotify(text: bytes, tid: int, paths: WatchedPaths) -> list[InotifyWatch]:
    return [
        InotifyWatch(
            wd=one.wd,
            mask=one.mask,
            device=_device(one.device),
            inode=one.inode,
            handle_type=one.handle_type,
            handle=one.handle,
            path=paths.of(tid, _device(one.device), one.inode, one.handle_type, one.handle),
        )
        for one in fdinfo.parse_inotify(text)
    ]


class _OpenFileMaker:
    def __init__(
        self, gathered: Gathered, pipes: PipeCapture, sockets: SocketRecords, object_ids: Mapping[Key, int]
    ) -> None:
        self._gathered = gathered
        self._pipes = pipes
        self._sockets = sockets
        self._object_ids = object_ids
        self._watched = WatchedPaths()
        self._controlled = dict(filter(None, map(parse_controlled_terminal, gathered.stats)))
        self._keys = {(d.pid, d.fd): d.key for one in gathered.files for d in one.descriptors}
        n_open = Counter(one.first.key for one in gathered.files)
        self._open_once = {(device_name(key[0]), key[1]) for key, number in n_open.items() if number == 1}

    def record(self, number: int, one: FoundFile) -> OpenFile:
        """The record of one open file; what is missing of it goes to the notes of its first process."""
        first, raw = one.first, one.first.raw
        notes = self._gathered.notes[first.pid]
        info = notes.attempt(f"offset and flags of {first.label}", lambda: first.info, fdinfo.FdInfo(0, 0, 0))
        special = device_name(os.makedev(raw.special_major, raw.special_minor))
        has_special = one.kind in (OpenFileKind.DEVICE, OpenFileKind.TERMINAL)
        owner, owner_signal = one.owner
        found = OpenFile(
            id=number,
            kind=one.kind,
            path=one.path,
            deleted=one.deleted,
            flags=info.flags & ~os.O_CLOEXEC,
            offset=info.offset,
            device=device_name(first.key[0]),
            inode=raw.inode,
            mode=raw.mode,
            size_bytes=raw.size_bytes,
            mount_id=info.mount_id,
            mtime_ns=raw.mtime_ns if one.kind is OpenFileKind.FILE else 0,
            special=special if has_special else "",
            owner=owner,
            owner_signal=owner_signal,
            object=self._object_ids.get(first.key) if one.kind in (OpenFileKind.FILE, OpenFileKind.MEMFD) else None,
        )
        if not is_path_only(info.flags):
            found = self._with_details(found, one, notes)
        problem = known_problem(one.kind, raw, first.link, info.flags) or one.problem
        if problem:
            notes.add(first.label, problem)
        if one.content_problem:
            notes.add(f"content of {first.label}", one.content_problem)
        return found

    def _with_details(self, found: OpenFile, one: FoundFile, notes: Notes) -> OpenFile:
        """The record with what the kind of the file has of its own."""
        first, text = one.first, one.first.fdinfo
        what = f"state of {first.label}"
        match one.kind:
            case OpenFileKind.EVENTFD:
                return replace(found, eventfd=notes.attempt(what, lambda: _eventfd(text), None))
            case OpenFileKind.EPOLL:
                watches = notes.attempt(what, lambda: _epoll(text), None)
                self._note_strange_watches(one, watches or [], notes)
                return replace(found, epoll=watches)
            case OpenFileKind.TIMERFD:
                return replace(found, timerfd=notes.attempt(what, lambda: _timerfd(text), None))
            case OpenFileKind.SIGNALFD:
                return replace(found, signalfd_mask=notes.attempt(what, lambda: fdinfo.parse_signalfd(text), None))
            case OpenFileKind.INOTIFY:
                inotify = notes.attempt(what, lambda: _inotify(text, first.tid, self._watched), None)
                if one.unread_bytes:
                    notes.add(f"events of {first.label}", "those not read yet are not captured")
                return replace(found, inotify=inotify)
            case OpenFileKind.PIDFD:
                return replace(found, pid=notes.attempt(what, lambda: fdinfo.parse_pidfd(text), None))
            case OpenFileKind.PIPE | OpenFileKind.FIFO:
                self._pipes.note(first.key, notes)
            case OpenFileKind.TERMINAL if one.terminal:
                named = Notes()
                terminal = terminal_record(one.terminal, self._controlled, named)
                _add_named(named, first, notes)
                return replace(found, terminal=terminal)
            case OpenFileKind.SOCKET if first.raw.inode in self._sockets:
                socket, named = self._sockets[first.raw.inode]
                _add_named(named, first, notes)
                return replace(found, socket=socket)
        return found

    def _note_strange_watches(self, one: FoundFile, watches: list[EpollWatch], notes: Notes) -> None:
        """A watch outlives its descriptor where the file is still open elsewhere, perhaps more than once."""
        for watch in watches:
            if (watch.device, watch.inode) in self._open_once:
                continue
            known = [self._keys.get((holder.pid, watch.fd)) for holder in one.descriptors]
            if not any(key and (device_name(key[0]), key[1]) == (watch.device, watch.inode) for key in known):
                notes.add(
                    f"watch of {one.first.label} on descriptor {watch.fd}",
                    "it was made with a descriptor that has been closed since, and it is not known of which open file",
                )


def _add_named(named: Notes, first: FoundDescriptor, notes: Notes) -> None:
    """Notes in which {} stands for the descriptor."""
    for item in named.missing():
        notes.add(item.what.replace("{}", first.label), item.reason)
