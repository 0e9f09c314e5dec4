"""Rounds that drive themselves: until the predicted freeze fits its budget, or what is done where it never will."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dumper import convergence
from dumper.convergence import Decision, OnNoConverge, Policy, Verdict
from dumper.dump import AfterDump, Withdrawn
from dumper.events import Emit, Predicted, RoundFinished
from dumper.prediction import Pace, Size, forecast


class Steps(Protocol):
    """What a run is made of; a session has them."""

    @property
    def emit(self) -> Emit:
        """Takes events."""

    @property
    def last_window_ns(self) -> int:
        """Within what time the pages were written that the last round copied."""

    def size(self) -> Size:
        """What there is to stand still now."""

    def track(self) -> None:
        """Sees to it that every process is tracked."""

    def take_round(self) -> RoundFinished:
        """One round of the running processes."""

    def take_dump(self, after: AfterDump) -> RoundFinished:
        """The dump."""

    def try_dump(self, after: AfterDump, max_freeze_ns: float) -> RoundFinished | Withdrawn:
        """The dump; withdrawn if, right before the freeze, it is predicted to take more than `max_freeze_ns`."""

    def end_tracking(self) -> None:
        """Lets the processes be as they were."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its last round, which is the dump unless the run was cancelled, and what was decided upon."""

    finished: RoundFinished
    verdict: Verdict
    dumped: bool

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

    def take(self) -> Outcome:
        """Rounds, then the dump. Raises as Session.pre_dump."""
        outcome, finished, verdict = self._rounds(self._decide)
        if outcome:
            return outcome
        if self._policy.on_no_converge is OnNoConverge.CANCEL:
            self._steps.end_tracking()
            return Outcome(finished, verdict, dumped=False)
        return Outcome(self._steps.take_dump(self._after), verdict, dumped=True)

    def _rounds(self, decide: Callable[[int], Verdict]) -> tuple[Outcome | None, RoundFinished, Verdict]:
        """Rounds until `decide`, given a predicted freeze in ns, says that it is enough: the dump, or None."""
        while True:
            finished, verdict = self._round(decide)
            if verdict.decision is Decision.FREEZE:
                dumped = self._steps.try_dump(self._after, self._policy.max_freeze_ns)
                if isinstance(dumped, RoundFinished):
                    return Outcome(dumped, verdict, dumped=True), dumped, verdict
                verdict = self._tell(finished, decide(dumped.predicted_freeze_ns))
            if verdict.decision is Decision.GIVE_UP:
                return None, finished, verdict
            time.sleep(self._interval_s)

    def _round(self, decide: Callable[[int], Verdict]) -> tuple[RoundFinished, Verdict]:
        self._steps.track()
        finished = self._steps.take_round()
        self._written.append(finished.pages_written)
        pace = Pace(finished.pages_written, self._steps.last_window_ns, finished.scan_ns, finished.copy_ns)
        predicted_ns = forecast(self._steps.size(), pace, convergence.pages_after_micro_rounds(pace)).total_ns
        return finished, self._tell(finished, decide(predicted_ns))

    def _decide(self, predicted_ns: int) -> Verdict:
        return convergence.decide(self._written, predicted_ns, time.monotonic_ns() - self._started_ns, self._policy)

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
