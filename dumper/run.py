"""Rounds that drive themselves: until the predicted freeze fits its budget, or what is done where it never will."""

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Protocol

from dumper import convergence
from dumper.convergence import Decision, OnNoConverge, Policy, Verdict
from dumper.dump import AfterDump, BeforeStop, Withdrawn
from dumper.events import Emit, Notice, Predicted, RoundFinished
from dumper.prediction import Pace, Size, forecast
from dumper.throttle import Throttle, ThrottleError
from formats.layout import PAGE_BYTES


class Steps(Protocol):
    """What a run is made of; a session has them."""

    @property
    def emit(self) -> Emit:
        """Takes events."""

    @property
    def last_window_ns(self) -> int:
        """Within what time the pages were written that the last round copied."""

    def size(self, after: AfterDump) -> Size:
        """What there is to stand still now."""

    def track(self) -> None:
        """Sees to it that every process is tracked."""

    def take_round(self, *, defer_hot: bool) -> RoundFinished:
        """One round of the running processes, which may leave hot pages for the freeze."""

    def take_dump(self, after: AfterDump, before_stop: BeforeStop) -> RoundFinished:
        """The dump; `before_stop` is called right before the processes are stopped."""

    def try_dump(self, after: AfterDump, before_stop: BeforeStop, max_freeze_ns: float) -> RoundFinished | Withdrawn:
        """The dump; withdrawn if, right before the freeze, it is predicted to take more than `max_freeze_ns`."""

    def throttle(self) -> Throttle:
        """What can slow the processes down; it does nothing yet."""

    def end_tracking(self) -> None:
        """Lets the processes be as they were."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its last round, which is the dump unless the run was cancelled, and what was decided upon.

    `deferred_bytes` of hot pages were left for the freeze by its rounds, before compression.
    """

    finished: RoundFinished
    verdict: Verdict
    dumped: bool
    deferred_bytes: int

    @property
    def converged(self) -> bool:
        """Whether the freeze was predicted to fit."""
        return self.verdict.decision is Decision.FREEZE


class Run:
    """One run: `Run(steps, policy, after, interval_s).take()`."""

    def __init__(self, steps: Steps, policy: Policy, after: AfterDump, interval_s: float) -> None:
        self._steps = steps
        self._policy = policy
        self._after = after
        self._interval_s = interval_s
        self._started_ns = time.monotonic_ns()
        self._written: list[int] = []
        self._deferred_pages = 0
        self._throttle: Throttle | None = None
        self._rounds_before_step = 0

    def take(self) -> Outcome:
        """Rounds, then the dump. Raises as Session.pre_dump."""
        outcome, finished, verdict = self._rounds(self._decide)
        if outcome:
            return outcome
        if self._policy.on_no_converge is OnNoConverge.CANCEL:
            self._steps.end_tracking()
            return self._outcome(finished, verdict, dumped=False)
        with ExitStack() as stack:
            if self._policy.on_no_converge is OnNoConverge.THROTTLE:
                self._throttle = stack.enter_context(self._steps.throttle())
                outcome, finished, verdict = self._throttled(self._throttle, finished, verdict)
            return outcome or self._outcome(self._steps.take_dump(self._after, self._lift), verdict)

    def _throttled(
        self, throttle: Throttle, finished: RoundFinished, verdict: Verdict
    ) -> tuple[Outcome | None, RoundFinished, Verdict]:
        """Rounds of the target as it is slowed down step by step."""
        outcome = None
        for share in throttle.steps:
            try:
                how = throttle.limit(share)
            except ThrottleError as error:
                self._note(finished.pid, error.message)
                break
            self._note(finished.pid, f"process {finished.pid} gets {share:.0%} of its processor time: {how}")
            self._rounds_before_step = len(self._written)
            outcome, finished, verdict = self._rounds(self._decide_throttled)
            if outcome:
                break
        return outcome, finished, verdict

    def _outcome(self, finished: RoundFinished, verdict: Verdict, *, dumped: bool = True) -> Outcome:
        return Outcome(finished, verdict, dumped, self._deferred_pages * PAGE_BYTES)

    def _lift(self) -> None:
        """A target that is slowed down would be long in coming to a stop."""
        if self._throttle:
            self._throttle.lift()

    def _rounds(self, decide: Callable[[int], Verdict]) -> tuple[Outcome | None, RoundFinished, Verdict]:
        """Rounds until `decide`, given a predicted freeze in ns, says that it is enough: the dump, or None."""
        while True:
            finished, verdict = self._round(decide)
            if verdict.decision is Decision.FREEZE:
                dumped = self._steps.try_dump(self._after, self._lift, self._policy.max_freeze_ns)
                if isinstance(dumped, RoundFinished):
                    return self._outcome(dumped, verdict), dumped, verdict
                verdict = self._tell(finished, decide(dumped.predicted_freeze_ns))
            if verdict.decision is Decision.GIVE_UP:
                return None, finished, verdict
            time.sleep(self._interval_s)

    def _round(self, decide: Callable[[int], Verdict]) -> tuple[RoundFinished, Verdict]:
        with self._throttle.lifted() if self._throttle else nullcontext():  # a new process is traced for a moment
            self._steps.track()
        finished = self._steps.take_round(defer_hot=self._policy.defer_hot)
        self._written.append(finished.pages_written)
        self._deferred_pages += finished.pages_deferred
        pace = self._pace(finished)
        size = self._steps.size(self._after)
        predicted_ns = forecast(size, pace, convergence.pages_after_micro_rounds(pace)).total_ns
        return finished, self._tell(finished, decide(predicted_ns))

    def _pace(self, finished: RoundFinished) -> Pace:
        """Pages that the round left for the freeze were written, too, and will be copied."""
        copied, written = finished.pages_written, finished.pages_written + finished.pages_deferred
        copy_ns = finished.copy_ns * written // copied if copied else 0
        return Pace(written, self._steps.last_window_ns, finished.scan_ns, copy_ns)

    def _decide(self, predicted_ns: int) -> Verdict:
        return convergence.decide(self._written, predicted_ns, time.monotonic_ns() - self._started_ns, self._policy)

    def _decide_throttled(self, predicted_ns: int) -> Verdict:
        return convergence.decide_throttled(len(self._written) - self._rounds_before_step, predicted_ns, self._policy)

    def _note(self, pid: int, message: str) -> None:
        self._steps.emit(Notice(pid=pid, subject="throttle", message=message))

    def _tell(self, finished: RoundFinished, verdict: Verdict) -> Verdict:
        self._steps.emit(
            Predicted(
                pid=finished.pid,
                round=finished.round,
                predicted_freeze_ns=verdict.predicted_freeze_ns,
                decision=verdict.decision.value,
                reason=verdict.reason,
            )
        )
        return verdict
