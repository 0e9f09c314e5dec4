"""Taking one round: of the running target (pre-dump), or of the frozen one (dump).

VMAs --memory_map--> spans --Scanner--> runs --RoundOutput--> pages and runs on disk --> manifest
                                         \\--Staging (dump only: copied in the freeze, written after it)
"""

import gc
import os
import signal
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from dumper import __version__, describe
from dumper.checkpoint import CheckpointDirectory
from dumper.convergence import another_micro_round
from dumper.events import Emit, MicroRound, RoundFinished, RoundProgress, RoundStarted
from dumper.freeze import Freeze
from dumper.kernel.copy import FileMaps, Source
from dumper.kernel.pages import Scanner, SpanTable
from dumper.kernel.ptrace import ThreadRegisters
from dumper.kernel.runs import RunKind, RunList
from dumper.memory_map import (
    MappedFiles,
    Vma,
    file_maps,
    has_only_copy,
    spans_while_frozen,
    spans_while_running,
)
from dumper.output import Figures, RoundOutput
from dumper.pipeline import PagePipeline
from dumper.proc.stat import read_stat
from dumper.staging import Staging
from dumper.target import Target
from dumper.tracking import AddressSpace, Tracker
from formats import manifest as image
from formats.checkpoint import RoundInfo
from formats.manifest import RoundKind

PROGRESS_INTERVAL_NS = 100_000_000
SPARE_THREADS = 16  # may be born between the count and the freeze
LOST_REASON = "could not be read"
NO_FD_NOTE = "only the pages that this process had mapped (all of them need CAP_CHECKPOINT_RESTORE)"


class AfterDump(StrEnum):
    """What becomes of the target after the dump."""

    LEAVE_RUNNING = "leave-running"
    LEAVE_STOPPED = "leave-stopped"
    KILL = "kill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to work: zstd level, threads, bytes of staging memory."""

    level: int = 1
    compress_threads: int = 2
    staging_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Base:
    """What a round builds on: the runs of the round before, or none, and then why the round is full."""

    covered: RunList
    full_reason: str
    attach_stop_ns: int = 0

    @property
    def is_full(self) -> bool:
        """Whether the round must hold everything."""
        return bool(self.full_reason)


@dataclass(slots=True)
class RoundState:
    """What a round holds beside pages. Registers come with a dump only."""

    kind: RoundKind
    vmas: list[Vma]
    identity: describe.Identity
    registers: list[ThreadRegisters] = field(default_factory=list)
    streamed_while_frozen: bool = False


class Progress:
    """Turns figures into progress events, not more often than a person can read."""

    def __init__(self, emit: Emit, pid: int, number: int, pages_expected: int) -> None:
        self._emit = emit
        self._pid = pid
        self._number = number
        self._pages_expected = pages_expected
        self._next_ns = time.monotonic_ns() + PROGRESS_INTERVAL_NS

    def __call__(self, figures: Figures) -> None:
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + PROGRESS_INTERVAL_NS
            self._emit(
                RoundProgress(
                    pid=self._pid,
                    round=self._number,
                    pages_done=figures.pages_written,
                    pages_expected=self._pages_expected,
                )
            )


