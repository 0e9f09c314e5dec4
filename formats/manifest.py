"""What a manifest says of a round: what was dumped, from whom, on top of which parent, in which files.

docs/format.md explains every key; `formats.manifestfile` reads and writes the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from formats.layout import PAGE_BYTES
from formats.openfiles import OpenFile, Pipe
from formats.processstate import Lineage, Namespace, ProcessState, Zombie
from formats.threadstate import Thread

ANONYMOUS_VMA_KINDS = frozenset({"anon", "heap", "stack"})
"""Kinds of VMA whose absent pages are zeros."""
UNKNOWN_VMA_KIND = "unknown"
"""Kind of what CRIU's pre-dumps have of mappings: nothing but pages."""
SPARSE_OBJECT_KINDS = frozenset({"shmem", "memfd", "hugetlb", "deleted"})
"""Kinds of memory object whose absent pages are zeros: the round holds all that is mapped of them."""
SYSV_PREFIX = "/SYSV"
"""Of paths of System V segments: the inode number of one is its id, which those of other IPC namespaces have, too."""
FileKey = tuple[str, str, int]
"""A mapped file: path, device and inode as in /proc/PID/maps."""
OBJECT_KINDS = SPARSE_OBJECT_KINDS | {"file"}


class FreezeBy(StrEnum):
    """How the last pages of a dump were got: copied while the target was frozen, or from clones of it made then."""

    COPY = "copy"
    CLONE = "clone"


