"""What the manifest says about the host and the processes of a round."""

import contextlib
import os
import platform
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dumper.kernel.runs import RunList
from dumper.mappedfiles import still_of
from dumper.memory_map import Vma
from dumper.objects import SharedObject
from dumper.origins import image_ticks
from dumper.output import ImageOutput
from dumper.proc import GONE_ERRORS
from dumper.proc.cpuinfo import read_instructions
from dumper.proc.maps import Mapping
from dumper.proc.namespaces import read_own
from dumper.proc.stat import parse_process_stat, parse_stat, read_stat
from dumper.proc.status import read_thread_status
from dumper.state.lineage import lineage_record
from dumper.target import Target, gone, read_live_stat
from dumper.tree import Base, Member
from dumper.unseen import UnseenWriter
from formats.buildid import build_id
from formats.manifest import Gap, Host, MappedFile, Missing, PageRange, Process
from formats.processstate import Lineage, Namespace, ProcessState, Zombie
from formats.threadstate import Thread

MAX_CMDLINE_BYTES = 1 << 20
NO_FD_NOTE = "only the pages that this process had mapped (all of them need CAP_CHECKPOINT_RESTORE)"
LATER_NOTE = "shared memory comes with the dump"


@cache
def host() -> Host:
    """This machine."""
    return Host(
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        hostname=socket.gethostname(),
        kernel_release=platform.release(),
        machine=platform.machine(),
        instructions=read_instructions(),
        namespaces=[Namespace(kind=kind, inode=inode) for kind, inode in read_own().items()],
    )


def new_checkpoint_id() -> str:
    """32 hex digits that no other checkpoint has."""
    return uuid.uuid4().hex


def executable(target: Target) -> tuple[str, str]:
    """Path and build id of the executable, "" where it cannot be told."""
    path = identity = ""
    with contextlib.suppress(OSError):
        path = str(Path(f"/proc/{target.tid}/exe").readlink())
    with contextlib.suppress(OSError), Path(f"/proc/{target.tid}/exe").open("rb") as file:
        identity = build_id(lambda offset, n_bytes: os.pread(file.fileno(), n_bytes, offset))
    return path, identity


def cmdline(target: Target) -> list[str]:
    """Its arguments; the first MAX_CMDLINE_BYTES of them."""
    with Path(f"/proc/{target.tid}/cmdline").open("rb") as file:
        text = file.read(MAX_CMDLINE_BYTES)
    return [argument.decode("utf-8", "surrogateescape") for argument in text.rstrip(b"\0").split(b"\0")]


def named_threads(target: Target) -> list[Thread]:
    """Threads of a process that runs: nothing but their names is worth noting."""
    threads = []
    for entry in Path(f"/proc/{target.pid}/task").iterdir():
        with contextlib.suppress(*GONE_ERRORS):
            threads.append(Thread(tid=int(entry.name), name=read_stat(target.pid, int(entry.name)).name))
    return sorted(threads, key=lambda thread: thread.tid)


@dataclass(frozen=True, slots=True)
class Identity:
    """What /proc says of a process apart from its memory and its state."""

    ppid: int
    name: str
    exe: str
    exe_build_id: str
    cmdline: list[str]
    lineage: Lineage


def identify(target: Target) -> Identity:
    """Raises TargetGone."""
    stat = read_live_stat(target.pid)
    try:
        exe, exe_build_id = executable(target)
        of_process = parse_process_stat(Path(f"/proc/{target.pid}/stat").read_bytes())
        lineage = lineage_record(of_process, read_thread_status(target.pid))
        return Identity(stat.ppid, stat.name, exe, exe_build_id, cmdline(target), lineage)
    except GONE_ERRORS:
        raise gone(target.pid) from None


