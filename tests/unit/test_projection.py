"""What `run` would do: played through from measurements."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumper.convergence import Policy
from dumper.prediction import COMPARE_NS_PER_PAGE, OBJECT_NS_PER_PAGE, Size
from dumper.projection import Load, PageCost, project
from dumper.workingset import Window, WorkingSet
from formats.layout import PAGE_BYTES

MS = 1_000_000
SECOND = 1000 * MS
GIB_PAGES = 1 << 18
POLICY = Policy(max_freeze_ns=20 * MS, max_rounds=20, timeout_ns=3600 * SECOND)
GBIT = 125_000_000
COST = PageCost(copy_ns=1_000, compress_ns=8_000, stored_bytes=1_000)


def working_set(pages_a_second: int, most: int = GIB_PAGES) -> WorkingSet:
    """Pages that are all different until all of `most` were written."""
    lengths_ns = [step * scale * 100 * MS for scale in (1, 10, 100) for step in (1, 2, 5)]
    windows = [
        Window(window_ns=ns, measured_ns=ns, windows=9, pages_mean=pages, pages_max=pages)
        for ns in lengths_ns
        for pages in [min(most, pages_a_second * ns // SECOND)]
    ]
    return WorkingSet(windows, GIB_PAGES)


def load(pages_a_second: int, most: int = GIB_PAGES) -> Load:
    return Load(
        pages_present=GIB_PAGES,
        working_set=working_set(pages_a_second, most),
        first=COST,
        later=COST,
        scan_ns=MS,
        size=Size(threads=4),
        cpus=4,
        compress_threads=2,
    )


def test_an_idle_target_needs_its_memory_once() -> None:
    found = project(load(0), GBIT, POLICY)
    assert found.converges
    assert found.raw_bytes == GIB_PAGES * PAGE_BYTES
    assert found.stored_bytes == GIB_PAGES * COST.stored_bytes
    assert found.dump_pages == 0
    assert found.duration_ns == pytest.approx(found.stored_bytes / GBIT * 1e9, rel=0.05)


def test_rounds_shrink_as_the_link_is_faster_than_the_writes() -> None:
    """A page takes 8 µs of the link, and 10,000 are written in a second: each round is 0.08 of the one before."""
    found = project(load(10_000), GBIT, Policy(max_freeze_ns=3 * MS, max_rounds=20, timeout_ns=3600 * SECOND))
    pages = [round_.pages for round_ in found.pre_dumps]
    assert found.converges
    assert pages[1] == pytest.approx(0.08 * GIB_PAGES, rel=0.05)


@pytest.mark.parametrize(
    ("pages_a_second", "most", "link", "timeout_s", "reason"),
    [
        pytest.param(2_000_000, GIB_PAGES, GBIT, 3600, "shrink", id="more is written than can be copied"),
        pytest.param(2_000_000, 2_000, GBIT, 3600, "", id="but always the same few pages"),
        pytest.param(400_000, GIB_PAGES, GBIT // 10, 3600, "", id="more is written than is sent: micro-rounds do it"),
        pytest.param(2_000_000, GIB_PAGES, GBIT // 100, 300, "time is up", id="the time is up"),
    ],
)
def test_what_converges(pages_a_second: int, most: int, link: int, timeout_s: int, reason: str) -> None:
    policy = Policy(max_freeze_ns=20 * MS, max_rounds=20, timeout_ns=timeout_s * SECOND)
    found = project(load(pages_a_second, most), link, policy)
    assert found.converges is not bool(reason)
    assert reason in found.reason
    assert found.converges is (found.frozen_ns <= policy.max_freeze_ns)


def test_the_slowest_step_says_how_long_a_round_takes() -> None:
    def first_ns(changed: Load, link_bytes_per_s: int | None) -> int:
        return project(changed, link_bytes_per_s, POLICY).pre_dumps[0].duration_ns

    base = load(0)
    by_compression_ns = GIB_PAGES * 8_000 / 2
    assert first_ns(base, None) == pytest.approx(by_compression_ns, rel=0.02)
    assert first_ns(base, GBIT) == pytest.approx(GIB_PAGES * 1_000 / GBIT * 1e9, rel=0.02)
    assert first_ns(replace(base, cpus=1), None) == pytest.approx(GIB_PAGES * 9_000, rel=0.02)
    assert first_ns(replace(base, compress_threads=64), None) == pytest.approx(GIB_PAGES * 9_000 / 4, rel=0.02)


def test_what_is_left_for_the_freeze_makes_it_longer() -> None:
    base = project(load(0), GBIT, POLICY)
    objects = project(replace(load(0), size=Size(threads=4, pages_of_objects=10_000)), GBIT, POLICY)
    doubt = project(replace(load(0), size=Size(threads=4, pages_in_doubt=10_000)), GBIT, POLICY)
    assert objects.frozen_ns - base.frozen_ns == 10_000 * OBJECT_NS_PER_PAGE
    assert objects.stored_bytes - base.stored_bytes == 10_000 * COST.stored_bytes
    assert doubt.frozen_ns - base.frozen_ns == 10_000 * COMPARE_NS_PER_PAGE
    assert doubt.stored_bytes == base.stored_bytes


@pytest.mark.parametrize(
    ("cpus", "compress_threads", "other_threads", "share"),
    [
        pytest.param(4, 2, 0.0, 3, id="as many as it has threads"),
        pytest.param(2, 2, 0.0, 2, id="all there are"),
        pytest.param(8, 2, 4.0, 3, id="others leave enough"),
        pytest.param(4, 2, 2.0, 2.4, id="five want four"),
        pytest.param(2, 2, 1.0, 1.5, id="four want two"),
        pytest.param(1, 1, 2.0, 0.5, id="four want one"),
    ],
)
def test_processors_are_shared_with_others(
    cpus: int, compress_threads: int, other_threads: float, share: float
) -> None:
    changed = replace(load(0), cpus=cpus, compress_threads=compress_threads, other_threads=other_threads)
    expected_ns = max(GIB_PAGES * 9_000 / share, GIB_PAGES * 8_000 / compress_threads)
    assert project(changed, None, POLICY).pre_dumps[0].duration_ns == pytest.approx(expected_ns, rel=0.02)


@given(st.integers(0, 10**7), st.integers(1, 10**7), st.integers(10**5, 10**11), st.integers(0, 10**9))
def test_projections_add_up(pages_a_second: int, most: int, link: int, max_freeze_ns: int) -> None:
    policy = Policy(max_freeze_ns=max_freeze_ns, max_rounds=20, timeout_ns=60 * SECOND)
    found = project(load(pages_a_second, most), link, policy)
    assert 2 <= found.rounds <= policy.max_rounds + 1
    assert found.rounds == len(found.pre_dumps) + 1
    assert found.raw_bytes == PAGE_BYTES * (sum(round_.pages for round_ in found.pre_dumps) + found.dump_pages)
    assert found.stored_bytes <= found.raw_bytes
    assert found.duration_ns >= sum(round_.duration_ns for round_ in found.pre_dumps)
    assert not found.converges or found.frozen_ns <= max_freeze_ns
    assert all(round_.pages <= GIB_PAGES for round_ in found.pre_dumps)


@given(st.integers(0, 10**6), st.integers(10**7, 10**9))
def test_a_faster_link_never_sends_more_in_the_first_rounds(pages_a_second: int, link: int) -> None:
    slow, fast = (project(load(pages_a_second), one, POLICY).pre_dumps for one in (link, 2 * link))
    for slower, faster in zip(slow, fast, strict=False):
        assert faster.pages <= slower.pages
        assert faster.duration_ns <= slower.duration_ns
