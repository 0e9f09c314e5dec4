"""The dump: micro-rounds, then everything that is left while nothing runs.

micro-rounds    scan, reset, copy into the staging memory; again while each is clearly smaller    they run (*)
freeze          stop all; maps; scan; copy what was written last; objects; state; resume          they are frozen
write           classify, compress and write from the staging memory                              they run

(*) Where they stand still until the dump has been sent, rounds ahead, which are sent, take their place.
"""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from dumper import describe, strict
from dumper.beforefreeze import BeforeFreeze
from dumper.connections import Connections
from dumper.destination import Destination
from dumper.dumpedprocesses import DumpedProcesses
from dumper.dumpwriter import DumpWriter
from dumper.events import Announcer, Notice, RoundFinished
from dumper.freeze import Freeze
from dumper.freezeplan import FreezeWish
from dumper.hooks import Hooks
from dumper.kernel.copy import StagingMemory
from dumper.kernel.ptrace import O_SUSPEND_SECCOMP
from dumper.kernel.runs import RunList
from dumper.objects import ObjectSet
from dumper.output import Figures
from dumper.pipeline import PagePipeline
from dumper.prediction import Pace
from dumper.proc import GONE_ERRORS
from dumper.proc.stat import read_stat
from dumper.processdump import ProcessDump
from dumper.rounds import OpenRound, Options, RoundContents
from dumper.sizing import measure_size
from dumper.snapshot import SnapshotLostError
from dumper.state.descriptors import DescriptorCapture
from dumper.state.openfiles import DescriptorRecords
from dumper.state.segments import SegmentTables
from dumper.state.sharing import find_shared
from dumper.tree import LOST_ERRORS, Base, Tree
from dumper.undisturbed import no_garbage_collection, short_turns
from formats import manifest as image
from formats.faults import Point, reached
from formats.layout import PAGE_BYTES
from formats.manifest import FreezeBy, RoundKind

T = TypeVar("T")

