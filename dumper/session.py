"""One target, one checkpoint, from the first round to the dump: what the commands do."""

import errno
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dumper import convergence, describe, lease
from dumper.checkpoint import CheckpointDirectory
from dumper.convergence import Decision, Policy, RoundSample, Verdict
from dumper.errors import TargetUntraceable
from dumper.events import Attached, Emit, Notice, Predicted, RoundFinished
from dumper.inject import take_userfaultfd
from dumper.kernel.runs import RunList
from dumper.lease import ChainState, Lease
from dumper.pipeline import PagePipeline
from dumper.rounds import AfterDump, Base, Options, RoundTaker
from dumper.target import Target, gone
from dumper.tracking import AddressSpace, Tracker, TrackingLostError
from formats.closing import Closing
from formats.layout import PAGE_BYTES
from formats.manifest import RoundKind

MAX_ATTEMPTS = 3  # when the target calls exec in the middle of a round
PRE_DUMP_SHARE = 0.5  # a dump with more to copy than this share of the staging memory takes a round first

FIRST_ROUND = "first round of the checkpoint"
NOT_TRACKED = "dumped in one go, without tracking"

T = TypeVar("T")


@dataclass(slots=True)
class Tracking:
    """Armed write tracking: with what, what the next round builds on, and the keeper's lease if there is a keeper."""

    tracker: Tracker
    base: Base
    lease: Lease | None
    since_ns: int  # when the written pages were last reset, CLOCK_MONOTONIC
    full_round: int = 0  # where the chain of parents ends

    def close(self) -> None:
        """Lets go of it; a keeper's copy stays armed."""
        self.tracker.close()
        if self.lease:
            self.lease.close()

    def end(self) -> None:
        """Ends it, everywhere."""
        self.tracker.drop()
        if self.lease:
            self.lease.release()
        self.close()


