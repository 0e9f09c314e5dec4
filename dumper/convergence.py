"""When to stop taking rounds: history in, decision out. Pure functions over numbers.

A dump now would first take micro-rounds: each copies what was written during the one before, so what is left for the
freeze shrinks until a round's fixed cost (the scan) dominates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MAX_MICRO_ROUNDS = 5
MICRO_ROUND_GAIN = 0.7  # a micro-round that leaves more than this share of the one before does not pay
FEW_PAGES = 64  # copied in less time than a scan of anything takes
FREEZE_NS_PER_THREAD = 40_000  # stop, read its state, resume
FREEZE_NS_PER_PROCESS = 1_000_000  # its mappings, its state, some descriptors
COMPARE_NS_PER_PAGE = 1_000  # of the freeze with an older copy: read and hashed
PROGRESS_ROUNDS = 3  # so many rounds without shrinking are no progress


@dataclass(frozen=True, slots=True)
class RoundSample:
    """What one round showed: pages written since the one before, in how long, and what scan and copy took.

    `pages_in_doubt` have older copies that the freeze must compare with memory.
    """

    pages_written: int
    since_last_ns: int
    scan_ns: int
    copy_ns: int
    pages_in_doubt: int = 0


class Decision(StrEnum):
    """What to do after a round."""

    CONTINUE = "continue"
    FREEZE = "freeze"
    GIVE_UP = "give-up"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, the freeze it is based on (0: not known yet), and why, in words."""

    decision: Decision
    predicted_freeze_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The user's limits: freeze and total time in ns, rounds as a count."""

    max_freeze_ns: int
    max_rounds: int
    timeout_ns: int


def another_micro_round(pages: Sequence[int]) -> bool:
    """Whether one more micro-round pays, given the pages that each one so far copied."""
    if len(pages) >= MAX_MICRO_ROUNDS:
        return False
    if not pages:
        return True
    if pages[-1] <= FEW_PAGES:
        return False
    return len(pages) == 1 or pages[-1] < MICRO_ROUND_GAIN * pages[-2]


def predict_freeze_ns(sample: RoundSample, threads: int, processes: int) -> int:
    """Frozen time of a dump taken right after the sampled round, in ns, with its micro-rounds played through."""
    copy_ns_per_page = sample.copy_ns / sample.pages_written if sample.pages_written else 0.0
    pages_per_ns = sample.pages_written / sample.since_last_ns if sample.since_last_ns else 0.0
    pending = float(sample.pages_written)
    history: list[int] = []
    while another_micro_round(history):
        history.append(int(pending))
        pending = min(pending, pages_per_ns * (sample.scan_ns + pending * copy_ns_per_page))
    fixed_ns = processes * FREEZE_NS_PER_PROCESS + threads * FREEZE_NS_PER_THREAD
    doubt_ns = sample.pages_in_doubt * COMPARE_NS_PER_PAGE
    return int(fixed_ns + sample.scan_ns + pending * copy_ns_per_page + doubt_ns)


def decide(samples: Sequence[RoundSample], threads: int, processes: int, elapsed_ns: int, policy: Policy) -> Verdict:
    """What to do after the last of `samples` (the first is the full round, whose size says nothing about writes)."""
    predicted_ns = predict_freeze_ns(samples[-1], threads, processes)
    written = [sample.pages_written for sample in samples[1:]]
    if len(samples) == 1:
        if samples[0].pages_written == 0:
            return Verdict(Decision.FREEZE, predicted_ns, "there is nothing to copy")
        if policy.max_rounds > 1 and elapsed_ns < policy.timeout_ns:
            return Verdict(Decision.CONTINUE, 0, "the write rate is not known yet")
        return Verdict(Decision.GIVE_UP, predicted_ns, "only one round was allowed")
    if predicted_ns <= policy.max_freeze_ns:
        return Verdict(Decision.FREEZE, predicted_ns, "the predicted freeze fits")
    if len(samples) >= policy.max_rounds:
        return Verdict(Decision.GIVE_UP, predicted_ns, f"{policy.max_rounds} rounds were not enough")
    if elapsed_ns >= policy.timeout_ns:
        return Verdict(Decision.GIVE_UP, predicted_ns, "the time is up")
    if len(written) > PROGRESS_ROUNDS and min(written[-PROGRESS_ROUNDS:]) >= min(written[:-PROGRESS_ROUNDS]):
        return Verdict(Decision.GIVE_UP, predicted_ns, f"{PROGRESS_ROUNDS} rounds did not shrink")
    return Verdict(Decision.CONTINUE, predicted_ns, "the predicted freeze is still too long")
