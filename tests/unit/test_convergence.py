"""When to freeze: pure functions of the rounds so far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumper.convergence import (
    MAX_MICRO_ROUNDS,
    MAX_ROUNDS_AHEAD,
    PROGRESS_ROUNDS,
    Decision,
    Policy,
    another_micro_round,
    another_round_ahead,
    decide,
    pages_after_micro_rounds,
)
from dumper.prediction import Pace

MS = 1_000_000
POLICY = Policy(max_freeze_ns=20 * MS, max_rounds=10, timeout_ns=60_000 * MS)
FULL_PAGES = 262144
LONG_NS = 100 * MS


@pytest.mark.parametrize(
    ("written", "predicted_ns", "elapsed_ns", "policy", "expected"),
    [
        pytest.param([FULL_PAGES], 0, 0, POLICY, Decision.CONTINUE, id="the full round tells no write rate"),
        pytest.param([0], LONG_NS, 0, POLICY, Decision.FREEZE, id="nothing to copy"),
        pytest.param([FULL_PAGES], 0, 0, Policy(20 * MS, 1, 10**12), Decision.GIVE_UP, id="one round allowed"),
        pytest.param([FULL_PAGES], 0, 60_000 * MS, POLICY, Decision.GIVE_UP, id="time used up by the full round"),
        pytest.param([FULL_PAGES, 10], 20 * MS, 0, POLICY, Decision.FREEZE, id="it fits"),
        pytest.param([FULL_PAGES, 10], 20 * MS + 1, 0, POLICY, Decision.CONTINUE, id="it does not fit yet"),
        pytest.param([FULL_PAGES, 10], LONG_NS, 0, Policy(20 * MS, 2, 10**12), Decision.GIVE_UP, id="rounds used up"),
        pytest.param([FULL_PAGES, 10], LONG_NS, 60_000 * MS, POLICY, Decision.GIVE_UP, id="time used up"),
        pytest.param([FULL_PAGES, 9, 9, 9, 9], LONG_NS, 0, POLICY, Decision.GIVE_UP, id="rounds do not shrink"),
        pytest.param([FULL_PAGES, 9, 9, 9], LONG_NS, 0, POLICY, Decision.CONTINUE, id="too few rounds to tell"),
        pytest.param([FULL_PAGES, 9, 8, 7, 6], LONG_NS, 0, POLICY, Decision.CONTINUE, id="they shrink"),
        pytest.param([FULL_PAGES, 9, 8, 9, 9], LONG_NS, 0, POLICY, Decision.CONTINUE, id="one of three shrank"),
        pytest.param([FULL_PAGES, 9, 9, 9, 9], MS, 60_000 * MS, POLICY, Decision.FREEZE, id="a fit comes first"),
    ],
)
def test_decisions(written: list[int], predicted_ns: int, elapsed_ns: int, policy: Policy, expected: Decision) -> None:
    assert decide(written, predicted_ns, elapsed_ns, policy).decision is expected


@given(
    written=st.lists(st.integers(0, 10**7), min_size=1, max_size=30),
    predicted_ns=st.integers(0, 10**11),
    elapsed_ns=st.integers(0, 10**12),
    max_freeze_ns=st.integers(0, 10**11),
    max_rounds=st.integers(1, 20),
)
def test_limits_hold_whatever_the_history(
    written: list[int], predicted_ns: int, elapsed_ns: int, max_freeze_ns: int, max_rounds: int
) -> None:
    policy = Policy(max_freeze_ns, max_rounds, 60_000 * MS)
    decision = decide(written, predicted_ns, elapsed_ns, policy).decision
    if decision is Decision.FREEZE:
        assert predicted_ns <= max_freeze_ns or written == [0]
    if decision is Decision.CONTINUE:
        assert len(written) < max_rounds
        assert elapsed_ns < policy.timeout_ns


@given(st.lists(st.integers(1, 10**6), min_size=PROGRESS_ROUNDS + 1, max_size=30))
def test_rounds_that_never_shrink_are_given_up(written: list[int]) -> None:
    growing = [FULL_PAGES, *sorted(written)]
    assert decide(growing, LONG_NS, 0, Policy(20 * MS, 100, 10**12)).decision is Decision.GIVE_UP


PACES = st.builds(
    Pace,
    pages_written=st.integers(0, 10**7),
    window_ns=st.integers(0, 10**11),
    scan_ns=st.integers(0, 10**8),
    copy_ns=st.integers(0, 10**10),
)


@given(PACES)
def test_micro_rounds_never_leave_more_than_was_written(pace: Pace) -> None:
    assert 0 <= pages_after_micro_rounds(pace) <= pace.pages_written


@pytest.mark.parametrize(
    ("pace", "least", "most"),
    [
        pytest.param(Pace(0, 1000 * MS, MS, 0), 0, 0, id="nothing written"),
        pytest.param(Pace(12_800, 1000 * MS, MS, 13 * MS), 0, 64, id="50 MB/s shrinks to what a scan lets happen"),
        pytest.param(Pace(100_000, 100 * MS, MS, 100 * MS), 90_000, 100_000, id="as fast as we copy"),
    ],
)
def test_pages_that_micro_rounds_leave(pace: Pace, least: int, most: int) -> None:
    assert least <= pages_after_micro_rounds(pace) <= most


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ([], True),
        ([10], False),
        ([10_000], True),
        ([10_000, 1_000], True),
        ([10_000, 9_000], False),
        ([10_000, 1_000, 20], False),
        ([10**6 // 2**n for n in range(MAX_MICRO_ROUNDS)], False),
    ],
)
def test_micro_rounds_go_on_while_each_is_clearly_smaller(pages: list[int], expected: bool) -> None:
    assert another_micro_round(pages) is expected


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        pytest.param([], True, id="what was written while all was prepared"),
        pytest.param([10], False, id="there is hardly anything"),
        pytest.param([10_000], True, id="it may become less"),
        pytest.param([10_000, 8_000], True, id="it became less"),
        pytest.param([10_000, 4_000, 3_800], False, id="hardly less any more"),
        pytest.param([10_000, 4_000, 6_000], True, id="something came in between"),
        pytest.param([10_000, 4_000, 6_000, 4_100, 4_200], False, id="as little as it can be"),
        pytest.param([10**6 // 2**n for n in range(MAX_ROUNDS_AHEAD)], False, id="enough"),
    ],
)
def test_rounds_ahead_go_on_while_there_is_less_to_send(pages: list[int], expected: bool) -> None:
    assert another_round_ahead(pages) is expected
