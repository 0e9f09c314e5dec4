"""One process or tree, one checkpoint, from the first round to the dump: what the commands do."""

import os
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from dumper import describe, lease, strict
from dumper.attaching import Attacher
from dumper.checkpoint import CheckpointDirectory
from dumper.convergence import Policy
from dumper.destination import Destination, kill_unconfirmed
from dumper.dump import AfterDump, BeforeStop, DumpWork, Withdrawn, take_dump, wish_for
from dumper.events import Announcer, Emit, Event, HandedOver, HookFinished, Notice, RoundFinished, ignore
from dumper.hooks import Hooks
from dumper.kernel.runs import RunList
from dumper.lease import Chained, ChainState, Key, Lease
from dumper.outlive import in_child
from dumper.pipeline import PagePipeline
from dumper.prediction import Pace, Size
from dumper.rounds import Options, PreDumper, exec_notice
from dumper.run import Outcome, Run
from dumper.sizing import measure_size, measure_slowness
from dumper.target import gone
from dumper.throttle import Throttle
from dumper.tracking import Tracker
from dumper.tree import LOST_ERRORS, Base, Member, Tree
from formats.closing import Closing
from formats.errors import PredumpError
from formats.faults import Point, reached
from formats.layout import PAGE_BYTES
from formats.manifest import RoundKind

PRE_DUMP_SHARE = 0.5  # a dump with more to copy than this share of the staging memory takes a round first

FAST_LINK_BYTES_PER_S = 125_000_000  # at which compressing well takes longer than it saves

NO_LIMIT_NS = float("inf")

FIRST_ROUND = "first round of the checkpoint"
NOT_TRACKED = "dumped in one go, without tracking"


def _nothing() -> None:
    pass


