"""When to stop taking rounds: history in, decision out. Pure functions over numbers.

A dump now would first take micro-rounds: each copies what was written during the one before, so what is left for the
freeze shrinks until a round's fixed cost (the scan) dominates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dumper.prediction import Pace

MAX_MICRO_ROUNDS = 5
MICRO_ROUND_GAIN = 0.7  # a micro-round that leaves more than this share of the one before does not pay
FEW_PAGES = 64  # copied in less time than a scan of anything takes
MAX_ROUNDS_AHEAD = 12
UNLUCKY = 1.3  # so many times the smallest one is a round ahead that should not be the last
AHEAD_GAIN = 0.9  # the same of a round ahead: each page that it leaves costs many times what a copy does
PROGRESS_ROUNDS = 3  # so many rounds without shrinking are no progress
ROUNDS_PER_THROTTLE_STEP = 2  # one that shows what the limit does, one to make use of it


class Decision(StrEnum):
    """What to do after a round."""

    CONTINUE = "continue"
    FREEZE = "freeze"
    GIVE_UP = "give-up"


class OnNoConverge(StrEnum):
    """What to do when rounds no longer bring the freeze down to its budget."""

    ACCEPT = "accept"
    CANCEL = "cancel"
    THROTTLE = "throttle"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, the freeze it is based on (0: not known yet), and why, in words."""

    decision: Decision
    predicted_freeze_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The user's limits: freeze and total time in ns, rounds as a count; and what to do where they do not hold.

    `defer_hot` leaves pages that most rounds find written for the freeze.
    """

    max_freeze_ns: int
    max_rounds: int
    timeout_ns: int
    on_no_converge: OnNoConverge = OnNoConverge.ACCEPT
    defer_hot: bool = False


def another_micro_round(pages: Sequence[int]) -> bool:
    """Whether one more micro-round pays, given the pages that each one so far copied."""
    return _may_go_on(pages, MAX_MICRO_ROUNDS) and _shrinks(pages, MICRO_ROUND_GAIN)


def pages_after_micro_rounds(pace: Pace) -> float:
    """Pages left for a freeze right after the round that showed this pace, with its micro-rounds played through."""
    pending = float(pace.pages_written)
    history: list[int] = []
    while another_micro_round(history):
        history.append(int(pending))
        pending = min(pending, pace.pages_within(pace.scan_ns + pending * pace.copy_ns_per_page))
    return pending


def another_round_ahead(pages: Sequence[int]) -> bool:
    """Whether one more round right before a freeze that lasts until all is sent pays, given the pages of those so far.

    Each sends what was written while the one before was on its way, until that does not become less. The last one is no
    larger than it has to be: as much is left for the freeze.
    """
    if not _may_go_on(pages, MAX_ROUNDS_AHEAD):
        return False
    return _shrinks(pages, AHEAD_GAIN) or pages[-1] > UNLUCKY * min(pages)


def _may_go_on(pages: Sequence[int], max_rounds: int) -> bool:
    """Whether there were fewer rounds, and the last one had something to gain from another."""
    return len(pages) < max_rounds and (not pages or pages[-1] > FEW_PAGES)


def _shrinks(pages: Sequence[int], gain: float) -> bool:
    """Whether the last round had less than this share of the one before; for want of two it is tried."""
    return len(pages) < 2 or pages[-1] < gain * pages[-2]


def decide(written: Sequence[int], predicted_ns: int, elapsed_ns: int, policy: Policy) -> Verdict:
    """What to do after a round that took `written[-1]` pages; the first one, a full round, says nothing of writes.

    `predicted_ns` is the frozen time of a dump taken now, and `elapsed_ns` the time since the first round began.
    """
    if len(written) == 1:
        if written[0] == 0:
            return Verdict(Decision.FREEZE, predicted_ns, "there is nothing to copy")
        if policy.max_rounds > 1 and elapsed_ns < policy.timeout_ns:
            return Verdict(Decision.CONTINUE, 0, "the write rate is not known yet")
        return Verdict(Decision.GIVE_UP, predicted_ns, "only one round was allowed")
    since_first = written[1:]
    if predicted_ns <= policy.max_freeze_ns:
        return Verdict(Decision.FREEZE, predicted_ns, "the predicted freeze fits")
    if len(written) >= policy.max_rounds:
        return Verdict(Decision.GIVE_UP, predicted_ns, f"{policy.max_rounds} rounds were not enough")
    if elapsed_ns >= policy.timeout_ns:
        return Verdict(Decision.GIVE_UP, predicted_ns, "the time is up")
    if len(since_first) > PROGRESS_ROUNDS and min(since_first[-PROGRESS_ROUNDS:]) >= min(
        since_first[:-PROGRESS_ROUNDS]
    ):
        return Verdict(Decision.GIVE_UP, predicted_ns, f"{PROGRESS_ROUNDS} rounds did not shrink")
    return Verdict(Decision.CONTINUE, predicted_ns, "the predicted freeze is still too long")


def decide_throttled(rounds_at_this_step: int, predicted_ns: int, policy: Policy) -> Verdict:
    """The same for a target whose processor time is limited: each step of the limit gets a few rounds."""
    if predicted_ns <= policy.max_freeze_ns:
        return Verdict(Decision.FREEZE, predicted_ns, "the predicted freeze of the slowed target fits")
    if rounds_at_this_step < ROUNDS_PER_THROTTLE_STEP:
        return Verdict(Decision.CONTINUE, predicted_ns, "the predicted freeze is still too long")
    return Verdict(Decision.GIVE_UP, predicted_ns, "it was not slowed enough")
