"""Random damage: a checkpoint reads as it was, or not at all.

By default each test takes some seconds. `pytest tests/fuzz --seconds 3600` (`make fuzz SECONDS=3600`) goes on for that
time, half of it here, half of it in test_manifest_fields. A failure names its seed: `pytest tests/fuzz -k TEST --seed N
--seconds 0` tries that one case again, and without `--seconds 0` the ones behind it as well.
"""

from __future__ import annotations

import secrets
import time
from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.conftest import Bench
from tests.fuzz.mutations import MUTATIONS, Mutation
from tests.fuzz.readers import DAMAGED, NOT_THERE
from tests.fuzz.samples import Files
from tests.tally import Count, Tally

_EXAMPLES = 40
_DEFAULT_S = 3.0
_PHASES = tuple(set(Phase) - {Phase.explain})  # to explain, every line is traced: too slow for a bound on time


def takes_over(files: Files, undamaged: Files, other: Files) -> bool:
    """Whether a manifest is that of another checkpoint, which is sound where it is: what it says, goes."""
    return any(files[name] != undamaged[name] and files[name] == other.get(name) for name in files)


def problems_of(bench: Bench, other: Files, random: Random, mutations: list[Mutation], tally: Tally) -> list[str]:
    """What commands did wrong after these mutations, together with what was done."""
    files = dict(bench.sample.files)
    done = [mutation(random, files, other) for mutation in mutations]
    n_commands = len(bench.words)
    endings = bench.endings(files, random.sample(range(n_commands), 4))
    if takes_over(files, bench.sample.files, other):
        found = [problem for ending in endings for problem in ending.problems(allowed=(*DAMAGED, *NOT_THERE))]
    else:
        found = [problem for ending in endings for problem in ending.problems(allowed=DAMAGED)]
        found += [f"misread: {ending.words}" for ending in endings if bench.misread(ending)]
    if files != bench.sample.files:
        found += [f"not noticed: {e.words}" for e in endings if e.words[0] == "verify" and not e.exit_code]
    tally.add(Count.IMAGES_TRIED)
    tally.add(Count.IMAGES_MISREAD, int(bool(found)))
    return [*found, *done] if found else []


@settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), phases=_PHASES)
@given(
    mutations=st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=3),
    random=st.randoms(use_true_random=False),
)
def test_a_damaged_checkpoint_is_refused_or_read_as_it_was(
    bench: Bench, made_by_hand: Bench, tally: Tally, mutations: list[Mutation], random: Random
) -> None:
    assert problems_of(bench, made_by_hand.sample.files, random, mutations, tally) == []


def test_for_as_long_as_wanted(
    bench: Bench, made_by_hand: Bench, tally: Tally, seconds: float | None, seed: int | None
) -> None:
    """The same without an end, but faster than hypothesis makes cases: its seeds are one number each."""
    case = secrets.randbits(48) if seed is None else seed
    end_s = time.monotonic() + (_DEFAULT_S if seconds is None else seconds / 4)
    while True:
        random = Random(case)
        mutations = random.choices(MUTATIONS, k=random.choice((1, 1, 2, 3)))
        problems = problems_of(bench, made_by_hand.sample.files, random, mutations, tally)
        assert not problems, f"--seed {case} --seconds 0\n" + "\n".join(problems)
        if time.monotonic() >= end_s:
            return
        case += 1
