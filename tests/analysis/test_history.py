"""What was written in each round, against a model that counts page by page."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.history import history
from analysis.history.history import History, ProcessHistory
from analysis.history.regions import MappedOverTime, Region, cut_into_cells, heaviest
from analysis.history.writecount import FIRST_SEEN, SHARE_ALL, Presence
from formats.checkpoint import Checkpoint
from formats.errors import ImageCorrupt, ParentMissing, UsageError
from formats.layout import PAGE_BYTES, RunKind
from formats.manifest import Parent, Vma
from tests.analysis.samples import vma
from tests.format.images import (
    BASE_ADDR,
    PID,
    ImageRound,
    PageState,
    addr_of,
    kind_of,
    page_of,
    vma_of,
    write_chain,
    write_round,
    write_tree,
)

N_PAGES = 48
DATA, ZERO, PARENT = page_of(1), RunKind.ZERO, RunKind.PARENT


def history_of(checkpoint: Path, number: int | None = None, pid: int | None = None) -> History:
    return History(Checkpoint.open(checkpoint), number, pid, lambda _done, _total: None)


def counted(checkpoint: Path, number: int | None = None) -> ProcessHistory:
    (process,) = history_of(checkpoint, number).processes(lambda _done, _total: None)
    return process


def page_at(addr: int) -> int:
    return (addr - BASE_ADDR) // PAGE_BYTES


# ---- against a model -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A round of a chain: which pages of which mappings it has, and whether it holds everything."""

    image: ImageRound
    full: bool


@st.composite
def chains(draw: st.DrawFn) -> list[Step]:
    """Chains as a dumper could make them: mappings come, go and change, pages are written or left to the parent."""
    steps: list[Step] = []
    before: set[int] = set()
    for number in range(draw(st.integers(1, 4))):
        borders = sorted(draw(st.sets(st.integers(0, N_PAGES), min_size=2, max_size=7)))
        spans = [span for span in itertools.pairwise(borders) if draw(st.booleans())] or [(0, 8)]
        full = not number or draw(st.integers(0, 4)) == 0
        pages: dict[int, PageState] = {}
        for start, end in spans:
            for page in range(start, end):
                kinds: list[PageState | None] = [None, DATA, ZERO]
                state = draw(st.sampled_from(kinds + [PARENT] * 3 if page in before and not full else kinds))
                if state is not None:
                    pages[page] = state
        steps.append(Step(ImageRound(pages, tuple(vma_of(*span, path=f"/{number}") for span in spans)), full))
        before = set(pages)
    return steps


def write_steps(checkpoint: Path, steps: list[Step]) -> None:
    parent: Parent | None = None
    for number, step in enumerate(steps, start=1):
        parent = write_round(checkpoint, number, step.image, None if step.full else parent)


def owner_of(page: int, steps: list[Step]) -> tuple[str, bool] | None:
    """Path of the last mapping that had the page, and whether it is gone; earlier ones count if they had pages."""
    for age, step in enumerate(reversed(steps)):
        for one in step.image.vmas:
            span = range(page_at(one.start_addr), page_at(one.end_addr))
            if page in span and (not age or any(held in span for held in step.image.pages)):
                return one.path, bool(age)
    return None


def written(step: Step, span: range) -> int:
    return sum(page in span and kind_of(state) is not RunKind.PARENT for page, state in step.image.pages.items())


