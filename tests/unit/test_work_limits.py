"""What predump may use: the arithmetic of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumper.limits import BURST_NS, NS_PER_S, CpuPlan, Limits, RateLimit, plan_cpu

WRITES = st.lists(st.tuples(st.integers(0, 10 * NS_PER_S), st.integers(1, 1 << 30)), min_size=1, max_size=50)


@given(WRITES, st.integers(1, 1 << 34))
def test_no_stretch_of_time_has_more_than_the_rate_and_a_burst(writes: list[tuple[int, int]], rate: int) -> None:
    limit, now_ns = RateLimit(rate, 0), 0
    done: list[tuple[int, int]] = []
    for idle_ns, n_bytes in writes:
        now_ns += idle_ns
        now_ns += limit.take(n_bytes, now_ns)
        done.append((now_ns, n_bytes))
    for first in range(len(done)):
        for last in range(first + 1, len(done)):
            written = sum(n_bytes for _, n_bytes in done[first + 1 : last + 1])
            stretch_ns = done[last][0] - done[first][0]
            assert written * NS_PER_S <= (stretch_ns + BURST_NS + len(done)) * rate


@given(st.integers(1, 1 << 30), st.integers(1, 1 << 34))
def test_the_rate_is_reached(n_bytes: int, rate: int) -> None:
    """Who always has something to write waits no longer than it must."""
    limit, now_ns = RateLimit(rate, 0), 0
    for _ in range(20):
        now_ns += limit.take(n_bytes, now_ns)
    assert now_ns <= 20 * n_bytes * NS_PER_S // rate


def test_what_was_not_used_is_made_up_for_within_bounds() -> None:
    limit = RateLimit(1000, 0)
    assert limit.take(100, NS_PER_S) == 0
    assert limit.take(1000, NS_PER_S) == NS_PER_S


@pytest.mark.parametrize(
    ("share", "cpus", "threads", "plan"),
    [
        (None, 2, 8, CpuPlan(8, 1.0)),
        (0.5, 8, 8, CpuPlan(4, 1.0)),
        (1.0, 8, 8, CpuPlan(8, 1.0)),
        (0.5, 8, 2, CpuPlan(2, 1.0)),
        (0.25, 2, 2, CpuPlan(1, 0.5)),
        (0.3125, 8, 8, CpuPlan(2, 1.0)),  # 2.5: as few threads as take it, not more than their time
        (0.1, 1, 1, CpuPlan(1, 0.1)),
    ],
)
def test_cpu_plans(share: float | None, cpus: int, threads: int, plan: CpuPlan) -> None:
    assert plan_cpu(Limits(cpu_share=share), cpus, threads) == plan


def test_pauses() -> None:
    assert CpuPlan(1, 0.25).pause_ns(1000) == 3000
    assert CpuPlan(4, 1.0).pause_ns(1000) == 0
