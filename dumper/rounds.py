"""Taking one round of the running processes, and what every round has in common: how it begins and how it is committed.

VMAs --memory_map--> spans --Scanner--> runs --ImageOutput--> pages and runs on disk --> manifest
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dumper import __version__, describe
from dumper.attaching import MAX_ATTEMPTS, Attacher, never_settles
from dumper.describe import ProcessPart
from dumper.destination import Destination
from dumper.events import Emit, Notice, RoundFinished, RoundProgress, RoundStarted
from dumper.freezeplan import FreezeWish
from dumper.hooks import HookCommands
from dumper.hotpages import Deferral, LeftOut
from dumper.kernel.pages import SpanTable
from dumper.kernel.runs import RunKind, RunList
from dumper.limits import Limits
from dumper.memory_map import is_object, spans_while_running
from dumper.output import ImageOutput, RoundOutput
from dumper.pipeline import PagePipeline
from dumper.proc import GONE_ERRORS
from dumper.tree import LOST_ERRORS, Base, Member, Tree
from dumper.unseen import UnseenWriter
from dumper.vmflags import VmFlags
from formats import manifest as image
from formats.checkpoint import RoundInfo
from formats.faults import Point, reached
from formats.manifest import RoundKind
from formats.openfiles import OpenFile, Pipe
from formats.restorable import verdict_on

PROGRESS_INTERVAL_NS = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to work: zstd level, threads, bytes of staging memory; strict: nothing may be missing in a dump.

    limits: what it may use beside; freeze_by: how a dump gets its last pages; hooks: commands to run around a dump;
    tcp_established: TCP connections are captured by a dump that ends with the death of its processes, and kept for
    tcp_hold_s for a restore on this host.
    """

    level: int = 1
    compress_threads: int = 2
    staging_bytes: int = 256 << 20
    strict: bool = False
    keep_tracking: bool = False
    limits: Limits = field(default_factory=Limits)
    freeze_by: FreezeWish = FreezeWish.AUTO
    hooks: HookCommands = field(default_factory=HookCommands)
    tcp_established: bool = False
    tcp_hold_s: float = 60.0


@dataclass(slots=True)
class RoundContents:
    """What a round holds beside pages. All but `parts` comes with a dump only."""

    parts: list[ProcessPart] = field(default_factory=list)
    zombies: list[image.Process] = field(default_factory=list)
    objects: list[image.MemoryObject] = field(default_factory=list)
    open_files: list[OpenFile] = field(default_factory=list)
    pipes: list[Pipe] = field(default_factory=list)
    clocks: image.Clocks | None = None
    streamed_while_frozen: bool = False
    freeze_by: image.FreezeBy | None = None


class Progress:
    """Turns pages dealt with into progress events, not more often than a person can read."""

    def __init__(self, emit: Emit, pid: int, number: int, pages_expected: int) -> None:
        self._emit = emit
        self._pid = pid
        self._number = number
        self._pages_expected = pages_expected
        self._pages_done = 0
        self._next_ns = time.monotonic_ns() + PROGRESS_INTERVAL_NS

    def __call__(self, pages: int) -> None:
        self._pages_done += pages
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + PROGRESS_INTERVAL_NS
            self._emit(
                RoundProgress(
                    pid=self._pid,
                    round=self._number,
                    pages_done=self._pages_done,
                    pages_expected=self._pages_expected,
                )
            )