class RoundKind(StrEnum):
    """How a round was taken: while the target ran, or while it was frozen."""

    PRE_DUMP = "pre-dump"
    DUMP = "dump"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file of the round: its size, and digests of all its bytes and of its seek table."""

    name: str
    stored_bytes: int
    sha256: str
    seek_table_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The round that PARENT runs refer to; `sha256` is over the bytes of its manifest file."""

    round: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine of the target, as of the dump.

    `instructions` are those of the flags in /proc/cpuinfo that are sets of instructions ("avx2"). `namespaces` are
    those of predump itself.
    """

    boot_id: str
    hostname: str
    kernel_release: str
    machine: str
    page_bytes: int = PAGE_BYTES
    instructions: list[str] = field(default_factory=list)
    namespaces: list[Namespace] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vma:
    """A mapping of the target, `[start_addr, end_addr)`, as in /proc/PID/maps.

    `perms` is like "rw-p", `device` like "08:01", `path` is decoded with surrogateescape. `kind`
    is anon, heap, stack, file, shmem, hugetlb, device or special. `note` says what a reader of
    the round should know about it ("" if nothing). `flags` are the VmFlags of /proc/PID/smaps ("rd wr mr mw me ac"), ""
    where they were not read. `object` is the id of the MemoryObject that holds what the process's own pages do not:
    the page at `addr` is the object's at `offset_bytes + addr - start_addr`.
    """

    start_addr: int
    end_addr: int
    perms: str
    offset_bytes: int
    device: str
    inode: int
    path: str
    kind: str
    tracked: bool
    pages_data: int = 0
    pages_zero: int = 0
    pages_parent: int = 0
    note: str = ""
    flags: str = ""
    object: int | None = None

    @property
    def file_key(self) -> FileKey:
        """Which file it is of."""
        return self.path, self.device, self.inode

    @property
    def n_pages(self) -> int:
        """Pages of the address range, populated or not."""
        return (self.end_addr - self.start_addr) // PAGE_BYTES

    @property
    def pages_absent(self) -> int:
        """Pages without a run in this round."""
        return self.n_pages - self.pages_data - self.pages_zero - self.pages_parent

    @property
    def has_file(self) -> bool:
        """Whether a file is behind it, of a disk or of memory; where there are no inodes (CRIU), its path tells."""
        return self.inode != 0 or self.path.startswith("/")

    @property
    def is_shared(self) -> bool:
        """Whether it was mapped MAP_SHARED."""
        return "s" in self.perms


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedFile:
    """What is known of a file that is mapped, by `path`, `device` and `inode` as its VMAs have them.

    `size_bytes` and `mtime_ns` (st_mtim) are 0, and `build_id` is "", where they could not be told.
    """

    path: str
    device: str
    inode: int
    size_bytes: int = 0
    mtime_ns: int = 0
    build_id: str = ""

    @property
    def file_key(self) -> FileKey:
        """Which file it is."""
        return self.path, self.device, self.inode


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRange:
    """Pages `[start_addr, end_addr)`."""

    start_addr: int
    end_addr: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A range `[start_addr, end_addr)` that could not be read, and why."""

    start_addr: int
    end_addr: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Something that the round does not hold: what ("descriptor 7", "memory 0x1000-0x2000"), and why."""

    what: str
    reason: str


SHM_DEST, SHM_LOCKED = 0o1000, 0o2000  # of Segment.mode: sysvipc(7), include/linux/shm.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What /proc/sysvipc/shm says of a segment of System V shared memory; its id is the `inode` of the object.

    key: as of the freeze, 0 (IPC_PRIVATE) also for one that is removed when nobody has it attached any more (SHM_DEST
    in `mode`). size_bytes: as shmget(2) was told. attached: mappings of it, of all processes.
    """

    key: int
    size_bytes: int
    mode: int
    uid: int
    gid: int
    attached: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryObject:
    """A file whose bytes the round holds, once for all who map it or have it open: found by `device` and `inode`.

    kind: "shmem" (tmpfs, System V, anonymous shared memory), "memfd", "hugetlb", "deleted" (a file without a name), or
    "file" (a named file that is mapped shared). Its pages are in files of its own (formats.layout.object_pages_name),
    where addresses are offsets. Absent pages are zeros, but of a "file", of which only mapped pages are held, and in
    `unreadable`, where addresses are offsets too. Only a dump has objects, and none of their pages refer to a parent.
    uid, gid, mode: its owner and st_mode; seals: F_GET_SEALS of a memfd; segment: of one of System V.
    """

    id: int
    device: str
    inode: int
    path: str
    kind: str
    size_bytes: int
    mode: int
    uid: int
    gid: int
    seals: int = 0
    segment: Segment | None = None
    unreadable: list[Gap] = field(default_factory=list)
    pages_data: int = 0
    pages_zero: int = 0

    @property
    def pages_end_bytes(self) -> int:
        """First offset behind the last page, which may be a part of one."""
        return self.size_bytes + -self.size_bytes % PAGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The host's clocks right after everything stood still, in ns: what remains of a timeout is counted from here."""

    realtime_ns: int
    monotonic_ns: int
    boottime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedProcess:
    """A process of the round before that has ended since, or has left the tree."""

    pid: int
    start_time_ticks: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of the round. `start_time_ticks` is field 22 of /proc/PID/stat.

    `exe` is the path of its executable, `exe_build_id` hex digits or "". The page counts are
    totals of this round. `guards` are ranges made inaccessible by MADV_GUARD_INSTALL. `mapped_files` has
    most files of its VMAs. `state` comes with a dump only, `early_lineage` with other rounds. A `zombie` has neither
    memory nor threads nor state. `unseen_writers` says what may have written to pages of it after a round copied them
    (DMA): only a dump is sure to be right then.
    """

    pid: int
    start_time_ticks: int
    ppid: int
    name: str
    exe: str
    exe_build_id: str
    cmdline: list[str]
    vmas: list[Vma]
    threads: list[Thread]
    unreadable: list[Gap]
    guards: list[PageRange] = field(default_factory=list)
    mapped_files: list[MappedFile] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    unseen_writers: list[str] = field(default_factory=list)
    state: ProcessState | None = None
    zombie: Zombie | None = None
    early_lineage: Lineage | None = None
    pages_present: int = 0
    pages_written: int = 0
    pages_data: int = 0
    pages_zero: int = 0
    pages_parent: int = 0

    @property
    def lineage(self) -> Lineage | None:
        """None where the round does not say."""
        told = self.zombie or self.state
        return told.lineage if told else self.early_lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What the round cost; units are in the names, pages and bytes are sums over processes and objects."""

    pages_present: int = 0
    pages_written: int = 0
    pages_data: int = 0
    pages_zero: int = 0
    pages_parent: int = 0
    pages_deferred: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0
    duration_ns: int = 0
    frozen_ns: int = 0
    attach_stop_ns: int = 0
    scan_ns: int = 0
    copy_ns: int = 0
    micro_rounds: int = 0
    predicted_freeze_ns: int = 0
    pages_copied_frozen: int = 0
    stop_ns: int = 0
    state_ns: int = 0
    maps_ns: int = 0
    holes_ns: int = 0
    clone_ns: int = 0
    stream_ns: int = 0
    resume_ns: int = 0
    injected_calls: int = 0

    def phases(self) -> dict[str, int]:
        """What the frozen time of a dump consists of, in ns, in the order in which it passes."""
        return {
            "stop": self.stop_ns,
            "maps": self.maps_ns,
            "state": self.state_ns,
            "scan": self.scan_ns,
            "copy": self.copy_ns,
            "holes": self.holes_ns,
            "clone": self.clone_ns,
            "stream": self.stream_ns,
            "resume": self.resume_ns,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A round. `round` counts from 1, `created_ns` is CLOCK_REALTIME.

    `checkpoint_id` (32 hex digits) is the same in all rounds of a checkpoint. `features` are
    what a reader must know to read the round correctly. A `full` round has no PARENT runs, and
    `full_reason` says why. `stands_for` are digests (SHA-256) of the manifest files that the round had before it was
    flattened: whoever names one of them as its parent means this round. `freeze_by` is for dumps only. `files` is
    filled in by RoundWriter.
    """

    checkpoint_id: str
    round: int
    kind: RoundKind
    created_ns: int
    tool_version: str
    features: list[str] = field(default_factory=list)
    parent: Parent | None = None
    full: bool
    full_reason: str = ""
    stands_for: list[str] = field(default_factory=list)
    streamed_while_frozen: bool = False
    freeze_by: FreezeBy | None = None
    host: Host
    root_pid: int
    processes: list[Process]
    ended: list[EndedProcess] = field(default_factory=list)
    objects: list[MemoryObject] = field(default_factory=list)
    open_files: list[OpenFile] = field(default_factory=list)
    pipes: list[Pipe] = field(default_factory=list)
    clocks: Clocks | None = None
    stats: Stats
    files: list[FileEntry] = field(default_factory=list)
