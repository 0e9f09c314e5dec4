"""When to freeze: a pure function of the rounds so far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumper.convergence import (
    MAX_MICRO_ROUNDS,
    Decision,
    Policy,
    RoundSample,
    another_micro_round,
    decide,
    predict_freeze_ns,
)

MS = 1_000_000
POLICY = Policy(max_freeze_ns=20 * MS, max_rounds=10, timeout_ns=60_000 * MS)
FULL = RoundSample(pages_written=262144, since_last_ns=0, scan_ns=5 * MS, copy_ns=400 * MS)


def sample(pages: int, *, since_ms: int = 1000, scan_ms: int = 1, copy_ns_per_page: int = 1000) -> RoundSample:
    return RoundSample(pages, since_ms * MS, scan_ms * MS, pages * copy_ns_per_page)


@pytest.mark.parametrize(
    ("samples", "elapsed_ns", "policy", "expected"),
    [
        pytest.param([FULL], 0, POLICY, Decision.CONTINUE, id="the full round says nothing about the write rate"),
        pytest.param([FULL], 0, Policy(20 * MS, 1, 10**12), Decision.GIVE_UP, id="one round allowed"),
        pytest.param([FULL, sample(10)], 0, POLICY, Decision.FREEZE, id="few pages"),
        pytest.param([FULL, sample(12800)], 0, POLICY, Decision.FREEZE, id="50 MB/s shrinks in micro-rounds"),
        pytest.param([FULL, sample(10**6, since_ms=10)], 0, POLICY, Decision.CONTINUE, id="too fast, try again"),
        pytest.param(
            [FULL, sample(10**6, since_ms=10)], 0, Policy(20 * MS, 2, 10**12), Decision.GIVE_UP, id="rounds used up"
        ),
        pytest.param([FULL, sample(10**6, since_ms=10)], 60_000 * MS, POLICY, Decision.GIVE_UP, id="time used up"),
        pytest.param([FULL, *[sample(10**6, since_ms=10)] * 4], 0, POLICY, Decision.GIVE_UP, id="rounds do not shrink"),
        pytest.param(
            [FULL, *[sample(10**6 // 2**n, since_ms=10) for n in range(4)]], 0, POLICY, Decision.CONTINUE, id="shrinks"
        ),
    ],
)
def test_decisions(samples: list[RoundSample], elapsed_ns: int, policy: Policy, expected: Decision) -> None:
    assert decide(samples, 1, 1, elapsed_ns, policy).decision is expected


def test_nothing_written_in_the_first_round_needs_no_second() -> None:
    assert decide([RoundSample(0, 0, MS, 0)], 1, 1, 0, POLICY).decision is Decision.FREEZE


@given(
    pages=st.integers(0, 10**7),
    since_ns=st.integers(1, 10**11),
    scan_ns=st.integers(0, 10**8),
    copy_ns=st.integers(0, 10**10),
    threads=st.integers(1, 1000),
)
def test_a_prediction_covers_the_scan_and_stays_below_copying_everything(
    pages: int, since_ns: int, scan_ns: int, copy_ns: int, threads: int
) -> None:
    predicted_ns = predict_freeze_ns(RoundSample(pages, since_ns, scan_ns, copy_ns), threads, 1)
    without_copy_ns = predict_freeze_ns(RoundSample(0, since_ns, scan_ns, 0), threads, 1)
    assert without_copy_ns >= scan_ns
    assert without_copy_ns <= predicted_ns <= without_copy_ns + copy_ns + 1


@given(since_ns=st.integers(10**6, 10**10), threads=st.integers(1, 100), more=st.integers(1, 10**5))
def test_more_writes_never_predict_a_shorter_freeze_of_the_same_round_count(
    since_ns: int, threads: int, more: int
) -> None:
    few = RoundSample(0, since_ns, MS, 0)
    many = RoundSample(more, since_ns, MS, more * 1000)
    assert predict_freeze_ns(many, threads, 1) >= predict_freeze_ns(few, threads, 1)


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
