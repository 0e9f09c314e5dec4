"""The open files of all processes of a dump: gathered while everything stands still, made into records later.

What processes share (offsets, flags, queues) is never changed: most is read from /proc, and where a copy of a
descriptor is needed, it is asked and closed at once, since it would keep the file open.
"""

import errno
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dumper.connections import Connections
from dumper.filesystems import hugetlb_devices
from dumper.kernel import files
from dumper.kernel.probes import pidfd_getfd
from dumper.proc import GONE_ERRORS
from dumper.proc.nettcp import read_connections
from dumper.proc.ttydrivers import read_tty_drivers
from dumper.state.contents import WITH_SERVERS, ContentFinder, MountTypes, OpenContent
from dumper.state.filekinds import DELETED_BYTES, is_path_only, kind_of, known_problem
from dumper.state.found import FoundDescriptor, FoundFile, Key
from dumper.state.notes import Notes
from dumper.state.openfiles import DescriptorRecords, Gathered, make_records
from dumper.state.pipes import PipeCapture
from dumper.state.queries import FIONREAD, owner, query_int
from dumper.state.sockets import CONNECTION_PROBLEM, SocketCapture
from dumper.state.terminals import read_terminal
from dumper.target import Target
from formats.closing import Closing
from formats.manifest import Missing
from formats.openfiles import OpenFileKind

WHOLE_TEXT_BYTES = 1 << 16
# Those that a copy is made of. A copy of a file or device is not harmless: to close it may write to its server, or tell
# its driver to let go of something.
ASKED_KINDS = frozenset(
    (OpenFileKind.PIPE, OpenFileKind.FIFO, OpenFileKind.SOCKET, OpenFileKind.TERMINAL, OpenFileKind.INOTIFY)
)
PIPE_KINDS = frozenset((OpenFileKind.PIPE, OpenFileKind.FIFO))


def _raise_descriptor_limit() -> None:
    """As many descriptors as this process may have: those of deleted files are opened side by side."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(slots=True)
class _Directories:
    """/proc/PID/fd and fdinfo of a live thread, and the numbers in use."""

    fd_dir: int
    fdinfo_dir: int
    numbers: list[int]


@contextmanager
def _directories(target: Target) -> Iterator[_Directories]:
    """Raises OSError: ENOENT if the process is gone, EACCES."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    fd_dir = os.open(f"/proc/{target.tid}/fd", flags)
    try:
        fdinfo_dir = os.open(f"/proc/{target.tid}/fdinfo", flags)
        try:
            yield _Directories(fd_dir, fdinfo_dir, sorted(map(int, os.listdir(fd_dir))))  # noqa: PTH208 - in a stop
        finally:
            os.close(fdinfo_dir)
    finally:
        os.close(fd_dir)


def _read_whole(fdinfo_dir: int, fd: int) -> bytes:
    """A long text of fdinfo: that of an epoll with a thousand entries."""
    text_fd = os.open(str(fd), os.O_RDONLY | os.O_CLOEXEC, dir_fd=fdinfo_dir)
    try:
        text = b""
        while piece := os.read(text_fd, WHOLE_TEXT_BYTES):
            text += piece
        return text
    finally:
        os.close(text_fd)


