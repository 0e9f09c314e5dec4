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
from functools import partial
from typing import TypeVar

from dumper import describe, strict
from dumper.connections import Connections
from dumper.convergence import another_micro_round, another_round_ahead
from dumper.destination import Destination
from dumper.errors import TargetUntraceable
from dumper.events import Announcer, MicroRound, Notice, RoundFinished
from dumper.freeze import Freeze, StoppedProcess
from dumper.freezeplan import FreezeWish
from dumper.hooks import Hooks
from dumper.kernel.copy import FileMaps, Source, StagingMemory
from dumper.kernel.ptrace import O_SUSPEND_SECCOMP, InjectionSite
from dumper.kernel.runs import RunList
from dumper.objects import MappedFiles, ObjectSet
from dumper.output import Figures, ImageOutput, RoundOutput
from dumper.pipeline import PagePipeline
from dumper.prediction import Pace, Size, forecast
from dumper.proc import GONE_ERRORS
from dumper.proc.stat import read_stat
from dumper.processdump import ProcessDump
from dumper.recheck import recheck_with_nothing
from dumper.rounds import OpenRound, Options, RoundContents, exec_notice, unseen_notice
from dumper.sizing import measure_size, measure_slowness
from dumper.snapshot import Snapshot, SnapshotLostError
from dumper.staging import Staging
from dumper.state.descriptors import DescriptorCapture
from dumper.state.openfiles import DescriptorRecords
from dumper.state.segments import SegmentTables
from dumper.state.sharing import find_shared
from dumper.target import Target, gone
from dumper.tree import LOST_ERRORS, Base, Member, Tree
from dumper.undertaker import Undertaker
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
        self._processes: dict[int, ProcessDump] = {}
        self._site: InjectionSite | None = None
        self._contents = RoundContents()
        self._opened = ExitStack()  # until the dump is over
        self._undertaken = ExitStack()  # a little longer
        self._undertaker: Undertaker | None = None
        self._left: list[Member] = []
        self._shared: dict[int, dict[str, int]] = {}
        self._scanned_ns = work.since_ns
        self._object_outputs: dict[int, ImageOutput] = {}
        self._connections: Connections | None = None
        self._hooks = Hooks(options.hooks, work.emit, work.tree.root.pid)
        self._round_ahead = work.round_ahead
        self._pace = Pace(0, 0, 0, 0)
        self._has_early_flags = False

    def take(self, after: AfterDump, before_stop: BeforeStop, max_freeze_ns: float) -> RoundFinished | Withdrawn:
        """Tracked processes are copied ahead in micro-rounds, all others in the freeze.

        `before_stop` is called right before they are stopped. The dump is withdrawn if it is predicted then to freeze
        them for more than `max_freeze_ns`.

        Raises TargetGone, PermissionDenied, TargetUntraceable, StorageError, SnapshotLostError, HookFailed,
        ConnectionsChanged; everything goes on in each case.
        """
        with self._memory, self._undertaken, self._opened:
            self._files = self._opened.enter_context(MappedFiles())
            self._aside = self._opened.enter_context(ThreadPoolExecutor(1, "aside"))
            self._aside.submit(int).result()  # the thread is there, and waits
            if self._options.tcp_established and after is AfterDump.KILL:
                self._connections = self._opened.enter_context(Connections(self._options.tcp_hold_s))
            self._descriptors = self._opened.enter_context(DescriptorCapture(self._connections))
            for member in self._tree.members:
                self._prepare(member)
            self._prepare_rechecks()
            if self._connections:
                self._connections.wait_ready()
            reached(Point.PREPARED)
            if self._round_ahead:
                self._opened.enter_context(short_turns())
                self._rounds_ahead(self._round_ahead)
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
            self._micro_rounds(round_.output.figures)
        self._each_running(ProcessDump.look)  # as rounds left it: what is left to look at is less
        self._prepare_rechecks()  # for hardware that began to write meanwhile
        self._prepare_clones(wish)
        self._emit.hold()  # whoever listens may keep us waiting
        try:
            predicted_ns = self._predict(size)
            if predicted_ns > max_freeze_ns:
                return self._withdraw(predicted_ns)
            round_.output.figures.predicted_freeze_ns = predicted_ns
            before_stop()
            return self._freeze_and_write(round_, after)
        finally:
            self._emit.release()

    # ---- while they run ----------------------------------------------------------------------------------------

    def _prepare(self, member: Member, *, stands_still: bool = False) -> ProcessDump | None:
        """Gets a process ready for the dump; None if it ended."""
        for _ in range(MAX_ATTEMPTS):
            try:
                process = ProcessDump(member, self._memory, self._files, self._site, stands_still=stands_still)
                if not stands_still:
                    self._descriptors.prepare(member.target)
            except LOST_ERRORS:
                if not self._lost(member):
                    return None
                continue
            self._site = self._site or process.capture.site
            self._processes[member.pid] = self._opened.enter_context(process)
            return process
        raise TargetUntraceable(
            f"process {member.pid} calls exec all the time", hint="Try again when it has settled.", pid=member.pid
        )

    def _lost(self, member: Member) -> bool:
        """A process was lost: True if it called exec and goes on, untracked. Raises TargetGone for the root."""
        self._processes.pop(member.pid, None)
        goes_on = self._tree.lost(member)
        if goes_on:
            self._emit(exec_notice(member.pid))
        return goes_on

    def _withdraw(self, predicted_ns: int) -> Withdrawn:
        for process in self._processes.values():
            process.withdraw()
        return Withdrawn(predicted_ns)

    def _predict(self, size: Size) -> int:
        """The frozen time that is to come, in ns."""
        pace = self._pace
        pages = pace.pages_within(time.monotonic_ns() - self._scanned_ns + STOP_AND_SCAN_NS)
        pages += sum(process.staging.pages_not_copied for process in self._processes.values())
        staged_pages = self._memory.n_pages
        room_pages = self._memory.size_pages - staged_pages
        size = replace(size, room_pages=room_pages, staged_pages=staged_pages, slowness=measure_slowness())
        return forecast(size if self._undertaker else replace(size, clone_ns=None), pace, pages).total_ns

    def _rounds_ahead(self, take_round: Callable[[], Pace]) -> None:
        """Rounds with everything prepared: the freeze follows on the last one at once, so that little is left to send.

        They take the place of micro-rounds, whose copies would be sent in the freeze.
        """
        history: list[int] = []
        while any(member.tracker for member in self._tree.members) and another_round_ahead(history):
            self._scanned_ns = time.monotonic_ns()
            self._pace = take_round()
            history.append(self._pace.pages_written)
            if another_round_ahead(history):
                self._each_running(ProcessDump.renew_flags)
        for pid, process in list(self._processes.items()):
            member = self._tree.member(pid)
            if member is not process.member or not process.is_current:  # it ended or called exec in a round
                del self._processes[pid]
                if member:
                    self._prepare(member)
        self._each_running(ProcessDump.build_on_round)

    def _each_running(self, action: Callable[[ProcessDump], None]) -> None:
        for process in list(self._processes.values()):
            self._while_running(process, partial(action, process))

    def _micro_rounds(self, figures: Figures) -> None:
        """Copies into the staging memory: each holds what was written during the one before."""
        history: list[int] = []
        while any(p.member.tracker for p in self._processes.values()) and another_micro_round(history):
            since_ns, last_scanned_ns = time.monotonic_ns(), self._scanned_ns
            self._scanned_ns = since_ns
            history.append(sum(self._while_running(p, p.micro_round) or 0 for p in list(self._processes.values())))
            reached(Point.MICRO_ROUND)
            stagings = [process.staging for process in self._processes.values()]
            scan_ns, copy_ns = sum(one.scan_ns for one in stagings), sum(one.copy_ns for one in stagings)
            written = history[-1] + sum(one.pages_not_copied for one in stagings)
            copy_ns = copy_ns * written // max(1, history[-1])
            self._pace = Pace(written, since_ns - last_scanned_ns, scan_ns, copy_ns)
            self._emit(
                MicroRound(
                    pid=self._tree.root.pid,
                    pages_written=history[-1],
                    duration_ns=time.monotonic_ns() - since_ns,
                )
            )
            if not all(process.staging.fits for process in self._processes.values()):
                break
        figures.micro_rounds = len(history)

    def _prepare_rechecks(self) -> None:
        """Takes down what earlier rounds hold of processes whose pages may have been written unseen since.

        Raises ParentMissing, ImageCorrupt, StorageError.
        """
        for process in self._processes.values():
            base, pid = process.member.base, process.member.pid
            if process.recheck or not process.is_in_doubt:
                continue
            if not base.unseen_writers:
                self._emit(unseen_notice(pid, process.unseen_writers))
            if base.is_full:
                process.recheck = recheck_with_nothing()
            else:
                process.recheck = self._destination.recheck(pid, self._options.compress_threads)

    def _prepare_clones(self, wish: FreezeWish) -> None:
        """Has somebody ready to bury them, if there will be any."""
        if wish is FreezeWish.COPY:
            return
        processes = list(self._processes.values())
        plans = [self._while_running(process, partial(process.foresee, wish)) for process in processes]
        if FreezeBy.CLONE in plans:
            undertaker = self._undertaken.enter_context(Undertaker())
            if undertaker.wait_ready():
                self._undertaker = undertaker
        reached(Point.FORESEEN)

    def _while_running(self, process: ProcessDump, action: Callable[[], T]) -> T | None:
        """What `action` returns; None for a process that ended or called exec, which is prepared anew."""
        try:
            return action()
        except LOST_ERRORS:
            if self._lost(process.member):
                self._prepare(process.member)
            return None

    # ---- in the freeze -----------------------------------------------------------------------------------------

    def _freeze_and_write(self, round_: OpenRound, after: AfterDump) -> RoundFinished:
        figures = round_.output.figures
        stands_still = after is not AfterDump.LEAVE_RUNNING
        freeze = Freeze(
            self._tree.root.target,
            descendants=self._target_of if self._tree.whole else None,
            optional=O_SUSPEND_SECCOMP,  # one thread alone may have a filter
        )
        finished: RoundFinished | None = None
        until_doomed = self._connections.until_doomed() if self._connections else nullcontext()
        with no_garbage_collection(), self._pipeline.unlimited(), freeze, until_doomed:
            reached(Point.FROZEN)
            hands_over = after is AfterDump.KILL and self._destination.hands_over
            self._capture(freeze, figures, stands_still=stands_still, hands_over=hands_over)
            if not self._fits():
                self._contents.streamed_while_frozen = True
                since_ns = time.monotonic_ns()
                self._write_pages(round_.output, frozen=True)
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
                    self._connections.doom([process.member.target.pidfd for process in self._processes.values()])
                for process in self._processes.values():
                    _end(process, after)
            reached(Point.THAWING)
        if self._connections:
            self._connections.close()
        self._emit.release()
        reached(Point.THAWED)
        if after is AfterDump.LEAVE_STOPPED:
            wait_until_stopped(list(self._processes))
        told = {"round": round_.number, "kind": RoundKind.DUMP.value, "frozen_ns": freeze.frozen_ns, "captured": True}
        self._hooks.after_freeze(told)
        for member in self._left:
            self._tree.remove(member)
        return finished or self._finish(round_, freeze, stands_still=False, behind=None)

    def _target_of(self, pid: int) -> Target:
        """The Target of a descendant, a new one if it was not known. Raises TargetGone, and as Member."""
        member = self._tree.member(pid)
        if member and member.target.has_ended:
            self._processes.pop(pid, None)
            self._tree.remove(member)
            member = None
        member = member or self._tree.add(pid)
        if member is None:
            raise gone(pid)
        return member.target

    def _read_flags_aside(self) -> None:
        self._each(lambda process: process.read_flags_aside(self._aside))

    def _capture(self, freeze: Freeze, figures: Figures, *, stands_still: bool, hands_over: bool) -> None:
        """Everything that only the freeze can tell.

        State comes before memory: asking a thread writes to its memory (its stack, and what the kernel keeps there for
        rseq(2)).
        """
        since_ns = time.monotonic_ns()
        self._contents.clocks = _clocks()
        self._contents.zombies = list(filter(None, map(describe.zombie, freeze.zombies)))
        for stopped in freeze.processes:
            self._settle(stopped)
        reached(Point.SETTLED)
        for process in list(self._processes.values()):
            if process.stopped is None:  # it left the tree before the freeze, and runs
                self._forget(process)
        asking_ns = time.monotonic_ns()
        self._each(ProcessDump.ask)
        targets = [process.member.target for process in self._processes.values()]
        self._descriptors.read(targets)
        self._shared = find_shared(targets)
        reached(Point.ASKED)
        copying_ns = time.monotonic_ns()
        self._each(lambda process: process.scan(self._objects))
        self._has_early_flags = hands_over and all(process.has_flags for process in self._processes.values())
        if stands_still and not self._has_early_flags:  # not sooner: threads that are asked need a processor
            self._read_flags_aside()
        tables = SegmentTables()
        self._each(lambda process: process.look_at_segments(tables))
        self._choose()
        self._each(self._copy_or_clone)
        reached(Point.COPIED)
        objects_ns = time.monotonic_ns()
        for content in self._descriptors.contents():
            self._objects.add_content(content.fd, content.kind, content.path)
        capturing_ns = time.monotonic_ns()
        self._objects.capture()
        reached(Point.OBJECTS_COPIED)
        processes = self._processes.values()
        figures.state_ns = copying_ns - asking_ns
        figures.maps_ns = asking_ns - since_ns + capturing_ns - objects_ns + sum(one.maps_ns for one in processes)
        figures.holes_ns = sum(one.holes_ns for one in processes)
        figures.clone_ns = sum(one.clone_ns for one in processes)
        figures.pages_copied_frozen = sum(process.copied_pages for process in processes)

    def _choose(self) -> None:
        """Decides which processes to clone."""
        if not self._undertaker:
            return
        for process in self._processes.values():
            process.choose(self._options.freeze_by)
        if all(process.freeze_by is FreezeBy.CLONE for process in self._processes.values()):
            # What micro-rounds copied is in the clones as well; there is room for what is not.
            self._memory.clear()
            for process in self._processes.values():
                process.staging.forget_copies()

    def _copy_or_clone(self, process: ProcessDump) -> None:
        if process.freeze_by is FreezeBy.CLONE and self._undertaker and process.clone(self._undertaker.fd):
            self._contents.freeze_by = FreezeBy.CLONE
        else:
            process.copy()

    def _settle(self, stopped: StoppedProcess) -> None:
        """Gets to know a process as it stands still: it may be new, or have called exec right before."""
        pid = stopped.target.pid
        for _ in range(MAX_ATTEMPTS):
            member = self._tree.member(pid)
            process = self._processes.get(pid) or (member and self._prepare(member, stands_still=True))
            if not process:
                return
            try:
                process.settle(stopped)
                return
            except LOST_ERRORS:
                self._lost(process.member)

    def _each(self, action: Callable[[ProcessDump], None]) -> None:
        """Does it for each process; one that was killed in the freeze is not part of the dump."""
        for process in list(self._processes.values()):
            try:
                action(process)
            except LOST_ERRORS:
                self._forget(process)

    def _forget(self, process: ProcessDump) -> None:
        """A process is not part of the dump; it is let go of after the freeze. Raises TargetGone if it is the root."""
        if process.member is self._tree.root:
            raise gone(process.member.pid)
        del self._processes[process.member.pid]
        self._left.append(process.member)

    def _stagings(self) -> list[Staging]:
        of_objects = [one.staging for one in self._objects]
        return [process.staging for process in self._processes.values()] + of_objects

    def _fits(self) -> bool:
        return all(staging.fits for staging in self._stagings())

    # ---- after it ----------------------------------------------------------------------------------------------

    def _write_pages(self, output: RoundOutput, *, frozen: bool) -> None:
        """Writes what is staged, in the freeze also what found no room there, and after it what clones hold.

        What was written in the freeze is not written again. Raises StorageError, SnapshotLostError.
        """
        staged = Source(0, -1, FileMaps(), self._memory)
        for process in self._processes.values():
            if process.output or (frozen and process.snapshot and process.staging.fits):
                continue
            process.output = output.process(process.member.pid)
            if process.snapshot and not frozen:
                self._write_clone(process.output, process, process.snapshot)
            else:
                _write(process.output, process.staging, process.source() if frozen else staged)
        for one in self._objects:
            if one.id not in self._object_outputs:
                one_output = self._object_outputs[one.id] = output.object(one.id)
                _write(one_output, one.staging, one.source(self._memory) if frozen else staged)

    def _write_clone(self, output: ImageOutput, process: ProcessDump, snapshot: Snapshot) -> None:
        with snapshot.lost_if_gone():
            process.open_clone()
            _write(output, process.staging, snapshot.source(self._memory))
        snapshot.confirm()
        snapshot.close()
        if snapshot.is_left:
            self._emit(_clone_left(process.member.pid, snapshot.child))
        elif self._undertaker:
            self._undertaker.forget(snapshot.child)

    def _prepare_handover(self) -> None:
        self._destination.prepare_handover()
        if self._has_early_flags:  # nobody waits for them before the process is built
            self._read_flags_aside()

    def _confirm_flags(self) -> None:
        if self._has_early_flags:
            for process in self._processes.values():
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
            for process in self._processes.values():
                process.read_flags()  # writing takes its time: the sooner they are read, the better
        self._write_pages(round_.output, frozen=False)
        reached(Point.WRITTEN)
        files = self._descriptors.records(self._objects.ids)
        contents.open_files, contents.pipes = files.open_files, files.pipes
        for process in list(self._processes.values()):
            try:
                contents.parts.append(self._part(process, files))
            except LOST_ERRORS:
                self._forget(process)
                round_.output.discard(process.written())
            figures.injected_calls += process.capture.injected_calls
        round_.output.flush()
        for one in self._objects:
            object_output = self._object_outputs[one.id]
            contents.objects.append(object_output.object_record(one))
            figures.add(object_output.figures)
        if self._options.strict:
            strict.refuse([item for part in contents.parts for item in part.all_missing()])
        if self._connections:
            self._connections.check(self._processes)
        return round_.commit(contents, behind)


def _write(output: ImageOutput, staging: Staging, source: Source) -> None:
    output.write(staging.picture, source)
    # Those of the freeze: what it takes to read the staging memory is none of them.
    output.figures.scan_ns, output.figures.copy_ns = staging.scan_ns, staging.copy_ns


def _clone_left(pid: int, child: int) -> Notice:
    return Notice(
        pid=pid,
        subject="clone-left",
        message=f"process {pid} could not be stopped to reap its clone {child}: it is a zombie of it for a while",
    )


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