@settings(max_examples=40, deadline=None)
@given(steps=chains(), n_cells=st.sampled_from([1, 3, 10, 200]))
def test_counts_are_those_of_a_model(steps: list[Step], n_cells: int) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "CELLS_MAX", n_cells)
        checkpoint = Path(directory) / "checkpoint"
        write_steps(checkpoint, steps)
        found = counted(checkpoint)
    spans = [range(page_at(one.start_addr), page_at(one.end_addr)) for one in found.regions]
    assert all(a.stop <= b.start for a, b in itertools.pairwise(spans))
    for page in range(N_PAGES):
        inside = [one for one, span in zip(found.regions, spans, strict=True) if page in span]
        owner = owner_of(page, steps)
        assert [(one.vma.path, one.gone) for one in inside] == ([owner] if owner else [])
    presence = [Presence.FIRST if step.full else Presence.LATER for step in steps]
    assert found.presence == presence
    assert sum(one.n_cells for one in found.regions) <= n_cells
    position = 0
    for region, span in zip(found.regions, spans, strict=True):
        for start in range(span.start, span.stop, region.cell_pages or N_PAGES)[: region.n_cells]:
            cell = range(start, min(start + region.cell_pages, span.stop))
            for row, step in zip(found.cells, steps, strict=True):
                n_written = written(step, cell)
                if step.full:
                    assert row[position] == (FIRST_SEEN if n_written else 0)
                else:
                    assert row[position] == -(-n_written * SHARE_ALL // len(cell))
            position += 1
    assert {len(row) for row in found.cells} == {position}
    for span, total in zip(spans, found.totals, strict=True):
        per_round = [written(step, span) for step in steps if not step.full]
        assert total.written_pages == sum(per_round)
        assert total.written_rounds == sum(map(bool, per_round))
    assert found.elsewhere_pages == 0
    assert found.regions_left_out == 0


# ---- one by one ----------------------------------------------------------------------------------


def test_what_is_stored_belongs_to_its_mapping(checkpoint: Path) -> None:
    """Pages of random content: each takes as much as another."""
    first = {page: page_of(page) for page in range(200)} | dict.fromkeys(range(200, 300), ZERO)
    later: dict[int, PageState] = dict.fromkeys(range(300), PARENT) | {150: page_of(7)}
    vmas = (vma_of(0, 50), vma_of(50, 300, path="/b"))
    write_chain(checkpoint, ImageRound(first, vmas), ImageRound(later, vmas))
    stored = [total.stored_bytes for total in counted(checkpoint).totals]
    info = history_of(checkpoint).last
    pages_bytes = [(one.path / f"pages-{PID}.zst").stat().st_size for one in Checkpoint.open(checkpoint).rounds]
    assert info.number == 2
    assert sum(stored) <= sum(pages_bytes)
    assert sum(stored) > 0.5 * sum(pages_bytes)
    assert stored[1] > 2 * stored[0] > 0


def test_up_to_a_round(checkpoint: Path) -> None:
    rounds = [ImageRound({0: DATA}), ImageRound({0: PARENT, 1: DATA}), ImageRound({0: DATA, 1: DATA})]
    write_chain(checkpoint, *rounds)
    assert [total.written_pages for total in counted(checkpoint, 2).totals] == [1]
    assert [total.written_pages for total in counted(checkpoint / "0003").totals] == [3]
    assert [one.figures.number for one in history_of(checkpoint, 2).rounds] == [1, 2]


def test_a_process_that_came_later_is_seen_for_the_first_time(checkpoint: Path) -> None:
    image = ImageRound({0: DATA})
    parent = write_tree(checkpoint, 1, {PID: image}, [])
    parent = write_tree(checkpoint, 2, {PID: image, PID + 1: image}, [], parent)
    reborn = ImageRound({0: DATA}, start_time_ticks=99)
    write_tree(checkpoint, 3, {PID: image, PID + 1: image, PID + 2: reborn}, [], parent)
    one, other, third = history_of(checkpoint).processes(lambda _done, _total: None)
    assert one.presence == [Presence.FIRST, Presence.LATER, Presence.LATER]
    assert other.presence == [Presence.ABSENT, Presence.FIRST, Presence.LATER]
    assert third.presence == [Presence.ABSENT, Presence.ABSENT, Presence.FIRST]
    assert [row[0] for row in other.cells] == [0, FIRST_SEEN, -(-SHARE_ALL // other.regions[0].cell_pages)]


def test_a_pid_that_was_used_before_is_another_process(checkpoint: Path) -> None:
    parent = write_round(checkpoint, 1, ImageRound({5: DATA}))
    write_round(checkpoint, 2, ImageRound({6: DATA}, start_time_ticks=8), parent)
    found = counted(checkpoint)
    assert found.presence == [Presence.ABSENT, Presence.FIRST]
    assert not any(found.cells[0])


def test_the_last_rounds_of_many(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "ROUNDS_MAX", 2)
    write_chain(checkpoint, *[ImageRound({0: DATA})] * 4)
    found = history_of(checkpoint)
    assert [one.figures.number for one in found.rounds] == [3, 4]
    assert found.rounds_left_out == 2
    (process,) = found.processes(lambda _done, _total: None)
    assert process.presence == [Presence.LATER, Presence.LATER]  # though round 2, its parent, is not looked at


def test_the_heaviest_of_many_mappings(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "REGIONS_MAX", 1)
    vmas = (vma_of(0, 4), vma_of(4, 12), vma_of(12, 14))
    pages: dict[int, PageState] = dict.fromkeys(range(14), DATA)
    write_chain(checkpoint, ImageRound(pages, vmas), ImageRound(pages, vmas))
    found = counted(checkpoint)
    assert [one.vma.start_addr for one in found.regions] == [addr_of(4)]
    assert (found.regions_left_out, found.elsewhere_pages) == (2, 6)
    assert found.totals[0].written_pages == 8


def test_pages_outside_of_all_mappings_are_counted(checkpoint: Path) -> None:
    """As a damaged image may have them: a run over the border of a mapping, and runs before, between and behind."""
    pages: dict[int, PageState] = dict.fromkeys(range(20), DATA)
    vmas = (vma_of(4, 8), vma_of(10, 12))
    write_chain(checkpoint, ImageRound(pages, vmas), ImageRound(pages, vmas))
    found = counted(checkpoint)
    assert [total.written_pages for total in found.totals] == [4, 2]
    assert found.elsewhere_pages == 14


def test_progress_reaches_the_end(checkpoint: Path) -> None:
    write_chain(checkpoint, *[ImageRound({0: DATA})] * 3)
    calls: list[tuple[int, int]] = []
    found = History(Checkpoint.open(checkpoint), None, None, lambda *call: calls.append(call))
    assert calls == [(0, 3), (1, 3), (2, 3)]
    calls.clear()
    found.processes(lambda *call: calls.append(call))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1] > 0


def test_who_is_not_there(checkpoint: Path) -> None:
    write_chain(checkpoint, ImageRound({0: DATA}))
    with pytest.raises(UsageError, match="has no process 7"):
        history_of(checkpoint, pid=7)
    with pytest.raises(UsageError, match="has no round 2"):
        history_of(checkpoint, 2)


def test_a_round_that_lacks_its_parent(checkpoint: Path) -> None:
    """It is no matter of rounds that it does not build on."""
    parent = write_round(checkpoint, 1, ImageRound({0: DATA}))
    parent = write_round(checkpoint, 2, ImageRound({0: PARENT}), parent)
    parent = write_round(checkpoint, 3, ImageRound({0: PARENT}), parent)
    write_round(checkpoint, 4, ImageRound({0: DATA}))
    shutil.rmtree(checkpoint / "0002")
    with pytest.raises(ParentMissing):
        history_of(checkpoint, 3)
    found = history_of(checkpoint)
    assert [one.figures.number for one in found.rounds] == [1, 3, 4]


def test_a_damaged_pagemap(checkpoint: Path) -> None:
    write_chain(checkpoint, ImageRound({0: DATA}))
    path = checkpoint / "0001" / f"pagemap-{PID}.zst"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageCorrupt):
        counted(checkpoint)


# ---- regions -------------------------------------------------------------------------------------


def held(start: int, end: int, n_pages: int) -> Vma:
    made = vma(start * PAGE_BYTES, end * PAGE_BYTES)
    return Vma(**{name: getattr(made, name) for name in made.__slots__} | {"pages_data": n_pages})


def test_cells_go_where_the_pages_are() -> None:
    regions = MappedOverTime([held(0, 1000, 900), held(1000, 2000, 90), held(3000, 4000, 0)]).regions
    cut_into_cells(regions, 100)
    assert [one.n_cells for one in regions] == [84, 9, 0]
    assert [one.cell_pages for one in regions] == [12, 112, 0]


def test_no_cell_is_smaller_than_a_page() -> None:
    regions = MappedOverTime([held(0, 3, 3)]).regions
    cut_into_cells(regions, 100)
    assert (regions[0].n_cells, regions[0].cell_pages) == (3, 1)


def test_more_regions_than_cells() -> None:
    regions = MappedOverTime([held(2 * at, 2 * at + 2, 1 + at % 2) for at in range(10)]).regions
    cut_into_cells(regions, 5)
    assert [one.n_cells for one in regions] == [0, 1] * 5
    assert heaviest(regions, 20) == regions


def test_regions_of_earlier_rounds_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.history.regions.REGIONS_MAX", 3)
    mapped = MappedOverTime([held(0, 1, 1)])
    mapped.add([held(at, at + 1, 1) for at in range(10)])
    assert len(mapped.regions) == 3
    assert mapped.left_out == 7


def test_a_mapping_counts_with_the_most_that_it_held() -> None:
    mapped = MappedOverTime([held(0, 100, 5)])
    mapped.add([held(0, 100, 70)])
    mapped.add([held(0, 100, 20)])
    (region,) = mapped.regions
    assert isinstance(region, Region)
    assert region.held_pages == 70