class DescriptorCapture(Closing):
    """The descriptors of processes. Make it before the freeze; `read` and `contents` in it, `records` after it."""

    def __init__(self, connections: Connections | None = None) -> None:
        """`connections`: takes those of TCP, None if they are not to be captured."""
        _raise_descriptor_limit()
        self._reader = files.FileReader()
        self._terminals = read_tty_drivers()
        self._pipes = PipeCapture()
        self._sockets = SocketCapture(connections)
        self._mount_types = MountTypes()
        self._contents = ContentFinder(self._mount_types, hugetlb_devices(os.getpid()))
        self._gathered = Gathered(notes={}, files=[])
        self._targets: dict[int, Target] = {}
        if not files.tells_descriptions_apart():
            self._gathered.general = "the kernel does not tell which descriptors share an open file (CONFIG_KCMP)"

    # ---- while the processes run -------------------------------------------------------------------------------

    def foresee(self, target: Target) -> list[Missing]:
        """What of its open files will be missing, as far as that shows from outside; nothing is touched.

        Raises OSError: ENOENT, ESRCH if the process is gone.
        """
        notes = Notes()
        found = self._descriptors(target, notes)
        connections: set[int] = set()
        if any(one.link.startswith(b"socket:") for one in found):
            with suppress(OSError, ValueError, IndexError):
                connections = read_connections(target.tid)
        for one in found:
            kind = kind_of(one.raw, one.link, self._terminals)
            problem = known_problem(kind, one.raw, one.link, one.flags)
            if kind is OpenFileKind.SOCKET and one.raw.inode in connections:
                problem = CONNECTION_PROBLEM
            if problem:
                notes.add(one.label, problem)
        return notes.missing()

    def prepare(self, target: Target) -> None:
        """Looks at everything once, so that what the kernel sets up for it is there when it counts.

        Raises OSError: ENOENT, ESRCH if the process is gone.
        """
        self._mount_types.look(target.tid)
        self._descriptors(target, Notes())

    def _descriptors(self, target: Target, notes: Notes) -> list[FoundDescriptor]:
        """All of a process. Raises OSError: ENOENT, ESRCH if it is gone."""
        found = []
        try:
            with _directories(target) as directories:
                for fd in directories.numbers:
                    read = self._reader.read(directories.fd_dir, directories.fdinfo_dir, fd)
                    if read is None:
                        continue  # closed meanwhile
                    raw, link, fdinfo = read
                    if raw.stat_result == -errno.ENOENT:
                        continue  # closed just now
                    if raw.fdinfo_bytes == -errno.EOVERFLOW:
                        with suppress(OSError):
                            fdinfo = _read_whole(directories.fdinfo_dir, fd)
                    found.append(FoundDescriptor(target.pid, target.tid, fd, raw, link, fdinfo))
        except PermissionError as error:
            notes.add("descriptors", f"could not be read: {os.strerror(error.errno or 0)}")
        return found

    # ---- in the freeze -----------------------------------------------------------------------------------------

    def read(self, targets: Sequence[Target]) -> None:
        """Gathers everything about the descriptors of stopped processes; one that is gone has none.

        Raises as Connections.take.
        """
        found = []
        for target in targets:
            self._targets[target.pid] = target
            notes = self._gathered.notes.setdefault(target.pid, Notes())
            with suppress(*GONE_ERRORS):
                found += self._descriptors(target, notes)
        self._gathered.files = self._by_description(found)
        writers: list[FoundFile] = []
        for one in self._gathered.files:
            if one.kind in ASKED_KINDS or b"LEASE" in one.first.fdinfo:
                # A pipe is best read through an end that is for reading.
                is_writer = one.kind in PIPE_KINDS and one.first.flags & os.O_ACCMODE == os.O_WRONLY
                (writers.append if is_writer else self._ask)(one)
            elif one.first.link.endswith(DELETED_BYTES):
                one.deleted = self._is_deleted(one.first)
        for one in writers:
            self._ask(one)
        self._sockets.ask_about_unix()
        self._sockets.take_connections()
        self._note_tables(targets)
        if any(one.terminal for one in self._gathered.files):
            self._gathered.stats = [text for target in targets if (text := _stat_text(target))]

    def _by_description(self, found: list[FoundDescriptor]) -> list[FoundFile]:
        """One for each open file description, in the order of their first descriptors."""
        groups: dict[tuple[int, int, int, bytes], int] = {}
        refs = []
        for one in found:
            raw = one.raw
            # Anonymous files of all kinds have one inode.
            name = b"" if one.link.startswith(b"/") else one.link
            key = (raw.device_major, raw.device_minor, raw.inode, name)
            refs.append((one.tid, one.fd, groups.setdefault(key, len(groups))))
        numbers = files.number_descriptions(refs)
        by_number: dict[int, FoundFile] = {}
        for one in found:
            number = numbers[one.tid, one.fd]
            known = by_number.get(number)
            if known:
                known.descriptors.append(one)
            else:
                by_number[number] = FoundFile(kind_of(one.raw, one.link, self._terminals), [one])
        return list(by_number.values())

    def _ask(self, one: FoundFile) -> None:
        """What only the description itself can tell."""
        first = one.first
        flags = first.flags
        if first.link.endswith(DELETED_BYTES):  # a FIFO
            one.deleted = self._is_deleted(first)
        if is_path_only(flags):
            return
        try:
            copy_fd = pidfd_getfd(self._targets[first.pid].files_pidfd, first.fd)
        except OSError as error:
            one.problem = f"could not be copied: {os.strerror(error.errno or 0)}"
            return
        try:
            one.owner = owner(copy_fd)
            if one.kind in PIPE_KINDS:
                path, has_name = f"/proc/{first.tid}/fd/{first.fd}", one.kind is OpenFileKind.FIFO
                self._pipes.read(first.key, first.label, flags, copy_fd, path, has_name=has_name)
            elif one.kind is OpenFileKind.SOCKET:
                self._sockets.read(first.raw.inode, copy_fd)
            elif one.kind is OpenFileKind.TERMINAL:
                one.terminal = read_terminal(copy_fd, (first.raw.special_major, first.raw.special_minor))
            elif one.kind is OpenFileKind.INOTIFY:
                one.unread_bytes = query_int(copy_fd, FIONREAD)
        except OSError as error:
            one.problem = f"does not tell what it is asked: {os.strerror(error.errno or 0)}"
        finally:
            os.close(copy_fd)

    def _is_deleted(self, one: FoundDescriptor) -> bool:
        """Whether the name is gone, or a file is called so."""
        if not one.raw.n_links or self._mount_types.of(one).startswith(WITH_SERVERS):
            return True
        with suppress(OSError, ValueError):
            named = os.lstat(f"/proc/{one.tid}/root".encode() + one.link)
            return (named.st_dev, named.st_ino) != one.key
        return True

    def _note_tables(self, targets: Sequence[Target]) -> None:
        """Notes threads with a table of descriptors that is not their process's: unshare(2) CLONE_FILES."""
        for target in targets:
            notes = self._gathered.notes[target.pid]
            with suppress(OSError):
                for name in os.listdir(f"/proc/{target.pid}/task"):  # noqa: PTH208 - in a stop, and twice as fast
                    tid = int(name)
                    if tid not in (target.tid, target.pid) and not files.share_table(tid, target.tid):
                        notes.add(f"descriptors of thread {tid}", "only those of the process are recorded")

    def contents(self) -> list[OpenContent]:
        """Open files whose bytes are nowhere else, each file once; the descriptors are ours until `close`."""
        return self._contents.open(self._gathered.files)

    # ---- after it ----------------------------------------------------------------------------------------------

    def records(self, object_ids: Mapping[Key, int]) -> DescriptorRecords:
        """All of it as a round holds it. `object_ids`: of memory objects, by (st_dev, st_ino)."""
        return make_records(self._gathered, self._pipes, self._sockets.records(), object_ids)

    def close(self) -> None:
        """Closes what is open here; the processes do not notice."""
        self._pipes.close()
        self._sockets.close()
        self._contents.close()


def _stat_text(target: Target) -> bytes:
    """Which terminal controls it, in /proc/PID/stat."""
    with suppress(OSError):
        return Path(f"/proc/{target.pid}/stat").read_bytes()
    return b""
