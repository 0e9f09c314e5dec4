"""One target, one checkpoint, from the first round to the dump: what the commands do."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from dumper import convergence, describe, lease
from dumper.checkpoint import CheckpointDirectory
from dumper.convergence import Decision, Policy, RoundSample, Verdict
from dumper.errors import TargetUntraceable
from dumper.events import Attached, Emit, Notice, Predicted, RoundFinished
from dumper.inject import take_userfaultfd
from dumper.kernel.runs import RunList
from dumper.lease import Lease
from dumper.pipeline import PagePipeline
from dumper.rounds import AfterDump, Base, Options, RoundTaker
from dumper.target import Target, gone
from dumper.tracking import AddressSpace, Tracker, TrackingLostError

MAX_ATTEMPTS = 3  # when the target calls exec in the middle of a round
PRE_DUMP_SHARE = (
    0.5  # a dump with more to copy than this share of the staging memory takes a round first
)

T = TypeVar("T")


class Session:
    """`with Session(pid, directory, options, emit) as session: session.pre_dump()`.

    Nothing of the target is touched before the first round. When the session ends, the target runs untraced; it stays
    tracked if (and only if) a keeper was left behind by `pre_dump`. To be used by one OS thread.
    """

    def __init__(self, pid: int, directory: Path, options: Options, emit: Emit) -> None:
        """Raises TargetGone, PermissionDenied, TargetUntraceable, TargetBusy, StorageError, PredumpError."""
        self._options = options
        self._emit = emit
        self._lease: Lease | None = None
        self._tracker: Tracker | None = None
        self._base: Base | None = None
        self._last_reset_ns = 0
        self._target = Target(pid)
        try:
            self._directory = CheckpointDirectory(directory)
            try:
                self._directory.refuse_other_target(self._target, describe.host().boot_id)
                self._pipeline = PagePipeline(
                    level=options.level, compress_threads=options.compress_threads
                )
                self._taker = self._new_taker()
            except BaseException:
                self._directory.close()
                raise
        except BaseException:
            self._target.close()
            raise
        for number in self._directory.removed:
            self._notice(
                "unfinished-round",
                f"round {number} had not been finished and was removed",
                round=number,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives everything back; a keeper's tracking goes on without us."""
        self._forget_tracking()
        self._pipeline.close()
        self._taker.close()
        self._directory.close()
        self._target.close()

    # ---- what the commands do ------------------------------------------------------------------------------------

    def pre_dump(self) -> RoundFinished:
        """One round without freezing; a keeper holds the tracking for the next command.

        Raises: the errors of `__init__`, KernelFeatureMissing.
        """

        def take() -> RoundFinished:
            self._ensure_tracking()
            self._ensure_keeper()
            return self._take_round()

        return self._through_exec(take)

    def dump(self, after: AfterDump, *, pre_dump: bool) -> RoundFinished:
        """The final freeze-and-dump; tracking ends with it.

        With `pre_dump`, a round without freezing comes first where there is much to copy (nothing dumped yet,
        tracking lost, or more written than fits the staging memory well). Raises as `pre_dump`.
        """

        def take() -> RoundFinished:
            if pre_dump:
                self._ensure_tracking()
                if self._much_to_copy():
                    self._take_round()
            else:
                self._use_tracking_if_there()
            return self._take_dump(after)

        return self._through_exec(take)

    def run(
        self, policy: Policy, after: AfterDump, interval_s: float
    ) -> tuple[RoundFinished, Verdict]:
        """Rounds until a freeze fits the policy, then the dump. Raises as `pre_dump`."""

        def take() -> tuple[RoundFinished, Verdict]:
            self._ensure_tracking()
            started_ns = time.monotonic_ns()
            samples: list[RoundSample] = []
            while True:
                since_last_ns = time.monotonic_ns() - self._last_reset_ns
                round_ = self._take_round()
                samples.append(
                    RoundSample(round_.pages_written, since_last_ns, round_.scan_ns, round_.copy_ns)
                )
                threads = len(os.listdir(f"/proc/{self._target.pid}/task"))
                verdict = convergence.decide(
                    samples, threads, time.monotonic_ns() - started_ns, policy
                )
                self._emit(
                    Predicted(
                        pid=self._target.pid,
                        round=round_.round,
                        predicted_freeze_ns=verdict.predicted_freeze_ns,
                        decision=verdict.decision.value,
                        reason=verdict.reason,
                    )
                )
                if verdict.decision is not Decision.CONTINUE:
                    return self._take_dump(after), verdict
                time.sleep(interval_s)

        return self._through_exec(take)

    # ---- rounds --------------------------------------------------------------------------------------------------

    def _take_round(self) -> RoundFinished:
        assert self._tracker is not None and self._base is not None
        self._last_reset_ns = time.monotonic_ns()
        finished, runs = self._taker.pre_dump(self._tracker, self._base)
        self._base = Base(covered=runs, full_reason="")
        state = self._directory.state
        if self._lease and state:
            self._lease.commit(state)
        return finished

    def _take_dump(self, after: AfterDump) -> RoundFinished:
        base = self._base or Base(RunList(1), "dumped in one go, without tracking")
        finished = self._taker.dump(self._tracker, base, after)
        self._end_tracking()
        return finished

    def _much_to_copy(self) -> bool:
        assert self._tracker is not None and self._base is not None
        if self._base.is_full:
            return True
        pages = self._taker.pages_written(self._tracker, self._base.covered)
        return pages * 4096 > PRE_DUMP_SHARE * self._options.staging_bytes

    def _through_exec(self, action: Callable[[], T]) -> T:
        """Runs `action`, anew if the target replaced its memory (exec) meanwhile. Raises TargetGone."""
        for _ in range(MAX_ATTEMPTS):
            try:
                return action()
            except TrackingLostError:
                pass
            except OSError as error:
                if error.errno != errno.ESRCH:
                    raise
            if self._target.has_ended:
                raise gone(self._target.pid)
            self._begin_anew()
        raise TargetUntraceable(
            f"process {self._target.pid} called exec in the middle of each of {MAX_ATTEMPTS} attempts",
            hint="Try again when it has settled.",
            pid=self._target.pid,
        )

    # ---- tracking ------------------------------------------------------------------------------------------------

    def _new_taker(self) -> RoundTaker:
        return RoundTaker(self._target, self._directory, self._pipeline, self._options, self._emit)

    def _begin_anew(self) -> None:
        self._notice(
            "exec",
            f"process {self._target.pid} called exec; its new memory is captured from the beginning",
        )
        self._end_tracking()
        pid = self._target.pid
        self._taker.close()
        self._target.close()
        self._target = Target(pid)
        self._taker = self._new_taker()

    def _use_tracking_if_there(self) -> bool:
        """Borrows the keeper's userfaultfd, if there is a keeper."""
        if self._tracker:
            return True
        self._lease = lease.find(self._target)
        if self._lease is None:
            return False
        fd, state = lease.begin(self._lease, self._target)
        self._tracker = Tracker(self._target, self._taker.space, fd)
        self._tracker.refresh()
        self._base = self._base_after(state)
        return True

    def _base_after(self, state: lease.ChainState | None) -> Base:
        """What the next round may leave to earlier ones, given the keeper's state."""
        if state is None:
            reason = "the round before was not finished"
        elif self._directory.state is None:
            reason = "first round of the checkpoint"
        elif self._directory.state != state:
            reason = (
                f"the last round in {self._directory.path} is not the one that tracking refers to"
            )
        else:
            return Base(self._directory.read_last_runs(self._target.pid), "")
        return Base(RunList(1), reason)

    def _ensure_tracking(self) -> None:
        if self._use_tracking_if_there():
            return
        reason = "tracking was lost" if self._directory.last else "first round of the checkpoint"
        injection = take_userfaultfd(
            self._target, [vma.mapping for vma in self._taker.space.read()]
        )
        self._tracker = Tracker(self._target, self._taker.space, injection.uffd)
        self._base = Base(RunList(1), reason, attach_stop_ns=injection.stop_ns)
        self._emit(
            Attached(
                pid=self._target.pid, threads=injection.threads, attach_stop_ns=injection.stop_ns
            )
        )

    def _ensure_keeper(self) -> None:
        if self._lease is None:
            assert self._tracker is not None
            self._lease = lease.start_keeper(self._target, self._tracker.fd)

    def _forget_tracking(self) -> None:
        if self._tracker:
            self._tracker.close()
            self._tracker = None
        if self._lease:
            self._lease.close()
            self._lease = None
        self._base = None

    def _end_tracking(self) -> None:
        if self._tracker:
            self._tracker.drop()
        if self._lease:
            self._lease.release()
        self._forget_tracking()

    def _notice(self, subject: str, message: str, **fields: str | int) -> None:
        self._emit(Notice(pid=self._target.pid, subject=subject, message=message, fields=fields))


def detach(pid: int) -> bool:
    """Drops the tracking of a process; the target is as it was before. False if it was not tracked.

    Raises TargetGone, PermissionDenied, TargetBusy.
    """
    with Target(pid) as target:
        found = lease.find(target)
        if found is None:
            return False
        try:
            fd, _ = lease.begin(found, target)
            tracker = Tracker(target, AddressSpace(target), fd)
            try:
                tracker.refresh()
                tracker.drop()
            except TrackingLostError:
                tracker.close()
            found.release()
        finally:
            found.close()
        return True