class OpenRound:
    """A round that has begun: `with OpenRound(...) as round_: ... round_.commit(contents)`; else it leaves nothing."""

    def __init__(
        self,
        kind: RoundKind,
        tree: Tree,
        destination: Destination,
        pipeline: PagePipeline,
        emit: Emit,
    ) -> None:
        """Raises StorageError."""
        self._start_ns = time.monotonic_ns()
        self._kind = kind
        self._tree = tree
        self._destination = destination
        self._emit = emit
        root = tree.root
        self._check_place()
        # Some process may build on the round before though the root does not.
        self._is_full = all(member.base.is_full for member in tree.members)
        self._full_reason = root.base.full_reason if self._is_full else ""
        number = self.number = destination.next_number
        emit(
            RoundStarted(pid=root.pid, round=number, kind=kind.value, full=self._is_full, full_reason=self._full_reason)
        )
        pages_expected = sum(_resident_pages(m) for m in tree.members) if self._is_full else 0
        self.output = RoundOutput(destination.open_round(), pipeline, Progress(emit, root.pid, number, pages_expected))

    def __enter__(self) -> "OpenRound":
        return self

    def __exit__(self, *_unused: object) -> None:
        self.output.abandon()

    def commit(self, contents: RoundContents, behind: Callable[[], None] | None = None) -> RoundFinished:
        """Makes the round exist and every process build on it from now on; `behind` is called when it is on its way.

        Raises StorageError.
        """
        self.output.flush()
        reached(Point.FLUSHED)
        self._check_place()
        output, figures, last = self.output, self.output.figures, self._destination.last
        processes = [part.record() for part in contents.parts] + contents.zombies
        for part in contents.parts:
            figures.add(part.output.figures)
            figures.attach_stop_ns += part.member.attach_stop_ns
        manifest = image.Manifest(
            checkpoint_id=last.manifest.checkpoint_id if last else describe.new_checkpoint_id(),
            round=self.number,
            kind=self._kind,
            created_ns=time.time_ns(),
            tool_version=__version__,
            parent=image.Parent(round=last.number, sha256=last.sha256) if last and not self._is_full else None,
            full=self._is_full,
            full_reason=self._full_reason,
            streamed_while_frozen=contents.streamed_while_frozen,
            freeze_by=contents.freeze_by,
            host=describe.host(),
            root_pid=self._tree.root.pid,
            processes=processes,
            ended=_ended(last, processes),
            objects=contents.objects,
            open_files=contents.open_files,
            pipes=contents.pipes,
            clocks=contents.clocks,
            stats=figures.stats(time.monotonic_ns() - self._start_ns),
        )
        manifest, sha256 = output.commit(manifest)
        if behind:
            behind()
        verdict = verdict_on(manifest)
        output.confirm()
        reached(Point.COMMITTED)
        self._destination.last = RoundInfo(self.number, output.path, manifest, sha256)
        for part in contents.parts:
            part.member.base = part.next_base(self.number)
            part.member.attach_stop_ns = 0
        finished = RoundFinished(
            pid=self._tree.root.pid,
            round=self.number,
            kind=self._kind.value,
            full=self._is_full,
            full_reason=self._full_reason,
            streamed_while_frozen=contents.streamed_while_frozen,
            freeze_by=contents.freeze_by or "",
            processes=len(processes),
            missing=sum(len(process.missing) + len(process.unreadable) for process in processes),
            restorable=verdict.is_restorable,
            obstacles=verdict.obstacles,
            differences=len(verdict.warnings),
            pages_unreadable=figures.pages_unreadable,
            prediction_error_percent=_error_percent(manifest.stats),
            **asdict(manifest.stats),
        )
        self._emit(finished)
        return finished

    def _check_place(self) -> None:
        """Raises StorageError if the rounds that this one builds on are not where they were."""
        built_on = [member.base.full_round for member in self._tree.members if not member.base.is_full]
        self._destination.check_place(min(built_on, default=self._destination.next_number))


def _error_percent(stats: image.Stats) -> int:
    if not stats.frozen_ns or not stats.predicted_freeze_ns:
        return 0
    return round(100 * (stats.predicted_freeze_ns - stats.frozen_ns) / stats.frozen_ns)


def _ended(last: RoundInfo | None, processes: Sequence[image.Process]) -> list[image.EndedProcess]:
    """Processes of the round before that are not in this one."""
    here = {(process.pid, process.start_time_ticks) for process in processes}
    return [
        image.EndedProcess(pid=one.pid, start_time_ticks=one.start_time_ticks, name=one.name)
        for one in (last.manifest.processes if last else [])
        if (one.pid, one.start_time_ticks) not in here
    ]


def _resident_pages(member: Member) -> int:
    """Field 2 of /proc/PID/statm: proc_pid_statm(5). 0 if the process is gone."""
    try:
        return int(Path(f"/proc/{member.target.tid}/statm").read_text().split()[1])
    except GONE_ERRORS:
        return 0