class Session(Closing):
    """`with Session(pid, directory, options, emit) as session: session.pre_dump()`.

    Nothing of the target is touched before the first round. When the session ends, the target runs untraced; it stays
    tracked if (and only if) a keeper was left behind by `pre_dump`. To be used by one OS thread.
    """

    def __init__(self, pid: int, directory: Path, options: Options, emit: Emit) -> None:
        """Raises TargetGone, PermissionDenied, TargetUntraceable, TargetBusy, StorageError, PredumpError."""
        self._options = options
        self._emit = emit
        self._tracking: Tracking | None = None
        with ExitStack() as opened:
            self._target = Target(pid)
            opened.callback(self._close_target)
            opened.enter_context(lease.exclusive(self._target))
            self._directory = CheckpointDirectory(directory)
            opened.callback(self._directory.close)
            self._directory.refuse_other_target(self._target, describe.host().boot_id)
            self._pipeline = PagePipeline(level=options.level, compress_threads=options.compress_threads)
            opened.callback(self._pipeline.close)
            self._taker = self._new_taker()
            opened.callback(self._close_taker)
            self._opened = opened.pop_all()
        for number in self._directory.removed:
            self._notice("unfinished-round", f"round {number} had not been finished and was removed", round=number)

    def close(self) -> None:
        """Gives everything back; a keeper's tracking goes on without us."""
        if self._tracking:
            self._tracking.close()
        self._opened.close()

    def _close_target(self) -> None:  # whichever it is by then
        self._target.close()

    def _close_taker(self) -> None:
        self._taker.close()

    # ---- what the commands do ----------------------------------------------------------------------------------

    def pre_dump(self) -> RoundFinished:
        """One round without freezing; a keeper holds the tracking for the next command.

        Raises: the errors of `__init__`, KernelFeatureMissing.
        """

        def take() -> RoundFinished:
            tracking = self._track()
            if tracking.lease is None:
                tracking.lease = lease.start_keeper(self._target, tracking.tracker.fd)
            return self._take_round(tracking)

        return self._through_exec(take)

    def dump(self, after: AfterDump, *, pre_dump: bool) -> RoundFinished:
        """The final freeze-and-dump; tracking ends with it.

        With `pre_dump`, a round without freezing comes first where there is much to copy (nothing dumped yet,
        tracking lost, or more written than fits the staging memory well). Raises as `pre_dump`.
        """

        def take() -> RoundFinished:
            if pre_dump:
                tracking = self._track()
                if self._has_much_to_copy(tracking):
                    self._take_round(tracking)
            else:
                self._borrow_tracking()
            return self._take_dump(after)

        return self._through_exec(take)

    def run(self, policy: Policy, after: AfterDump, interval_s: float) -> tuple[RoundFinished, Verdict]:
        """Rounds until a freeze fits the policy, then the dump. Raises as `pre_dump`."""

        def take() -> tuple[RoundFinished, Verdict]:
            tracking = self._track()
            started_ns = time.monotonic_ns()
            samples: list[RoundSample] = []
            while True:
                since_last_ns = time.monotonic_ns() - tracking.since_ns
                finished = self._take_round(tracking)
                samples.append(RoundSample(finished.pages_written, since_last_ns, finished.scan_ns, finished.copy_ns))
                elapsed_ns = time.monotonic_ns() - started_ns
                verdict = convergence.decide(samples, self._target.thread_count(), elapsed_ns, policy)
                self._tell(finished.round, verdict)
                if verdict.decision is not Decision.CONTINUE:
                    return self._take_dump(after), verdict
                time.sleep(interval_s)

        return self._through_exec(take)

    # ---- rounds ------------------------------------------------------------------------------------------------

    def _take_round(self, tracking: Tracking) -> RoundFinished:
        since_ns = time.monotonic_ns()
        finished, runs = self._taker.pre_dump(tracking.tracker, tracking.base)
        if finished.full:
            tracking.full_round = finished.round
        tracking.base = Base(runs, full_reason="")
        tracking.since_ns = since_ns
        self._tell_keeper(tracking)
        return finished

    def _take_dump(self, after: AfterDump) -> RoundFinished:
        tracking = self._tracking
        if tracking is None:
            return self._taker.dump(None, Base(RunList(1), NOT_TRACKED), after)
        finished = self._taker.dump(tracking.tracker, tracking.base, after)
        self._end_tracking()
        return finished

    def _tell_keeper(self, tracking: Tracking) -> None:
        """Only now may the next command build on the round."""
        last = self._directory.last
        if tracking.lease is None or last is None:
            return
        state = ChainState(last.manifest.checkpoint_id, last.number, last.sha256, tracking.full_round)
        try:
            tracking.lease.commit(state)
        except OSError:
            self._notice("keeper-lost", "the keeper was ended meanwhile: the next round will hold everything")

    def _has_much_to_copy(self, tracking: Tracking) -> bool:
        if tracking.base.is_full:
            return True
        pages = self._taker.pages_written(tracking.tracker, tracking.base.covered)
        return pages * PAGE_BYTES > PRE_DUMP_SHARE * self._options.staging_bytes

    def _through_exec(self, action: Callable[[], T]) -> T:
        """Runs `action`, anew if the target replaced its memory (exec) meanwhile. Raises TargetGone."""
        for _ in range(MAX_ATTEMPTS):
            try:
                return action()
            except TrackingLostError:
                pass
            except OSError as error:
                # ENOENT: of a file in /proc, when the process ends while it is read
                if error.errno != errno.ESRCH and not (error.errno == errno.ENOENT and self._target.has_ended):
                    raise
            if self._target.has_ended:
                raise gone(self._target.pid)
            self._begin_anew()
        raise TargetUntraceable(
            f"process {self._target.pid} called exec in the middle of each of {MAX_ATTEMPTS} attempts",
            hint="Try again when it has settled.",
            pid=self._target.pid,
        )

    # ---- tracking ----------------------------------------------------------------------------------------------

    def _new_taker(self) -> RoundTaker:
        return RoundTaker(self._target, self._directory, self._pipeline, self._options, self._emit)

    def _begin_anew(self) -> None:
        pid = self._target.pid
        self._notice("exec", f"process {pid} called exec; its new memory is captured from the beginning")
        self._end_tracking()
        self._taker.close()
        self._target.close()
        self._target = Target(pid)
        self._taker = self._new_taker()

    def _track(self) -> Tracking:
        """The tracking there is, or a new one."""
        return self._borrow_tracking() or self._begin_tracking()

    def _borrow_tracking(self) -> Tracking | None:
        """What this session has, or what a keeper has, or None. Raises TargetBusy, TrackingLostError."""
        if self._tracking:
            return self._tracking
        borrowed = lease.borrow(self._target)
        if borrowed is None:
            return None
        keeper, fd, state = borrowed
        tracker = Tracker(self._target, self._taker.space, fd)
        full_round = state.full_round if state else 0
        self._tracking = Tracking(tracker, self._base_after(state), keeper, time.monotonic_ns(), full_round)
        tracker.refresh()
        return self._tracking

    def _base_after(self, state: ChainState | None) -> Base:
        """What the next round may leave to earlier ones, given the keeper's state."""
        directory, pid = self._directory, self._target.pid
        if state is None:
            reason = "the round before was not finished"
        elif directory.last is None:
            reason = FIRST_ROUND
        elif not directory.continues(state):
            reason = f"the last round in {directory.path} is not the one that tracking refers to"
        elif not directory.has_rounds(state.full_round, state.round, pid):
            reason = "an earlier round is missing"
        else:
            return Base(directory.read_last_runs(pid), "")
        return Base(RunList(1), reason)

    def _begin_tracking(self) -> Tracking:
        last = self._directory.last
        if last is None:
            reason = FIRST_ROUND
        elif last.manifest.kind is RoundKind.DUMP:
            reason = "tracking ended with the last dump"
        else:
            reason = "tracking was lost"
        injection = take_userfaultfd(self._target, [vma.mapping for vma in self._taker.space.read()])
        tracker = Tracker(self._target, self._taker.space, injection.uffd)
        base = Base(RunList(1), reason, attach_stop_ns=injection.stop_ns)
        self._tracking = Tracking(tracker, base, None, time.monotonic_ns())
        self._emit(Attached(pid=self._target.pid, threads=injection.threads, attach_stop_ns=injection.stop_ns))
        return self._tracking

    def _end_tracking(self) -> None:
        if self._tracking:
            self._tracking.end()
            self._tracking = None

    def _tell(self, number: int, verdict: Verdict) -> None:
        self._emit(
            Predicted(
                pid=self._target.pid,
                round=number,
                predicted_freeze_ns=verdict.predicted_freeze_ns,
                decision=verdict.decision.value,
                reason=verdict.reason,
            )
        )

    def _notice(self, subject: str, message: str, **fields: str | int) -> None:
        self._emit(Notice(pid=self._target.pid, subject=subject, message=message, fields=fields))


def detach(pid: int) -> bool:
    """Drops the tracking of a process; the target is as it was before. False if it was not tracked.

    Raises TargetGone, PermissionDenied, TargetBusy.
    """
    with Target(pid) as target, lease.exclusive(target):
        borrowed = lease.borrow(target)
        if borrowed is None:
            return False
        keeper, fd, _ = borrowed
        tracking = Tracking(Tracker(target, AddressSpace(target), fd), Base(RunList(1), ""), keeper, 0)
        try:
            tracking.tracker.refresh()
            tracking.end()
        except TrackingLostError:
            keeper.release()
            tracking.close()
        return True