class Session(Closing):
    """`with Session(pid, destination) as session: session.pre_dump()`; see docs/python.md.

    With `tree`, all descendants of the process are captured with it. Nothing of them is touched before the first round.
    When the session ends, they run untraced; they stay tracked if (and only if) a keeper was left behind, by `pre_dump`
    or with Options.keep_tracking. To be used by one OS thread.
    `failed_hooks` are commands of `options.hooks` that failed though the dump did not; `handed_over` says that the
    process runs at the receiver now.
    """

    def __init__(
        self,
        pid: int,
        destination: Path | Destination,
        options: Options | None = None,
        emit: Emit = ignore,
        *,
        tree: bool = False,
    ) -> None:
        """A path is that of a checkpoint directory, made if it is missing. `emit` is called with what happens.

        Raises TargetGone, PermissionDenied, TargetUntraceable, TargetBusy, StorageError, PredumpError.
        """
        self._options = options or Options()
        self.failed_hooks: list[str] = []
        self.handed_over: HandedOver | None = None

        def pass_on(event: Event) -> None:
            if isinstance(event, HookFinished) and not event.ok:
                self.failed_hooks.append(event.hook)
            elif isinstance(event, HandedOver):
                self.handed_over = event
            emit(event)

        self.emit = Announcer(pass_on)
        self._lease: Lease | None = None
        self._held: dict[Key, Tracker] = {}  # what the keeper has, too
        self._since_ns = 0  # when the written pages were last reset, CLOCK_MONOTONIC
        self.last_window_ns = 0
        self._sent_bytes_per_s = 0.0  # by the fastest round
        with ExitStack() as opened:
            self._tree = opened.enter_context(Tree(pid, whole=tree, on_left=self._note_left))
            if isinstance(destination, Path):
                destination = CheckpointDirectory(destination)
            self._destination: Destination = opened.enter_context(destination)
            destination.refuse_other_target(self._tree.root.target, describe.host().boot_id)
            self._pipeline = opened.enter_context(self._new_pipeline())
            self._opened = opened.pop_all()
        self._begin_rounds()
        for number in self._destination.removed:
            self._notice("unfinished-round", f"round {number} had not been finished and was removed", round=number)

    def _begin_rounds(self) -> None:
        """With the pipeline and the listener of this process, which may be a child."""
        self._attacher = Attacher(self._tree, self.emit, exec_notice, "it comes in full with the dump")
        self._rounds = PreDumper(self._tree, self._destination, self._pipeline, self.emit, self._attacher)

    def close(self) -> None:
        """Gives everything back; a keeper's tracking goes on without us."""
        if self._lease:
            self._lease.close()
            self._lease = None
        self._opened.close()

    # ---- what the commands do ----------------------------------------------------------------------------------

    def pre_dump(self) -> RoundFinished:
        """One round without freezing; a keeper holds the tracking for the next command.

        Raises: the errors of `__init__`, KernelFeatureMissing.
        """
        self._track_for_good()
        return self.take_round()

    def dump(self, after: AfterDump = AfterDump.LEAVE_RUNNING, *, pre_dump: bool = True) -> RoundFinished:
        """The freeze-and-dump; tracking ends with it, unless it is to be kept.

        With `pre_dump`, a round without freezing comes first where there is much to copy (nothing dumped yet,
        tracking lost, or more written than fits the staging memory well). Raises as `pre_dump`.
        """
        self._refuse(after)
        if self._options.keep_tracking:
            self._track_for_good()
        if pre_dump:
            self.track()
            if self._has_much_to_copy():
                self.take_round()
        elif not self._options.keep_tracking:
            self._borrow_tracking()
            self._tree.refresh()
            root = self._tree.root
            if root.tracker is None:
                root.base = Base(RunList(1), NOT_TRACKED)
        return self.take_dump(after)

    def run(self, policy: Policy, after: AfterDump = AfterDump.LEAVE_RUNNING, interval_s: float = 0.0) -> Outcome:
        """Rounds until a freeze fits the policy, then the dump. Raises as `pre_dump`."""
        self._refuse(after)
        if self._options.keep_tracking:
            self._track_for_good()
        return Run(self, policy, after, interval_s).take()

    # ---- what a run is made of -----------------------------------------------------------------------------------

    def size(self, after: AfterDump) -> Size:
        """What there is to stand still now."""
        options = self._options
        size = measure_size(self._tree.members, wish_for(after, options))
        return replace(size, room_pages=options.staging_bytes // PAGE_BYTES, slowness=measure_slowness())

    def take_round(self, *, defer_hot: bool = False) -> RoundFinished:
        """One round of the running processes, which may leave hot pages for the freeze. Raises as `pre_dump`."""
        self._open_round()
        since_ns = time.monotonic_ns()
        finished = self._rounds.take(defer_hot=defer_hot)
        self.last_window_ns = since_ns - self._since_ns
        self._sent_bytes_per_s = max(self._sent_bytes_per_s, finished.stored_bytes * 10**9 / finished.duration_ns)
        self._since_ns = since_ns
        self._tell_keeper(self._chain_state())
        self._check_files()
        return finished

    def _round_ahead(self) -> Pace:
        """One round right before a dump; what it showed."""
        finished = self.take_round()
        return Pace(finished.pages_written, self.last_window_ns, finished.scan_ns, finished.copy_ns)

    def _check_files(self) -> None:
        self._destination.check_files([member.pid for member in self._tree.members])

    def throttle(self) -> Throttle:
        """What can slow the processes down; it does nothing yet."""
        return Throttle(self._tree.root.target, whole=self._tree.whole)

    def take_dump(self, after: AfterDump, before_stop: BeforeStop = _nothing) -> RoundFinished:
        """The dump, and the end of the tracking unless it is to be kept.

        `before_stop` is called right before the processes are stopped. Raises as `pre_dump`.
        """
        taken = self.try_dump(after, before_stop, NO_LIMIT_NS)
        assert isinstance(taken, RoundFinished)
        return taken

    def try_dump(self, after: AfterDump, before_stop: BeforeStop, max_freeze_ns: float) -> RoundFinished | Withdrawn:
        """The same, but withdrawn if, right before the freeze, it is predicted to take more than `max_freeze_ns`.

        A process with a seccomp filter is dumped however long it takes.
        """
        self._check_files()
        self._open_round()
        since_ns = time.monotonic_ns()
        taken: RoundFinished | Withdrawn
        if any(member.has_seccomp_filter() for member in self._tree.members):
            taken = self._dump_from_child(after, before_stop)
        else:
            taken = self._dump(after, before_stop, max_freeze_ns)
            if isinstance(taken, RoundFinished):
                self._after_dump(self._chain_state(), since_ns)
        if isinstance(taken, RoundFinished):
            hooks = Hooks(self._options.hooks, self.emit, taken.pid)
            hooks.after_dump({**asdict(taken), "destination": self._destination.name})
        return taken

    def _after_dump(self, state: ChainState, since_ns: int) -> None:
        """`state` is that of the dump. What was written since the last look before the freeze counts as written."""
        if self._options.keep_tracking:
            self._since_ns = since_ns
            self._tell_keeper(state)
        else:
            self.end_tracking()

    # ---- rounds ------------------------------------------------------------------------------------------------

    def _dump(self, after: AfterDump, before_stop: BeforeStop, max_freeze_ns: float) -> RoundFinished | Withdrawn:
        is_awaited = self._destination.is_far and after is not AfterDump.LEAVE_RUNNING
        ahead = self._round_ahead if is_awaited else None
        if is_awaited and self._sent_bytes_per_s >= FAST_LINK_BYTES_PER_S:
            self._pipeline.make_haste()
        work = DumpWork(self._tree, self._destination, self._pipeline, self._options, self.emit, self._since_ns, ahead)
        return take_dump(work, after, before_stop, max_freeze_ns)

    def _dump_from_child(self, after: AfterDump, before_stop: BeforeStop) -> RoundFinished:
        """The same by a tracer that outlives this process."""

        def dump(emit: Emit) -> tuple[tuple[RoundFinished, ChainState], list[int]]:
            self.emit = Announcer(emit)
            enter_child()
            with self._new_pipeline() as self._pipeline:  # threads are not there after a fork
                self._begin_rounds()
                taken = self._dump(after, before_stop, NO_LIMIT_NS)
                assert isinstance(taken, RoundFinished)
                return (taken, self._chain_state()), []

        since_ns = time.monotonic_ns()
        try:
            with self._destination.for_child() as enter_child:
                finished, state = in_child(dump, self.emit)[0]
        except ConnectionResetError:
            raise PredumpError(
                "the process that took the dump was killed",
                hint="The targets go on, and there is no new round: try again.",
            ) from None
        self._after_dump(state, since_ns)
        if self._options.keep_tracking:
            self._destination.look_again()
            for member in self._tree.members:
                member.base = self._base_after(state, member)
        return finished

    def _new_pipeline(self) -> PagePipeline:
        options = self._options
        return PagePipeline(level=options.level, compress_threads=options.compress_threads, limits=options.limits)

    def _open_round(self) -> None:
        """Pages are reset from now on: if we die, nobody may build on the round before. Raises TargetBusy."""
        if self._lease:
            self._lease.open_round()

    def _chain_state(self) -> ChainState:
        """What later rounds may build on: the last one, and in it those who are tracked."""
        last = self._destination.last
        assert last is not None
        processes = {
            member.key: Chained(member.base.full_round, member.base.unseen_writers)
            for member in self._tree.members
            if member.tracker and not member.base.is_full and not member.base.left_out
        }
        return ChainState(last.manifest.checkpoint_id, last.number, last.sha256, processes)

    def _tell_keeper(self, state: ChainState) -> None:
        """Only now may the next command build on the round."""
        if self._lease is None:
            return
        trackers = {member.key: member.tracker for member in self._tree.members if member.tracker}
        tracked = {key: tracker for key, tracker in trackers.items() if key in state.processes}  # it lets go of others
        new = [(key, tracker.fd) for key, tracker in tracked.items() if self._held.get(key) is not tracker]
        try:
            self._lease.hold(new)
            reached(Point.HELD)
            self._lease.commit(state)
        except OSError:
            self._notice("keeper-lost", "the keeper was ended meanwhile: the next round will hold everything")
        self._held = tracked
        reached(Point.TOLD)

    def _has_much_to_copy(self) -> bool:
        pages = 0
        for member in self._tree.members:
            if member.tracker and member.base.is_full:
                return True
            if member.tracker:
                try:
                    pages += self._rounds.pages_written(member)
                except LOST_ERRORS:
                    self._attacher.lost(member)
        return pages * PAGE_BYTES > PRE_DUMP_SHARE * self._options.staging_bytes

    def _refuse(self, after: AfterDump) -> None:
        """Raises what is known beforehand."""
        if after is AfterDump.KILL and not self._destination.confirms:
            raise kill_unconfirmed(self._destination.name)
        if self._options.strict:
            self._tree.refresh()
            strict.refuse(strict.foresee(self._tree))

    # ---- tracking ----------------------------------------------------------------------------------------------

    def _track_for_good(self) -> None:
        """The same, with a keeper that has the tracking after this session."""
        self.track()
        if self._lease is None:
            self._lease = lease.start_keeper(self._tree.root.target)

    def track(self) -> None:
        """Sees to it that every process is tracked, with what a keeper has of them, or anew."""
        self._borrow_tracking()
        self._tree.refresh()
        for member in self._tree.members:
            if member.tracker is None:
                self._attacher.attach(member)
                continue
            try:
                member.clear_doubt()
            except LOST_ERRORS:
                if self._attacher.lost(member):
                    self._attacher.attach(member)

    def _borrow_tracking(self) -> None:
        """Takes over what a keeper has. Raises TargetBusy."""
        if self._lease or self._since_ns:
            return
        root, last = self._tree.root, self._destination.last
        self._since_ns = time.monotonic_ns()
        root.base = Base(RunList(1), FIRST_ROUND if last is None else _why_not_tracked(last.manifest.kind))
        borrowed = lease.borrow(root.target)
        if borrowed is None:
            return
        self._lease, uffds, state = borrowed
        self._tree.refresh()
        for key, fd in uffds.items():
            member = self._tree.member(key[0])
            if member is None or member.key != key:  # it has ended
                os.close(fd)
                continue
            member.tracker = self._held[key] = Tracker(member.target, member.space, fd)
            member.base = self._base_after(state, member)
            try:
                member.tracker.refresh()
            except LOST_ERRORS:
                self._attacher.lost(member)

    def _base_after(self, state: ChainState | None, member: Member) -> Base:
        """What the next round may leave to earlier ones, given the keeper's state."""
        destination, pid = self._destination, member.pid
        if state is None:
            reason = "the round before was not finished"
        elif destination.last is None:
            reason = FIRST_ROUND
        elif not destination.continues(state):
            reason = f"the last round in {destination.name} is not the one that tracking refers to"
        elif member.key not in state.processes:
            reason = "the process is not in the round before"
        else:
            chained = state.processes[member.key]
            full_round = destination.full_round(chained.full_round)
            if destination.has_rounds(full_round, state.round, pid):
                return Base(destination.read_last_runs(pid), "", full_round, chained.unseen_writers)
            reason = "an earlier round is missing"
        return Base(RunList(1), reason)

    def end_tracking(self) -> None:
        """Lets the processes be as they were before."""
        for member in self._tree.members:
            member.drop_tracking()
            reached(Point.UNTRACKED)
        if self._lease:
            self._lease.release()
            reached(Point.RELEASED)
            self._lease.close()
            self._lease = None

    # ---- events ------------------------------------------------------------------------------------------------

    def _note_left(self, member: Member) -> None:
        self._notice("process-left", f"process {member.pid} {member.parting} and is not in the round", child=member.pid)

    def _notice(self, subject: str, message: str, **fields: str | int) -> None:
        self.emit(Notice(pid=self._tree.root.pid, subject=subject, message=message, fields=fields))


def _why_not_tracked(last: RoundKind) -> str:
    return "tracking ended with or after the last dump" if last is RoundKind.DUMP else "tracking was lost"


def detach(pid: int) -> bool:
    """Drops the tracking of a process and of those captured with it; they are as before. False if it was not tracked.

    Raises TargetGone, PermissionDenied, TargetBusy.
    """
    with Member(pid, "") as root:
        borrowed = lease.borrow(root.target)
        if borrowed is None:
            return False
        keeper, held, _ = borrowed
        for key, fd in held.items():
            if key == root.key:
                _drop(root, fd)
                continue
            try:
                with Member(key[0], "") as member:
                    if member.key != key:
                        raise gone(key[0])
                    _drop(member, fd)
            except LOST_ERRORS:
                os.close(fd)
        keeper.release()
        reached(Point.RELEASED)
        keeper.close()
        return True


def _drop(member: Member, fd: int) -> None:
    member.tracker = Tracker(member.target, member.space, fd)
    try:
        member.tracker.refresh()
        member.drop_tracking()
        reached(Point.UNTRACKED)
    except LOST_ERRORS:
        member.tracker.close()