STOP_SHOWS_NS = 1_000_000_000
POLL_S = 0.001
STOP_AND_SCAN_NS = 500_000  # for so long a target still writes after a prediction
MAX_ATTEMPTS = 2  # a process that stands still calls exec no more


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A dump that was not taken: it would have frozen the processes for too long."""

    predicted_freeze_ns: int


BeforeStop = Callable[[], None]


class AfterDump(StrEnum):
    """What becomes of the processes after the dump."""

    LEAVE_RUNNING = "leave-running"
    LEAVE_STOPPED = "leave-stopped"
    KILL = "kill"


def wish_for(after: AfterDump, options: Options) -> FreezeWish:
    """How the last pages may be got: where processes stay frozen until the dump is on disk, a clone gains nothing."""
    return options.freeze_by if after is AfterDump.LEAVE_RUNNING else FreezeWish.COPY


@dataclass(frozen=True, slots=True)
class DumpWork:
    """What a dump is taken of, where it goes, and how.

    `since_ns`: when the written pages were last reset, CLOCK_MONOTONIC. `round_ahead` takes a round of the running
    processes and says what it showed, where they stand still until the dump has been sent.
    """

    tree: Tree
    destination: Destination
    pipeline: PagePipeline
    options: Options
    emit: Announcer
    since_ns: int
    round_ahead: Callable[[], Pace] | None = None


def take_dump(
    work: DumpWork, after: AfterDump, before_stop: BeforeStop, max_freeze_ns: float
) -> RoundFinished | Withdrawn:
    """One dump of a tree. Raises as Dumper.take, but for SnapshotLostError."""
    try:
        return Dumper(work).take(after, before_stop, max_freeze_ns)
    except SnapshotLostError as error:
        reason = str(error)
    pid = work.tree.root.pid
    work.emit(Notice(pid=pid, subject="clone-lost", message=f"{reason}; the dump is taken again, without one"))
    for member in work.tree.members:  # pages were reset that no round holds
        member.base = Base(RunList(1), reason)
    options = replace(work.options, freeze_by=FreezeWish.COPY)
    again = replace(work, options=options, since_ns=time.monotonic_ns())
    return Dumper(again).take(after, before_stop, max_freeze_ns)


class Dumper:
    """Takes one dump of a tree. Used by one OS thread: it owns ptrace."""

    def __init__(self, work: DumpWork) -> None:
        options = work.options
        self._tree = work.tree
        self._destination = work.destination
        self._pipeline = work.pipeline
        self._options = options
        self._emit = work.emit
        self._memory = StagingMemory(options.staging_bytes // PAGE_BYTES)
        self._objects = ObjectSet(self._memory)
        self._contents = RoundContents()
        self._opened = ExitStack()  # until the dump is over
        self._undertaken = ExitStack()  # a little longer
        self._shared: dict[int, dict[str, int]] = {}
        self._since_ns = work.since_ns
        self._connections: Connections | None = None
        self._hooks = Hooks(options.hooks, work.emit, work.tree.root.pid)
        self._round_ahead = work.round_ahead
        self._has_early_flags = False

    def take(self, after: AfterDump, before_stop: BeforeStop, max_freeze_ns: float) -> RoundFinished | Withdrawn:
        """Tracked processes are copied ahead in micro-rounds, all others in the freeze.

        `before_stop` is called right before they are stopped. The dump is withdrawn if it is predicted then to freeze
        them for more than `max_freeze_ns`.

        Raises TargetGone, PermissionDenied, TargetUntraceable, StorageError, SnapshotLostError, HookFailed,
        ConnectionsChanged; everything goes on in each case.
        """
        with self._memory, self._undertaken, self._opened:
            self._aside = self._opened.enter_context(ThreadPoolExecutor(1, "aside"))
            self._aside.submit(int).result()  # the thread is there, and waits
            if self._options.tcp_established and after is AfterDump.KILL:
                self._connections = self._opened.enter_context(Connections(self._options.tcp_hold_s))
            self._descriptors = self._opened.enter_context(DescriptorCapture(self._connections))
            self._processes = DumpedProcesses(self._tree, self._memory, self._descriptors, self._opened, self._emit)
            self._writer = DumpWriter(self._processes, self._objects, self._memory, self._emit)
            self._before = BeforeFreeze(self._tree, self._processes, self._memory, self._since_ns, self._emit)
            for member in self._tree.members:
                self._processes.prepare(member)
            self._prepare_rechecks()
            if self._connections:
                self._connections.wait_ready()
            reached(Point.PREPARED)
            if self._round_ahead:
                self._opened.enter_context(short_turns())
                self._before.rounds_ahead(self._round_ahead)
            round_ = self._opened.enter_context(
                OpenRound(RoundKind.DUMP, self._tree, self._destination, self._pipeline, self._emit)
            )
            with self._hooks.around_freeze({"round": round_.number, "kind": RoundKind.DUMP.value}):
                return self._micro_rounds_and_freeze(round_, after, before_stop, max_freeze_ns)

    def _micro_rounds_and_freeze(
        self, round_: OpenRound, after: AfterDump, before_stop: BeforeStop, max_freeze_ns: float
    ) -> RoundFinished | Withdrawn:
        wish = wish_for(after, self._options)
        size = measure_size(self._tree.members, wish)
        if not self._round_ahead:
            self._before.micro_rounds(round_.output.figures)
        self._processes.each_running(ProcessDump.look)  # as rounds left it: what is left to look at is less
        self._prepare_rechecks()  # for hardware that began to write meanwhile
        self._before.prepare_clones(wish, self._undertaken)
        self._emit.hold()  # whoever listens may keep us waiting
        try:
            predicted_ns = self._before.predict(size)
            if predicted_ns > max_freeze_ns:
                return self._withdraw(predicted_ns)
            round_.output.figures.predicted_freeze_ns = predicted_ns
            before_stop()
            return self._freeze_and_write(round_, after)
        finally:
            self._emit.release()

    def _prepare_rechecks(self) -> None:
        self._before.prepare_rechecks(self._destination, self._options.compress_threads)

    def _withdraw(self, predicted_ns: int) -> Withdrawn:
        for process in self._processes:
            process.withdraw()
        return Withdrawn(predicted_ns)

    # ---- in the freeze -----------------------------------------------------------------------------------------

    def _freeze_and_write(self, round_: OpenRound, after: AfterDump) -> RoundFinished:
        figures = round_.output.figures
        stands_still = after is not AfterDump.LEAVE_RUNNING
        freeze = Freeze(
            self._tree.root.target,
            descendants=self._processes.target_of if self._tree.whole else None,
            optional=O_SUSPEND_SECCOMP,  # one thread alone may have a filter
        )
        finished: RoundFinished | None = None
        until_doomed = self._connections.until_doomed() if self._connections else nullcontext()
        with no_garbage_collection(), self._pipeline.unlimited(), freeze, until_doomed:
            reached(Point.FROZEN)
            hands_over = after is AfterDump.KILL and self._destination.hands_over
            self._capture(freeze, figures, stands_still=stands_still, hands_over=hands_over)
            if not self._writer.fits():
                self._contents.streamed_while_frozen = True
                since_ns = time.monotonic_ns()
                self._writer.write_frozen(round_.output)
                figures.stream_ns = time.monotonic_ns() - since_ns
                reached(Point.STREAMED)
            if stands_still:
                # Only once the dump is on disk: until then, whatever becomes of us, everything goes on.
                self._emit.release()
                behind = self._prepare_handover if hands_over else None
                finished = self._finish(round_, freeze, stands_still=True, behind=behind)
                if hands_over:
                    self._destination.hand_over(freeze, self._emit, self._confirm_flags)
                if self._connections:
                    self._connections.doom([process.member.target.pidfd for process in self._processes])
                for process in self._processes:
                    _end(process, after)
            reached(Point.THAWING)
        if self._connections:
            self._connections.close()
        self._emit.release()
        reached(Point.THAWED)
        if after is AfterDump.LEAVE_STOPPED:
            wait_until_stopped(self._processes.pids)
        told = {"round": round_.number, "kind": RoundKind.DUMP.value, "frozen_ns": freeze.frozen_ns, "captured": True}
        self._hooks.after_freeze(told)
        for member in self._processes.left:
            self._tree.remove(member)
        return finished or self._finish(round_, freeze, stands_still=False, behind=None)

    def _read_flags_aside(self) -> None:
        self._processes.each(lambda process: process.read_flags_aside(self._aside))

    def _capture(self, freeze: Freeze, figures: Figures, *, stands_still: bool, hands_over: bool) -> None:
        """Everything that only the freeze can tell.

        State comes before memory: asking a thread writes to its memory (its stack, and what the kernel keeps there for
        rseq(2)).
        """
        since_ns = time.monotonic_ns()
        self._contents.clocks = _clocks()
        self._contents.zombies = list(filter(None, map(describe.zombie, freeze.zombies)))
        for stopped in freeze.processes:
            self._processes.settle(stopped)
        reached(Point.SETTLED)
        self._processes.forget_strays()
        asking_ns = time.monotonic_ns()
        self._processes.each(ProcessDump.ask)
        targets = [process.member.target for process in self._processes]
        self._descriptors.read(targets)
        self._shared = find_shared(targets)
        reached(Point.ASKED)
        copying_ns = time.monotonic_ns()
        self._processes.each(lambda process: process.scan(self._objects))
        self._has_early_flags = hands_over and all(process.has_flags for process in self._processes)
        if stands_still and not self._has_early_flags:  # not sooner: threads that are asked need a processor
            self._read_flags_aside()
        tables = SegmentTables()
        self._processes.each(lambda process: process.look_at_segments(tables))
        self._choose()
        self._processes.each(self._copy_or_clone)
        reached(Point.COPIED)
        objects_ns = time.monotonic_ns()
        for content in self._descriptors.contents():
            self._objects.add_content(content.fd, content.kind, content.path)
        capturing_ns = time.monotonic_ns()
        self._objects.capture()
        reached(Point.OBJECTS_COPIED)
        processes = self._processes
        figures.state_ns = copying_ns - asking_ns
        figures.maps_ns = asking_ns - since_ns + capturing_ns - objects_ns + sum(one.maps_ns for one in processes)
        figures.holes_ns = sum(one.holes_ns for one in processes)
        figures.clone_ns = sum(one.clone_ns for one in processes)
        figures.pages_copied_frozen = sum(process.copied_pages for process in processes)

    def _choose(self) -> None:
        """Decides which processes to clone."""
        if not self._before.undertaker:
            return
        for process in self._processes:
            process.choose(self._options.freeze_by)
        if all(process.freeze_by is FreezeBy.CLONE for process in self._processes):
            # What micro-rounds copied is in the clones as well; there is room for what is not.
            self._memory.clear()
            for process in self._processes:
                process.staging.forget_copies()

    def _copy_or_clone(self, process: ProcessDump) -> None:
        if (
            process.freeze_by is FreezeBy.CLONE
            and self._before.undertaker
            and process.clone(self._before.undertaker.fd)
        ):
            self._contents.freeze_by = FreezeBy.CLONE
        else:
            process.copy()

    # ---- after it ----------------------------------------------------------------------------------------------

    def _prepare_handover(self) -> None:
        self._destination.prepare_handover()
        if self._has_early_flags:  # nobody waits for them before the process is built
            self._read_flags_aside()

    def _confirm_flags(self) -> None:
        if self._has_early_flags:
            for process in self._processes:
                process.confirm_flags()

    def _part(self, process: ProcessDump, files: DescriptorRecords) -> describe.ProcessPart:
        shared = self._shared.get(process.member.pid, {})
        return process.part(files, shared, early_flags=self._has_early_flags)

    def _finish(
        self, round_: OpenRound, freeze: Freeze, *, stands_still: bool, behind: Callable[[], None] | None
    ) -> RoundFinished:
        """Writes, makes records of what was gathered, and commits. Raises StorageError, PredumpError (strict)."""
        contents, figures = self._contents, round_.output.figures
        figures.frozen_ns, figures.stop_ns, figures.resume_ns = freeze.frozen_ns, freeze.stop_ns, freeze.resume_ns
        contents.freeze_by = contents.freeze_by or FreezeBy.COPY
        if not stands_still:
            for process in self._processes:
                process.read_flags()  # writing takes its time: the sooner they are read, the better
        self._writer.write(round_.output, self._before.undertaker)
        reached(Point.WRITTEN)
        files = self._descriptors.records(self._objects.ids)
        contents.open_files, contents.pipes = files.open_files, files.pipes
        for process in self._processes:
            try:
                contents.parts.append(self._part(process, files))
            except LOST_ERRORS:
                self._processes.forget(process)
                round_.output.discard(process.written())
            figures.injected_calls += process.capture.injected_calls
        round_.output.flush()
        for one in self._objects:
            object_output = self._writer.object_outputs[one.id]
            contents.objects.append(object_output.object_record(one))
            figures.add(object_output.figures)
        if self._options.strict:
            strict.refuse([item for part in contents.parts for item in part.all_missing()])
        if self._connections:
            self._connections.check(self._processes.pids)
        return round_.commit(contents, behind)


def _end(process: ProcessDump, after: AfterDump) -> None:
    """Stops or kills a process in the freeze: it will not run another instruction."""
    assert process.stopped is not None
    if after is AfterDump.LEAVE_STOPPED:
        process.stopped.threads.send_stop()
    else:
        with suppress(ProcessLookupError):  # it was killed in the freeze
            signal.pidfd_send_signal(process.member.target.pidfd, signal.SIGKILL)
    reached(Point.SIGNALLED)


def wait_until_stopped(pids: list[int]) -> None:
    """A thread that was not scheduled since the freeze does not show the stop yet, though it will not run before it."""
    deadline_ns = time.monotonic_ns() + STOP_SHOWS_NS
    while not all(map(_is_stopped, pids)) and time.monotonic_ns() < deadline_ns:
        time.sleep(POLL_S)


def _is_stopped(pid: int) -> bool:
    """Whether none of its threads runs; also if it has ended."""
    try:
        tids = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - again and again
        return all(read_stat(pid, int(tid)).state in "TtZX" for tid in tids)
    except GONE_ERRORS:
        return True


def _clocks() -> image.Clocks:
    return image.Clocks(
        realtime_ns=time.time_ns(),
        monotonic_ns=time.monotonic_ns(),
        boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    )
