"""Which frames of an image are unpacked for a process, and what each of them has for it."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pytest

from formats.chain import Checkpoint
from formats.dataruns import DataRuns, data_runs
from formats.errors import ImageCorrupt
from formats.layout import PAGE_BYTES
from restorer.memory.frames import Portion
from tests.format.images import ImageRound, addr_of, page_of, vma_of, write_chain

N_PAGES = 1000
SHARES = (0.02, 0.3, 1.0)


@pytest.mark.parametrize("share", SHARES)
def test_each_frame_with_wanted_pages_comes_once(share: float, tmp_path: Path, rng: random.Random) -> None:
    there = [page for page in range(N_PAGES) if rng.random() < 0.9]
    image = ImageRound({page: page_of(page) for page in there}, vmas=(vma_of(0, N_PAGES),))
    checkpoint = Checkpoint.open(write_chain(tmp_path / "checkpoint", image))
    (level,) = checkpoint.levels_of(checkpoint.round(1).manifest.processes[0], 1)
    wanted = sorted(rng.sample(range(N_PAGES), int(N_PAGES * share)))
    ranges = [(addr_of(page), addr_of(page + 1)) for page in wanted]
    found: dict[int, bytes] = {}
    with level, level.open_frames() as frames:
        ((_, runs),) = data_runs("it", [level], ranges)
        portion = Portion(frames, runs)
        jobs = list(portion.jobs())
        for job in jobs:
            content = frames.read_frame(job.frame_index)
            parts = list(portion.parts(job))
            assert parts, "a frame without a page that is wanted"
            for start_addr, end_addr, offset in parts:
                for addr in range(start_addr, end_addr, PAGE_BYTES):
                    assert addr not in found
                    first = offset + addr - start_addr
                    found[addr] = content[first : first + PAGE_BYTES]
    indexes = [job.frame_index for job in jobs]
    assert indexes == sorted(set(indexes))
    assert found == {addr_of(page): page_of(page) for page in set(wanted) & set(there)}


@pytest.mark.parametrize("page_indexes", [(1, 0), (0, 1), (0, 1 << 50)])
def test_pages_out_of_order_or_that_are_not_there_are_damage(page_indexes: tuple[int, int], tmp_path: Path) -> None:
    image = ImageRound({page: page_of(page) for page in range(8)}, vmas=(vma_of(0, 8),))
    checkpoint = Checkpoint.open(write_chain(tmp_path / "checkpoint", image))
    (level,) = checkpoint.levels_of(checkpoint.round(1).manifest.processes[0], 1)
    columns = (
        [addr_of(0), addr_of(4)],
        [addr_of(2), addr_of(6)],
        page_indexes,
    )
    with level, level.open_frames() as frames, pytest.raises(ImageCorrupt, match="is damaged"):
        list(Portion(frames, DataRuns(*(array("Q", column) for column in columns))).jobs())
