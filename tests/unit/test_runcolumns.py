"""Runs column by column, against what the same runs come to one by one."""

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from formats import runs
from formats.layout import PAGE_BYTES, RunKind
from formats.runcolumns import RunColumns, count_pages, covered, of_kind, uncovered

PAGES = 40
Kinds = dict[int, RunKind]


@st.composite
def pagemaps(draw: st.DrawFn) -> tuple[Kinds, list[RunColumns]]:
    """The kind of each page that has one, and its runs in frames of some."""
    rows: list[tuple[int, int, int]] = []
    page = 0
    for _ in range(draw(st.integers(0, 12))):
        page += draw(st.sampled_from([0, 0, 1, 2]))
        n_pages = draw(st.integers(1, 3))
        if page + n_pages > PAGES:
            break
        rows.append((page, page + n_pages, draw(st.sampled_from(RunKind))))
        page += n_pages
    kinds = {page: RunKind(kind) for start, end, kind in rows for page in range(start, end)}
    n_runs = draw(st.integers(1, 4))
    return kinds, [_columns(rows[at : at + n_runs]) for at in range(0, len(rows), n_runs)]


@st.composite
def page_ranges(draw: st.DrawFn) -> list[runs.Range]:
    """Ascending and disjoint, in pages; some touch."""
    ends = sorted(draw(st.sets(st.integers(0, PAGES), max_size=8)))
    return [one for one in pairwise(ends) if draw(st.booleans())]


def _columns(rows: list[tuple[int, int, int]]) -> RunColumns:
    starts, ends, kinds = zip(*rows, strict=True)
    return RunColumns(
        [page * PAGE_BYTES for page in starts], [page * PAGE_BYTES for page in ends], bytes(kinds), [0] * len(rows)
    )


def _addresses(ranges: list[runs.Range]) -> list[runs.Range]:
    return [(start * PAGE_BYTES, end * PAGE_BYTES) for start, end in ranges]


def _pages(ranges: Iterator[runs.Range]) -> set[int]:
    return {page for start, end in ranges for page in range(start // PAGE_BYTES, end // PAGE_BYTES)}


@given(pagemap=pagemaps(), ranges=page_ranges())
def test_counts(pagemap: tuple[Kinds, list[RunColumns]], ranges: list[runs.Range]) -> None:
    kinds, frames = pagemap
    totals, parts = count_pages(frames, _addresses(ranges))
    assert totals == {kind: list(kinds.values()).count(kind) for kind in RunKind}
    assert {kind: list(counts) for kind, counts in parts.items()} == {
        kind: [[kinds.get(page) for page in range(start, end)].count(kind) for start, end in ranges] for kind in RunKind
    }


@given(pagemap=pagemaps())
def test_what_is_covered_does_not_touch(pagemap: tuple[Kinds, list[RunColumns]]) -> None:
    kinds, frames = pagemap
    found = list(covered(frames))
    assert _pages(iter(found)) == kinds.keys()
    assert found == list(runs.merge(found))


@given(pagemap=pagemaps(), cover=page_ranges())
def test_what_is_not_covered(pagemap: tuple[Kinds, list[RunColumns]], cover: list[runs.Range]) -> None:
    kinds, frames = pagemap
    there = _addresses(list(runs.merge(cover)))
    for kind in RunKind:
        found = list(uncovered(of_kind(frames, kind), there))
        wanted = {page for page, one in kinds.items() if one is kind}
        assert _pages(iter(found)) == wanted - _pages(iter(there))