class RoundTaker:
    """Takes rounds of one target into one checkpoint. Used by one OS thread: it owns ptrace."""

    def __init__(
        self,
        target: Target,
        directory: CheckpointDirectory,
        pipeline: PagePipeline,
        options: Options,
        emit: Emit,
    ) -> None:
        self.space = AddressSpace(target)
        self._target = target
        self._directory = directory
        self._pipeline = pipeline
        self._options = options
        self._emit = emit
        self._scanner = Scanner(target.pagemap_fd)
        self._files = MappedFiles(target.tid)
        self._host = describe.host()
        self._running = Source(target.tid, target.mem_fd, FileMaps())

    def close(self) -> None:
        """Closes the files behind shared mappings."""
        self._files.close()

    def pages_written(self, tracker: Tracker, covered: RunList) -> int:
        """How many pages a round taken now would have to copy; nothing is reset. Raises as `pre_dump`."""
        runs = RunList(1 << 16)
        self._scanner.start(SpanTable(spans_while_running(tracker.refresh())), RunList(1), covered)
        self._scanner.all_runs(runs, reset=False)
        return runs.pages_of(RunKind.COPY)

    def pre_dump(self, tracker: Tracker, base: Base) -> tuple[RoundFinished, RunList]:
        """One round while the target runs; returns its figures and its runs, for the next round to build on.

        Raises:
            StorageError, TargetUntraceable; TrackingLostError or OSError ESRCH if the memory of the target is gone.
        """
        start_ns = time.monotonic_ns()
        output = self._open(RoundKind.PRE_DUMP, base)
        try:
            state = RoundState(RoundKind.PRE_DUMP, tracker.refresh(), describe.identify(self._target))
            runs = RunList(1 << 16)
            self._scanner.start(SpanTable(spans_while_running(state.vmas)), RunList(1), base.covered)
            scanning = True
            while scanning:
                runs.clear()
                since_ns = time.monotonic_ns()
                scanning = self._scanner.next_runs(runs, reset=True)
                output.figures.scan_ns += time.monotonic_ns() - since_ns
                output.write(runs, self._running)
            self._scanner.check_memory()
            return self._commit(output, base, state, start_ns), output.runs
        finally:
            output.abandon()

    def dump(self, tracker: Tracker | None, base: Base, after: AfterDump) -> RoundFinished:
        """The final round: micro-rounds, then everything that is left while the target is frozen.

        Without a tracker all of the memory is copied in the freeze. Raises as `pre_dump`, and TargetGone,
        PermissionDenied; the target goes on in each case.
        """
        start_ns = time.monotonic_ns()
        output = self._open(RoundKind.DUMP, base)
        try:
            staging = Staging(self._scanner, base.covered, self._options.staging_bytes)
            if tracker:
                output.figures.micro_rounds = self._micro_rounds(tracker, staging)
            return self._freeze_and_copy(output, staging, base, after, start_ns)
        finally:
            output.abandon()

    def _micro_rounds(self, tracker: Tracker, staging: Staging) -> int:
        history: list[int] = []
        while another_micro_round(history):
            since_ns = time.monotonic_ns()
            spans = SpanTable(spans_while_running(tracker.refresh()))
            history.append(staging.micro_round(spans, self._running))
            self._emit(
                MicroRound(
                    pid=self._target.pid,
                    pages_written=history[-1],
                    duration_ns=time.monotonic_ns() - since_ns,
                )
            )
            if not staging.fits:
                break
        return len(history)

    def _frozen_view(self, vmas: list[Vma], staging: Staging) -> tuple[SpanTable, Source]:
        only_changes = staging.has_picture and self._scanner.can_scan_changes
        spans = spans_while_frozen(vmas, self._files, only_changes=only_changes)
        files = FileMaps(file_maps(spans))
        return SpanTable(spans), Source(self._target.tid, self._target.mem_fd, files, staging.memory)

    def _freeze_and_copy(
        self, output: RoundOutput, staging: Staging, base: Base, after: AfterDump, start_ns: int
    ) -> RoundFinished:
        target, figures = self._target, output.figures
        state = RoundState(RoundKind.DUMP, self.space.read(), describe.identify(target))
        spans, source = self._frozen_view(state.vmas, staging)
        freeze = Freeze(target)
        freeze.prepare_registers(len(state.identity.thread_names) + SPARE_THREADS)
        was_stopped = read_stat(target.pid, target.tid).state in "Tt"

        def finish() -> RoundFinished:
            if not state.streamed_while_frozen:
                output.write(staging.picture, Source(0, -1, FileMaps(), staging.memory))
            state.registers = freeze.registers()
            figures.frozen_ns = freeze.frozen_ns
            figures.scan_ns, figures.copy_ns = staging.scan_ns, staging.copy_ns
            return self._commit(output, base, state, start_ns)

        gc.disable()  # a collection in the freeze would lengthen it
        try:
            with freeze:
                if self.space.has_changed():
                    state.vmas = self.space.read()
                    spans, source = self._frozen_view(state.vmas, staging)
                figures.pages_copied_frozen = staging.final_round(spans, source)
                freeze.read_registers()
                if not staging.fits:
                    state.streamed_while_frozen = True
                    output.write(staging.picture, source)
                if after is AfterDump.LEAVE_STOPPED:
                    os.kill(target.pid, signal.SIGSTOP)  # before the detach: it stops on its way out
                if after is AfterDump.KILL:
                    finished = finish()
                    signal.pidfd_send_signal(target.pidfd, signal.SIGKILL)
                    return finished
        finally:
            gc.enable()
        with ExitStack() as undo:
            if after is AfterDump.LEAVE_STOPPED and not was_stopped:
                undo.callback(os.kill, target.pid, signal.SIGCONT)  # no dump, no stop
            finished = finish()
            undo.pop_all()
        return finished

    def _open(self, kind: RoundKind, base: Base) -> RoundOutput:
        number = self._directory.next_number
        self._emit(
            RoundStarted(
                pid=self._target.pid,
                round=number,
                kind=kind.value,
                full=base.is_full,
                full_reason=base.full_reason,
            )
        )
        return RoundOutput(
            self._directory.path,
            number,
            self._target.pid,
            self._pipeline,
            Progress(self._emit, self._target.pid, number, self._resident_pages() if base.is_full else 0),
        )

    def _resident_pages(self) -> int:
        """Field 2 of /proc/PID/statm: proc_pid_statm(5)."""
        return int(Path(f"/proc/{self._target.tid}/statm").read_text().split()[1])

    def _notes(self, vmas: list[Vma]) -> dict[int, str]:
        """Remarks on VMAs by start address, for the manifest."""
        return {
            vma.mapping.start_addr: NO_FD_NOTE for vma in vmas if has_only_copy(vma) and self._files.fd(vma.mapping) < 0
        }

    def _commit(self, output: RoundOutput, base: Base, state: RoundState, start_ns: int) -> RoundFinished:
        vmas = output.finish_pages(state.vmas, self._notes(state.vmas))
        gaps = [
            image.Gap(start_addr=v.mapping.start_addr, end_addr=v.mapping.end_addr, reason=v.unreadable)
            for v in state.vmas
            if v.unreadable
        ] + [image.Gap(start_addr=start, end_addr=end, reason=LOST_REASON) for start, end in output.lost]
        figures = output.figures
        figures.attach_stop_ns = base.attach_stop_ns
        figures.pages_unreadable += sum(v.mapping.n_pages for v in state.vmas if v.unreadable)
        last = self._directory.last
        manifest = image.Manifest(
            checkpoint_id=last.manifest.checkpoint_id if last else describe.new_checkpoint_id(),
            round=output.number,
            kind=state.kind,
            created_ns=time.time_ns(),
            tool_version=__version__,
            parent=image.Parent(round=last.number, sha256=last.sha256) if last and not base.is_full else None,
            full=base.is_full,
            full_reason=base.full_reason,
            streamed_while_frozen=state.streamed_while_frozen,
            host=self._host,
            root_pid=self._target.pid,
            processes=[
                describe.process(
                    self._target,
                    state.identity,
                    vmas=vmas,
                    registers=state.registers,
                    unreadable=sorted(gaps, key=lambda gap: gap.start_addr),
                    figures=figures,
                )
            ],
            stats=figures.stats(time.monotonic_ns() - start_ns),
        )
        manifest, sha256 = output.commit(manifest)
        self._directory.last = RoundInfo(output.number, output.path, manifest, sha256)
        finished = RoundFinished(
            pid=self._target.pid,
            round=output.number,
            kind=state.kind.value,
            full=base.is_full,
            full_reason=base.full_reason,
            streamed_while_frozen=state.streamed_while_frozen,
            pages_unreadable=figures.pages_unreadable,
            **asdict(manifest.stats),
        )
        self._emit(finished)
        return finished