@dataclass(slots=True)
class ProcessPart:
    """What a round holds of one process. State, VmFlags by start address, guards and missing things come with a dump.

    objects: the memory objects behind its mappings; unseen_writers: what may have written to pages of the round, or of
    those it builds on, after they were copied; later_writers: the same, of a dump, from the freeze on; deferred: pages
    that it leaves for the freeze, with older copies.
    """

    member: Member
    identity: Identity
    output: ImageOutput
    vmas: list[Vma]
    threads: list[Thread]
    objects: dict[Mapping, SharedObject] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    flags: dict[int, str] = field(default_factory=dict)
    guards: list[PageRange] = field(default_factory=list)
    mapped_files: list[MappedFile] = field(default_factory=list)
    state: ProcessState | None = None
    missing: list[Missing] = field(default_factory=list)
    unseen_writers: list[str] = field(default_factory=list)
    deferred: RunList | None = None
    later_writers: list[str] = field(default_factory=list)

    def record(self) -> Process:
        """As the manifest holds it, once all of its pages are written."""
        vmas = self.output.vmas(self.vmas, notes=self.notes, flags=self.flags, objects=self.objects)
        figures = self.output.figures
        figures.pages_unreadable += sum(v.mapping.n_pages for v in self.vmas if v.unreadable)
        return Process(
            pid=self.member.pid,
            start_time_ticks=image_ticks(self.member.target),
            ppid=self.identity.ppid,
            name=self.identity.name,
            exe=self.identity.exe,
            exe_build_id=self.identity.exe_build_id,
            cmdline=self.identity.cmdline,
            vmas=vmas,
            threads=self.threads,
            unreadable=self.gaps(),
            guards=self.guards,
            mapped_files=still_of(self.mapped_files, self.vmas),
            missing=self.missing,
            unseen_writers=self.unseen_writers,
            state=self.state,
            early_lineage=None if self.state else self.identity.lineage,
            pages_present=figures.pages_present,
            pages_written=figures.pages_written,
            pages_data=figures.pages_data,
            pages_zero=figures.pages_zero,
            pages_parent=figures.pages_parent,
        )

    def gaps(self) -> list[Gap]:
        """Memory that could not be read, ascending."""
        return sorted(_gaps(self.vmas) + self.output.gaps(), key=lambda gap: gap.start_addr)

    def all_missing(self) -> list[Missing]:
        """What of the process the round does not hold, memory included."""
        return [_missing(gap) for gap in self.gaps()] + self.missing

    def next_base(self, number: int) -> Base:
        """What the next round of the process builds on, after round `number`, which this part is of."""
        full_round = number if self.member.base.is_full else self.member.base.full_round
        writers = [*self.unseen_writers, *self.later_writers]
        return Base.after(self.output.runs, self.deferred, full_round, writers)


def _gaps(vmas: list[Vma]) -> list[Gap]:
    return [
        Gap(start_addr=v.mapping.start_addr, end_addr=v.mapping.end_addr, reason=v.unreadable)
        for v in vmas
        if v.unreadable
    ]


def _missing(gap: Gap) -> Missing:
    return Missing(what=f"memory {gap.start_addr:#x}-{gap.end_addr:#x}", reason=gap.reason)


def unreadable(vmas: list[Vma]) -> list[Missing]:
    """Mappings whose bytes cannot be captured."""
    return [_missing(gap) for gap in _gaps(vmas)]


def still_written(writers: Sequence[UnseenWriter]) -> list[Missing]:
    """What writes to the memory of a process even in the freeze: how much of it the dump has is not known."""
    return [
        Missing(what=f"writes of {writer.text} in the freeze", reason="hardware does not stop with the process")
        for writer in writers
        if not writer.stops
    ]


def zombie(pid: int) -> Process | None:
    """A process that has ended and waits for its parent; None if it does so no longer."""
    try:
        text, status = Path(f"/proc/{pid}/stat").read_bytes(), read_thread_status(pid)
    except GONE_ERRORS:  # its parent ignores SIGCHLD, or one outside has taken it
        return None
    stat, of_process = parse_stat(text), parse_process_stat(text)
    return Process(
        pid=pid,
        start_time_ticks=stat.start_time_ticks,
        ppid=stat.ppid,
        name=stat.name,
        exe="",
        exe_build_id="",
        cmdline=[],
        vmas=[],
        threads=[],
        unreadable=[],
        zombie=Zombie(exit_code=of_process.exit_code, lineage=lineage_record(of_process, status)),
    )
