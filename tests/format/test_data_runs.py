"""All the bytes of a process, column by column, against the same found page by page."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import dataruns, lineage
from formats.chain import Checkpoint
from formats.dataruns import data_runs
from formats.errors import ImageCorrupt
from formats.layout import PAGE_BYTES, RunKind
from formats.runs import Range
from tests.format.histories import N_PAGES, Memory, histories
from tests.format.images import ZERO_PAGE, ImageRound, addr_of, page_of, vma_of, write_chain


def found_in(checkpoint: Checkpoint, number: int, ranges: Iterable[Range]) -> dict[int, bytes]:
    """Pages by their address."""
    process = checkpoint.round(number).manifest.processes[0]
    pages = {}
    with ExitStack() as stack:
        levels = [stack.enter_context(level) for level in checkpoint.levels_of(process, number)]
        for level, found in data_runs("it", levels, ranges):
            runs = zip(found.starts_addr, found.ends_addr, found.page_indexes, strict=True)
            for start_addr, end_addr, page_index in runs:
                assert any(start <= start_addr < end_addr <= end for start, end in ranges)
                n_pages = (end_addr - start_addr) // PAGE_BYTES
                content = level.read(page_index, n_pages)
                for i in range(n_pages):
                    assert start_addr + i * PAGE_BYTES not in pages
                    pages[start_addr + i * PAGE_BYTES] = content[i * PAGE_BYTES : (i + 1) * PAGE_BYTES]
    return pages


@settings(max_examples=50)
@given(history=histories(), data=st.data(), max_runs=st.integers(1, 5), window_pages=st.integers(1, N_PAGES))
def test_every_page_of_data_is_found_once(
    tmp_path_factory: pytest.TempPathFactory,
    history: tuple[list[ImageRound], list[Memory]],
    data: st.DataObject,
    max_runs: int,
    window_pages: int,
) -> None:
    images, memories = history
    checkpoint = Checkpoint.open(write_chain(tmp_path_factory.mktemp("chain") / "checkpoint", *images))
    cuts = sorted(data.draw(st.sets(st.integers(0, N_PAGES), min_size=2, max_size=6)))
    ranges = [(addr_of(start), addr_of(end)) for start, end in pairwise(cuts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataruns, "_MAX_RUNS", max_runs)
        patch.setattr(lineage, "_WINDOW_BYTES", window_pages * PAGE_BYTES)
        for number, memory in enumerate(memories, start=1):
            assert found_in(checkpoint, number, ranges) == {
                addr_of(page): content
                for page, content in memory.items()
                if content != ZERO_PAGE and cuts[0] <= page < cuts[-1]
            }


@pytest.mark.parametrize("hole", [0, 1, 2, 3])
def test_a_page_that_the_parent_round_does_not_have_is_damage(tmp_path: Path, hole: int) -> None:
    pages = {page: page_of(page + 1) for page in range(4) if page != hole}
    first = ImageRound(dict(pages), vmas=(vma_of(0, 4),))
    second = ImageRound(dict.fromkeys(range(4), RunKind.PARENT), vmas=(vma_of(0, 4),))
    checkpoint = Checkpoint.open(write_chain(tmp_path / "checkpoint", first, second))
    assert len(found_in(checkpoint, 1, [(addr_of(0), addr_of(4))])) == 3
    with pytest.raises(ImageCorrupt, match=f"{addr_of(hole):#x}.*does not have it"):
        found_in(checkpoint, 2, [(addr_of(0), addr_of(4))])


def test_a_full_round_has_no_parent_runs(tmp_path: Path) -> None:
    only = ImageRound({0: page_of(1), 1: RunKind.PARENT}, vmas=(vma_of(0, 2),))
    checkpoint = Checkpoint.open(write_chain(tmp_path / "checkpoint", only))
    with pytest.raises(ImageCorrupt, match=f"{addr_of(1):#x}"):
        found_in(checkpoint, 1, [(addr_of(0), addr_of(2))])
