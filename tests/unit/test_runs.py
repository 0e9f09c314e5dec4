"""The range algebra against sets of points."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from formats import runs
from formats.runs import Range

untimed = settings(deadline=None)


def points_of(ranges: Iterable[Range]) -> set[int]:
    return {point for start, end in ranges for point in range(start, end)}


@st.composite
def sorted_ranges(draw: st.DrawFn) -> list[Range]:
    """Disjoint ascending ranges, some of which touch."""
    edges = sorted(draw(st.sets(st.integers(0, 40))))
    pairs = itertools.pairwise(edges)
    return [pair for pair in pairs if draw(st.booleans())]


def assert_well_formed(ranges: list[Range]) -> None:
    for start, end in ranges:
        assert start < end
    for (_, end), (start, _) in itertools.pairwise(ranges):
        assert end <= start


@untimed
@given(sorted_ranges(), sorted_ranges())
def test_subtract_is_set_difference(left: list[Range], right: list[Range]) -> None:
    result = list(runs.subtract(left, right))
    assert_well_formed(result)
    assert points_of(result) == points_of(left) - points_of(right)


@untimed
@given(sorted_ranges(), sorted_ranges())
def test_intersect_is_set_intersection(left: list[Range], right: list[Range]) -> None:
    result = list(runs.intersect(left, right))
    assert_well_formed(result)
    assert points_of(result) == points_of(left) & points_of(right)


@untimed
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5))))
def test_merge_is_set_union_without_touching_ranges(sized: list[tuple[int, int]]) -> None:
    ranges = sorted((start, start + size) for start, size in sized)
    result = list(runs.merge(ranges))
    assert points_of(result) == points_of(ranges)
    for (_, end), (start, _) in itertools.pairwise(result):
        assert end < start


@untimed
@given(sorted_ranges(), st.integers(0, 40), st.integers(0, 40))
def test_overlapping_are_those_that_share_a_point(ranges: list[Range], start: int, end: int) -> None:
    wanted = [item for item in ranges if points_of([item]) & set(range(start, end))]
    assert list(runs.overlapping(ranges, start, end)) == wanted


@untimed
@given(sorted_ranges())
def test_total_counts_points(ranges: list[Range]) -> None:
    assert runs.total(ranges) == len(points_of(ranges))


def test_a_cut_may_span_several_ranges() -> None:
    assert list(runs.subtract([(0, 2), (3, 5), (6, 9)], [(1, 7)])) == [(0, 1), (7, 9)]


def test_results_stream() -> None:
    def endless() -> Iterable[Range]:
        start = 0
        while True:
            yield start, start + 1
            start += 2

    assert next(iter(runs.subtract(endless(), []))) == (0, 1)
    assert next(iter(runs.intersect(endless(), [(4, 5)]))) == (4, 5)
