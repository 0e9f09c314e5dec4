"""Memory as plain files: every byte as MemoryView has it, holes, an index, all of it or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from formats.chain import Checkpoint, MemoryView
from formats.errors import ImageCorrupt, UsageError
from formats.layout import PAGE_BYTES, RunKind
from formats.manifest import Gap, Vma
from formats.rawexport import RawOptions, RawReport, write_raw
from tests.format.images import PID as PROCESS
from tests.format.images import (
    ImageObject,
    ImageRound,
    addr_of,
    object_vma,
    page_of,
    vma_of,
    write_chain,
    write_tree,
)
from tests.rawdirectory import INDEX, assert_same_memory, read_index
from tests.schemas import SCHEMAS

TORN = RawOptions(torn=True, threads=2)


def export(checkpoint: Path, out: Path, options: RawOptions = TORN, number: int | None = None) -> RawReport:
    return write_raw(Checkpoint.open(checkpoint), number, None, out, options, lambda _done, _total: None)


@pytest.fixture
def chain(checkpoint: Path) -> Path:
    """Data of two rounds side by side over the border of two mappings, holes, gaps, a file."""
    vmas = (
        vma_of(0, 16),
        vma_of(16, 32, "heap", "[heap]"),
        vma_of(40, 44, "file", "/some/file\udcff"),
        vma_of(50, 60),
        vma_of(1 << 20, 1 << 26),
    )
    gap = Gap(start_addr=addr_of(52), end_addr=addr_of(54), reason="device")
    first = ImageRound({**{n: page_of(n) for n in range(8, 20)}, 41: page_of(41), (1 << 20) + 3: page_of(3)}, vmas)
    second = ImageRound(
        {
            2: RunKind.ZERO,
            **dict.fromkeys(range(8, 14), RunKind.PARENT),
            14: page_of(114),
            **dict.fromkeys(range(15, 20), RunKind.PARENT),
            20: page_of(120),
            22: RunKind.ZERO,
            41: RunKind.PARENT,
            (1 << 20) + 3: RunKind.PARENT,
        },
        vmas,
        unreadable=(gap,),
    )
    return write_chain(checkpoint, first, second)


@pytest.mark.parametrize("number", [1, 2])
def test_every_byte_is_as_in_the_image(chain: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    report = export(chain, out, number=number)
    with MemoryView(Checkpoint.open(chain), number) as view:
        assert_same_memory(view, out)
    index = read_index(out)
    Draft202012Validator(json.loads((SCHEMAS / "raw-index.json").read_text())).validate(index)
    assert (index["round"], index["torn"], index["pid"], report.pid) == (number, True, PROCESS, PROCESS)
    assert report.vmas == 5
    files = [path for path in out.iterdir() if path.name != INDEX]
    assert report.files == len(files) == 4
    assert report.bytes == sum(path.stat().st_size for path in files)
    assert report.data_bytes == {1: 14, 2: 15}[number] * PAGE_BYTES


def test_what_is_no_data_takes_no_room(chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(chain, out)
    heap = out / f"{addr_of(16):x}-{addr_of(32):x}.bin"
    assert heap.stat().st_size == 5 * PAGE_BYTES
    far = out / f"{addr_of(1 << 20):x}-{addr_of(1 << 26):x}.bin"
    assert far.stat().st_size == 4 * PAGE_BYTES
    assert far.stat().st_blocks * 512 == PAGE_BYTES


def test_only_their_owner_may_read_them(chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(chain, out)
    assert out.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o600}


def test_only_what_is_wanted(chain: Path, tmp_path: Path) -> None:
    def is_heap(vma: Vma) -> bool:
        return vma.kind == "heap"

    out = tmp_path / "out"
    report = export(chain, out, replace(TORN, wanted=is_heap))
    assert (report.vmas, report.files, report.data_bytes) == (1, 1, 5 * PAGE_BYTES)
    with MemoryView(Checkpoint.open(chain)) as view:
        assert_same_memory(view, out, is_heap)
    with pytest.raises(UsageError):
        export(chain, tmp_path / "none", replace(TORN, wanted=lambda _vma: False))
    assert not (tmp_path / "none").exists()


def test_memory_objects(checkpoint: Path, tmp_path: Path) -> None:
    vmas = tuple(object_vma(16 * n, 16 * n + 8, n) for n in range(1, 21))
    objects = [ImageObject(n, {0: page_of(n), 3: page_of(n + 50)}, 6 * PAGE_BYTES) for n in range(1, 21)]
    write_tree(checkpoint, 1, {PROCESS: ImageRound({18: page_of(99)}, vmas)}, objects)
    out = tmp_path / "out"
    export(checkpoint, out, RawOptions(threads=2))
    with MemoryView(Checkpoint.open(checkpoint)) as view:
        assert_same_memory(view, out)


def test_more_mappings_than_files_may_be_open(checkpoint: Path, tmp_path: Path) -> None:
    vmas = tuple(vma_of(2 * n, 2 * n + 1) for n in range(200))
    write_chain(checkpoint, ImageRound({2 * n: page_of(n) for n in range(200)}, vmas))
    out = tmp_path / "out"
    assert export(checkpoint, out).files == 200
    with MemoryView(Checkpoint.open(checkpoint)) as view:
        assert_same_memory(view, out)


def test_a_pre_dump_round_has_to_be_permitted(chain: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        export(chain, tmp_path / "out", RawOptions())
    assert not (tmp_path / "out").exists()


def damage(checkpoint: Path) -> None:
    path = next((checkpoint / "0001").glob("pages-*"))
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


def test_of_a_damaged_image_nothing_is_left(chain: Path, tmp_path: Path) -> None:
    damage(chain)
    before = set(tmp_path.iterdir())
    with pytest.raises(ImageCorrupt):
        export(chain, tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


def other_file(out: Path) -> None:
    (out / "mine.txt").write_text("1")


def inner_directory(out: Path) -> None:
    (out / "1000-2000.bin").mkdir()


def no_index(out: Path) -> None:
    (out / INDEX).unlink()


def link(out: Path) -> None:
    (out / "1000-2000.bin").symlink_to("/etc/passwd")


def test_an_earlier_export_is_replaced_as_a_whole(chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(chain, out)
    with pytest.raises(UsageError):
        export(chain, out)
    export(chain, out, replace(TORN, force=True, wanted=lambda vma: vma.kind == "heap"))
    assert len(list(out.iterdir())) == 2
    damage(chain)
    with pytest.raises(ImageCorrupt):
        export(chain, out, replace(TORN, force=True))
    assert len(list(out.iterdir())) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"out", "checkpoint"}


@pytest.mark.parametrize("change", [other_file, inner_directory, no_index, link])
def test_nothing_else_is_replaced(chain: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    out = tmp_path / "out"
    export(chain, out)
    change(out)
    before = {path.name for path in out.iterdir()}
    with pytest.raises(UsageError):
        export(chain, out, replace(TORN, force=True))
    assert {path.name for path in out.iterdir()} == before
