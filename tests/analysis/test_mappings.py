"""Mappings of a process with their pages by kind, stored bytes and order, on images made by hand."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from analysis.mappings import Mappings, Order
from analysis.selection import VmaSelection
from analysis.survey import survey
from formats.checkpoint import Checkpoint
from formats.layout import PAGE_BYTES, RunKind
from formats.manifest import Gap
from tests.format.images import (
    PID,
    ImageObject,
    ImageRound,
    addr_of,
    object_vma,
    page_of,
    round_path,
    vma_of,
    write_chain,
    write_tree,
)


def mappings_of(checkpoint: Path) -> Mappings:
    opened = Checkpoint.open(checkpoint)
    process = opened.round().manifest.processes[0]
    return Mappings(opened.round(), process, survey(opened, process).written)


def kinds(mappings: Mappings, index: int) -> dict[str, int]:
    return {kind.value: n for kind, n in mappings.mapping(index).pages.items() if n}


def test_pages_by_kind(tmp_path: Path) -> None:
    heap, library = vma_of(0, 16), vma_of(16, 24, "file", "/lib/a")
    gaps = (Gap(start_addr=addr_of(12), end_addr=addr_of(14), reason="secret"),)
    pages = {0: page_of(1), 1: RunKind.ZERO, 2: RunKind.PARENT, 3: RunKind.PARENT, 20: page_of(2)}
    first = ImageRound({2: page_of(3), 3: page_of(4)}, (heap, library))
    checkpoint = write_chain(tmp_path / "checkpoint", first, ImageRound(pages, (heap, library), gaps))
    found = mappings_of(checkpoint)
    assert len(found) == 2
    assert kinds(found, 0) == {"data": 1, "zero": 1, "parent": 2, "hole": 10, "unreadable": 2}
    assert kinds(found, 1) == {"data": 1, "file": 7}
    assert found.mapping(0).pages_present == 4
    assert found.mapping(0).times_written == 0.5


def test_pages_in_objects(tmp_path: Path) -> None:
    vmas = (object_vma(0, 8, 1), object_vma(8, 16, 2, kind="file"))
    sparse = ImageObject(1, {0: page_of(1), 1: RunKind.ZERO}, 8 * PAGE_BYTES)
    file = ImageObject(2, {0: page_of(2)}, 8 * PAGE_BYTES, "file")
    write_tree(tmp_path / "checkpoint", 1, {PID: ImageRound({9: page_of(5)}, vmas)}, [sparse, file])
    found = mappings_of(tmp_path / "checkpoint")
    assert kinds(found, 0) == {"object": 2, "hole": 6}
    assert kinds(found, 1) == {"data": 1, "object": 1, "file": 6}
    assert found.mapping(0).pages_present == 2
    assert found.mapping(0).times_written is None


def test_stored_bytes_add_up_to_the_frames(tmp_path: Path) -> None:
    """Mappings share a frame by their pages in it, and what each takes is what its frames take."""
    random = {page: os.urandom(PAGE_BYTES) for page in range(64)}
    plain = {page: page_of(1) for page in range(64, 160)}
    vmas = (vma_of(0, 32), vma_of(32, 64), vma_of(64, 160), vma_of(160, 170))
    checkpoint = write_chain(tmp_path / "checkpoint", ImageRound(random | plain, vmas))
    stored = [mappings_of(checkpoint).mapping(index).stored_bytes for index in range(4)]
    first_frame_bytes = stored[0] + stored[1]
    assert abs(stored[0] - stored[1]) <= 1
    assert 64 * PAGE_BYTES < first_frame_bytes < 65 * PAGE_BYTES
    assert 0 < stored[2] < 10_000
    assert stored[3] == 0
    frames_end = (round_path(checkpoint, 1) / "pages-42.zst").stat().st_size - 17 - 12 * 3
    assert sum(stored) == frames_end


def test_nothing_is_said_of_what_does_not_fit_the_manifest(tmp_path: Path) -> None:
    images = ImageRound({0: page_of(1)})
    checkpoint = write_chain(tmp_path / "checkpoint", images)
    opened = Checkpoint.open(checkpoint)
    info = opened.round()
    (process,) = info.manifest.processes
    written = survey(opened, process).written
    assert Mappings(info, process, written).mapping(0).stored_bytes is not None
    more = replace(process, vmas=[replace(process.vmas[0], pages_data=2)])
    assert Mappings(info, more, written).mapping(0).stored_bytes is None
    (round_path(checkpoint, 1) / "pages-42.zst").unlink()
    assert Mappings(info, process, written).mapping(0).stored_bytes is None


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Order.ADDRESS, [0, 1, 2, 3]),
        (Order.SIZE, [3, 1, 0, 2]),
        (Order.PRESENT, [0, 2, 1, 3]),
        (Order.DATA, [2, 0, 1, 3]),
        (Order.STORED, [2, 0, 1, 3]),
        (Order.WRITTEN, [2, 1, 0, 3]),
    ],
)
def test_orders(tmp_path: Path, order: Order, expected: list[int]) -> None:
    vmas = (vma_of(0, 8), vma_of(8, 24), vma_of(24, 27), vma_of(32, 64))
    first = ImageRound({page: page_of(page) for page in (*range(6), 8, 9)}, vmas)
    parents = dict.fromkeys((*range(2, 6), 9), RunKind.PARENT)
    last = ImageRound(
        {**parents, 0: page_of(70), 1: page_of(72), 8: page_of(71), **{p: page_of(80 + p) for p in range(24, 27)}}, vmas
    )
    found = mappings_of(write_chain(tmp_path / "checkpoint", first, last))
    assert found.chosen(VmaSelection(), order) == expected
    assert found.chosen(VmaSelection(min_bytes=8 * PAGE_BYTES), order) == [index for index in expected if index != 2]
    assert list(islice(found.chosen(VmaSelection(("0x0",)), order), 1)) == []
