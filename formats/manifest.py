"""What a manifest says of a round: what was dumped, from whom, on top of which parent, in which files.

docs/format.md explains every key; `formats.manifestfile` reads and writes the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from formats.layout import PAGE_BYTES

ANONYMOUS_VMA_KINDS = frozenset({"anon", "heap", "stack"})
"""Kinds of VMA whose absent pages are zeros."""


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
    """The machine of the target, as of the dump."""

    boot_id: str
    hostname: str
    kernel_release: str
    machine: str
    page_bytes: int = PAGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Vma:
    """A mapping of the target, `[start_addr, end_addr)`, as in /proc/PID/maps.

    `perms` is like "rw-p", `device` like "08:01", `path` is decoded with surrogateescape. `kind`
    is anon, heap, stack, file, shmem, hugetlb, device or special. `note` says what a reader of
    the round should know about it ("" if nothing).
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

    @property
    def n_pages(self) -> int:
        """Pages of the address range, populated or not."""
        return (self.end_addr - self.start_addr) // PAGE_BYTES

    @property
    def pages_absent(self) -> int:
        """Pages without a run in this round."""
        return self.n_pages - self.pages_data - self.pages_zero - self.pages_parent

    @property
    def is_shared(self) -> bool:
        """Whether it was mapped MAP_SHARED."""
        return "s" in self.perms


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A range `[start_addr, end_addr)` that could not be read, and why."""

    start_addr: int
    end_addr: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread's state: user_regs_struct by name, NT_PRFPREG and NT_X86_XSTATE as they are."""

    tid: int
    name: str
    registers: dict[str, int] = field(default_factory=dict)
    fpregs: bytes = b""
    xstate: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of the round. `start_time_ticks` is field 22 of /proc/PID/stat.

    `exe` is the path of its executable, `exe_build_id` hex digits or "". The page counts are
    totals of this round.
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
    pages_present: int = 0
    pages_written: int = 0
    pages_data: int = 0
    pages_zero: int = 0
    pages_parent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What the round cost; units are in the names, pages and bytes are sums over processes."""

    pages_present: int = 0
    pages_written: int = 0
    pages_data: int = 0
    pages_zero: int = 0
    pages_parent: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0
    duration_ns: int = 0
    frozen_ns: int = 0
    attach_stop_ns: int = 0
    scan_ns: int = 0
    copy_ns: int = 0
    micro_rounds: int = 0
    pages_copied_frozen: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A round. `round` counts from 1, `created_ns` is CLOCK_REALTIME.

    `checkpoint_id` (32 hex digits) is the same in all rounds of a checkpoint. `features` are
    what a reader must know to read the round correctly. A `full` round has no PARENT runs, and
    `full_reason` says why. `files` is filled in by RoundWriter.
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
    streamed_while_frozen: bool = False
    host: Host
    root_pid: int
    processes: list[Process]
    stats: Stats
    files: list[FileEntry] = field(default_factory=list)

    def file(self, name: str) -> FileEntry | None:
        """The entry of a file of this round, None if the round has no such file."""
        return next((entry for entry in self.files if entry.name == name), None)
