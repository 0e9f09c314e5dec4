"""How many different pages were written of late: against a model in Python."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from dumper.kernel.recency import Recency
from dumper.kernel.runs import RunKind, RunList
from formats.layout import PAGE_BYTES, RUN

MAX_TICKS = 4
CHUNK_PAGES = 512


def runs_of(pages: set[int], kind: RunKind = RunKind.COPY) -> RunList:
    runs = RunList(16)
    for page in sorted(pages):
        runs.extend_packed(RUN.pack(page * PAGE_BYTES, 1, kind, 0))
    return runs


ticks = st.lists(st.tuples(st.integers(0, 6), st.sets(st.integers(0, 3 * CHUNK_PAGES), max_size=30)), max_size=20)


@settings(max_examples=200, deadline=None)
@given(ticks)
def test_each_page_counts_once_in_a_window(written: list[tuple[int, set[int]]]) -> None:
    recency = Recency(MAX_TICKS)
    last: dict[int, int] = {}
    tick = 1
    for later, pages in written:
        tick += later
        recency.note(tick, runs_of(pages))
        last.update(dict.fromkeys(pages, tick))
        for window in range(1, MAX_TICKS + 1):
            assert recency.pages(window) == sum(tick - at < window for at in last.values())
        for window in (1, 3, 100):
            start, end = CHUNK_PAGES - 7, CHUNK_PAGES + 30
            there = [at for page, at in last.items() if start <= page < end]
            found = recency.pages_between(start * PAGE_BYTES, end * PAGE_BYTES, window)
            assert found == sum(tick - at < window for at in there)


def test_other_kinds_of_runs_were_not_written() -> None:
    recency = Recency(MAX_TICKS)
    recency.note(1, runs_of({1, 2, 3}, RunKind.PARENT))
    recency.note(1, runs_of({7}, RunKind.ZERO))
    assert recency.pages(1) == 0


def test_beyond_its_memory_it_estimates() -> None:
    """Of 4,096 stretches of memory with a page each, 256 are remembered: an error of 10 % is to be expected."""
    rng = random.Random(1)
    recency = Recency(MAX_TICKS, max_chunks=256)
    chunks = rng.sample(range(1 << 26), 4096)
    for tick in (1, 2):
        recency.note(tick, runs_of({chunk * CHUNK_PAGES + tick for chunk in chunks}))
    for window, pages in ((1, 4096), (2, 8192)):
        assert abs(recency.pages(window) / pages - 1) < 0.3
    for tick in (3, 4, 5):
        recency.note(tick, runs_of(set()))
    assert abs(recency.pages(4) / 4096 - 1) < 0.3
    assert recency.pages(3) == 0


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(RunKind)), max_size=12),
    st.integers(0, 40),
    st.integers(1, 40),
)
def test_a_part_of_runs_is_numbered_by_its_kinds(runs: list[tuple[int, RunKind]], first: int, n_pages: int) -> None:
    kinds = (RunKind.COPY, RunKind.PARENT)
    whole, pages, page = RunList(16), [], 0
    for length, kind in runs:
        whole.extend_packed(RUN.pack(page * PAGE_BYTES, length, kind, 0))
        pages += range(page, page + length) if kind in kinds else ()
        page += length + 1
    part = whole.part(kinds, first, n_pages)
    found = [p for start, end in part.ranges() for p in range(start // PAGE_BYTES, end // PAGE_BYTES)]
    assert found == pages[first : first + n_pages]
    assert part.pages_of(RunKind.COPY) == len(found)