class PreDumper:
    """Takes rounds of the running processes that are tracked."""

    def __init__(
        self,
        tree: Tree,
        destination: Destination,
        pipeline: PagePipeline,
        emit: Emit,
        attacher: Attacher,
    ) -> None:
        self._tree = tree
        self._destination = destination
        self._pipeline = pipeline
        self._emit = emit
        self._attacher = attacher
        self._defers_hot = False

    def pages_written(self, member: Member) -> int:
        """How many pages a round taken now would have to copy of a tracked process; nothing is reset.

        Raises one of LOST_ERRORS if it ended or called exec.
        """
        assert member.tracker is not None
        runs = RunList(1 << 16)
        member.scanner.start(SpanTable(spans_while_running(member.tracker.refresh())), RunList(1), member.base.covered)
        member.scanner.all_runs(runs, reset=False)
        return runs.pages_of(RunKind.COPY)

    def take(self, *, defer_hot: bool) -> RoundFinished:
        """One round. A process that ends or calls exec meanwhile is left out; the next round has it in full.

        With `defer_hot`, pages that most rounds find written are left for the freeze.
        Raises TargetGone and TargetUntraceable if that one is the root, StorageError.
        """
        self._defers_hot = defer_hot
        with OpenRound(RoundKind.PRE_DUMP, self._tree, self._destination, self._pipeline, self._emit) as round_:
            contents = RoundContents()
            for member in self._tree.members:
                part = self._take_process(member, round_.output)
                if part is not None:
                    contents.parts.append(part)
            return round_.commit(contents)

    def _take_process(self, member: Member, output: RoundOutput) -> ProcessPart | None:
        for _ in range(MAX_ATTEMPTS):
            if member.tracker is None:
                return None
            image_output = output.process(member.pid)
            try:
                return self._write(member, image_output)
            except LOST_ERRORS:
                output.discard(image_output)
                if not self._attacher.lost(member):
                    return None
                self._attacher.attach(member)
        if member is self._tree.root:
            raise never_settles(member.pid)
        return None

    def _begin_deferral(self, member: Member) -> Deferral | None:
        """None for a process of which the round must hold everything, or if no round defers anything."""
        base = member.base
        if base.is_full or not (self._defers_hot or base.left_out):
            return None
        hot = member.hot_pages.hot() if self._defers_hot else RunList(1)
        return Deferral(hot, base.left_out or LeftOut(base.covered, RunList(1)))

    def _write(self, member: Member, image_output: ImageOutput) -> ProcessPart:
        """Scans, copies and writes what was written since the round before."""
        assert member.tracker is not None
        vmas = member.tracker.refresh()
        deferral = self._begin_deferral(member)
        notes = {vma.mapping.start_addr: describe.LATER_NOTE for vma in vmas if is_object(vma)}
        threads = describe.named_threads(member.target)
        part = ProcessPart(member, describe.identify(member.target), image_output, vmas, threads, notes=notes)
        part.mapped_files = member.files.look(vmas, afresh=False)
        if member.base.is_full:  # they take a walk through all page tables, and are for whoever restores ahead
            flags = VmFlags(member.target.tid, stands_still=True)
            part.flags = {vma.mapping.start_addr: flags.before(vma.mapping.start_addr) for vma in vmas}
        runs = RunList(1 << 16)
        member.scanner.start(SpanTable(spans_while_running(vmas)), RunList(1), _known(member.base))
        unseen: list[UnseenWriter] = []
        scanning = True
        while scanning:
            runs.clear()
            since_ns = time.monotonic_ns()
            scanning = member.scanner.next_runs(runs, reset=True)
            reached(Point.SCANNED)
            image_output.figures.scan_ns += time.monotonic_ns() - since_ns
            unseen = unseen or member.unseen_writers()
            image_output.write(deferral.settle(runs) if deferral else runs, member.running)
        member.scanner.check_memory()
        if deferral:
            member.hot_pages.add(deferral)
            part.deferred = deferral.deferred
            image_output.figures.pages_deferred = deferral.deferred.pages_of(RunKind.COPY)
        doubt = member.base.unseen_writers
        if unseen and not doubt:
            self._emit(unseen_notice(member.pid, unseen))
        part.unseen_writers = list(dict.fromkeys((*doubt, *(writer.text for writer in unseen))))
        return part


def _known(base: Base) -> RunList:
    """What the round before has of a process, be it older than that round."""
    return base.left_out.runs if base.left_out else base.covered


def exec_notice(pid: int) -> Notice:
    """That a process replaced its memory."""
    return Notice(
        pid=pid, subject="exec", message=f"process {pid} called exec; its new memory is captured from the beginning"
    )


def unseen_notice(pid: int, writers: Sequence[UnseenWriter]) -> Notice:
    """That hardware may write to the memory of a process, and what that means."""
    names = ", ".join(writer.text for writer in writers)
    return Notice(
        pid=pid,
        subject="unseen-writes",
        message=f"process {pid} has {names}: what is written to its memory that way goes unseen, so the dump compares "
        "all of it with older copies in the freeze",
    )
