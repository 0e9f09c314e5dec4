"""Which rounds a checkpoint has, and which one each refers to."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from formats.chain import MemoryView
from formats.check import verify
from formats.checkpoint import Checkpoint
from formats.errors import (
    ImageCorrupt,
    ImageVersionUnsupported,
    NotACheckpoint,
    ParentMissing,
    StorageError,
    UsageError,
)
from formats.layout import MANIFEST_NAME, RunKind
from formats.manifest import Manifest
from formats.manifestfile import encode_manifest, read_manifest
from formats.outline import ManifestOutline
from tests.format.images import ImageRound, addr_of, page_of, round_path, write_chain, write_round

FULL = ImageRound({0: page_of(1), 1: page_of(2)})
LATER = ImageRound({0: page_of(3), 1: RunKind.PARENT})


@pytest.fixture
def checkpoint_path(tmp_path: Path) -> Path:
    return write_chain(tmp_path / "checkpoint", FULL, LATER, LATER)


def test_the_last_round_is_selected(checkpoint_path: Path) -> None:
    checkpoint = Checkpoint.open(checkpoint_path)
    assert checkpoint.numbers == [1, 2, 3]
    assert checkpoint.selected == checkpoint.round().number == 3
    assert [info.number for info in checkpoint.rounds] == [1, 2, 3]


def test_a_round_directory_selects_its_round(checkpoint_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Checkpoint.open(checkpoint_path / "0002").selected == 2
    monkeypatch.chdir(checkpoint_path / "0001")
    here = Checkpoint.open(Path())
    assert (here.selected, here.numbers) == (1, [1, 2, 3])
    monkeypatch.chdir(checkpoint_path)
    assert Checkpoint.open(Path("0002")).selected == 2


def test_numbers_grow_past_four_digits(checkpoint_path: Path) -> None:
    write_round(checkpoint_path, 10_000, FULL)
    assert Checkpoint.open(checkpoint_path).numbers == [1, 2, 3, 10_000]


def test_what_is_no_round_is_ignored(checkpoint_path: Path) -> None:
    for name in ("0004", "00001", "0000", "one", "0005.bak"):
        (checkpoint_path / name).mkdir()
    for name in ("00001", "0000", "0005.bak"):
        (checkpoint_path / name / MANIFEST_NAME).touch()
    (checkpoint_path / "0006").touch()
    assert Checkpoint.open(checkpoint_path).numbers == [1, 2, 3]


def test_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotACheckpoint, match="no committed round"):
        Checkpoint.open(tmp_path)
    for name in ("file", "missing"):
        with pytest.raises(NotACheckpoint, match="not a directory"):
            Checkpoint.open(tmp_path / name)


def test_a_round_nobody_may_look_into_is_not_ignored(checkpoint_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lstat = Path.lstat

    def refusing_lstat(path: Path) -> object:
        if path == checkpoint_path / "0003" / MANIFEST_NAME:
            raise PermissionError(13, "Permission denied")
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", refusing_lstat)
    with pytest.raises(StorageError, match="Permission denied"):
        Checkpoint.open(checkpoint_path)


def test_a_round_that_is_not_there(checkpoint_path: Path) -> None:
    with pytest.raises(UsageError, match="has no round 4") as caught:
        Checkpoint.open(checkpoint_path).round(4)
    assert caught.value.exit_code == 2
    assert "1 to 3" in caught.value.hint


WayBack = Callable[..., list[int]]


def of_lineage(checkpoint: Checkpoint, number: int | None = None) -> list[int]:
    return [info.number for info in checkpoint.lineage(number)]


def of_levels(checkpoint: Checkpoint, number: int | None = None) -> list[int]:
    process = checkpoint.round(number).manifest.processes[0]
    return [pages.round for pages in checkpoint.levels_of(process, number)]


both_ways = pytest.mark.parametrize("way_back", [of_lineage, of_levels])


@both_ways
def test_a_lineage_goes_back_to_the_full_round(way_back: WayBack, checkpoint_path: Path) -> None:
    write_round(checkpoint_path, 4, FULL)
    checkpoint = Checkpoint.open(checkpoint_path)
    assert way_back(checkpoint, 3) == [3, 2, 1]
    assert way_back(checkpoint) == [4]


@both_ways
def test_a_missing_parent(way_back: WayBack, checkpoint_path: Path) -> None:
    shutil.rmtree(checkpoint_path / "0001")
    with pytest.raises(ParentMissing, match="needs round 1") as caught:
        way_back(Checkpoint.open(checkpoint_path))
    assert caught.value.exit_code == 22
    assert "0001" in caught.value.hint


@both_ways
def test_another_round_in_the_parents_place(way_back: WayBack, checkpoint_path: Path) -> None:
    shutil.rmtree(checkpoint_path / "0001")
    write_round(checkpoint_path, 1, ImageRound({0: page_of(9), 1: page_of(9)}))
    with pytest.raises(ImageCorrupt, match="not the one it was taken on top of"):
        way_back(Checkpoint.open(checkpoint_path))


@both_ways
def test_a_parent_from_another_checkpoint(way_back: WayBack, checkpoint_path: Path) -> None:
    path = round_path(checkpoint_path, 3) / MANIFEST_NAME
    manifest, _ = read_manifest(path)
    path.write_bytes(encode_manifest(replace(manifest, checkpoint_id="f" * 32)))
    with pytest.raises(ImageCorrupt, match="another checkpoint"):
        way_back(Checkpoint.open(checkpoint_path))


def test_a_round_under_another_number(checkpoint_path: Path) -> None:
    (checkpoint_path / "0003").rename(checkpoint_path / "0004")
    with pytest.raises(ImageCorrupt, match="that of round 3"):
        Checkpoint.open(checkpoint_path).round()


def test_a_damaged_round_is_in_the_way_of_those_only_that_need_it(checkpoint_path: Path) -> None:
    write_round(checkpoint_path, 4, FULL)
    (checkpoint_path / "0002" / MANIFEST_NAME).write_bytes(b"")
    checkpoint = Checkpoint.open(checkpoint_path)
    assert len(list(checkpoint.lineage(4))) == 1
    with pytest.raises(ImageCorrupt):
        list(checkpoint.lineage(3))
    with pytest.raises(ImageCorrupt):
        list(checkpoint.rounds)


def test_rounds_of_two_checkpoints_are_not_listed_as_one(checkpoint_path: Path) -> None:
    path = checkpoint_path / "0001" / MANIFEST_NAME
    manifest, _ = read_manifest(path)
    path.write_bytes(encode_manifest(replace(manifest, checkpoint_id="f" * 32)))
    with pytest.raises(ImageCorrupt, match=r"Round 2 of .* belongs to another checkpoint"):
        list(Checkpoint.open(checkpoint_path).rounds)


def test_the_manifests_of_a_long_chain_are_not_all_held(tmp_path: Path) -> None:
    checkpoint_path = write_chain(tmp_path / "checkpoint", FULL, *[LATER] * 9)
    checkpoint = Checkpoint.open(checkpoint_path)

    def manifests() -> int:
        gc.collect()
        return sum(isinstance(item, Manifest) for item in gc.get_objects())

    before = manifests()
    with MemoryView(checkpoint) as view:
        assert verify(checkpoint).rounds == 10
        assert view.read(addr_of(0), 2) == page_of(3)[:2]
        assert sum(1 for _ in checkpoint.rounds) == 10
        assert manifests() <= before + 3


def test_a_round_in_outline_is_a_part_of_the_round(checkpoint_path: Path) -> None:
    checkpoint = Checkpoint.open(checkpoint_path)
    outlines = [checkpoint.outline(number) for number in (1, 2, 3)]
    for outline, info in zip(outlines, checkpoint.rounds, strict=True):
        assert (outline.number, outline.path, outline.sha256) == (info.number, info.path, info.sha256)
        assert isinstance(outline.manifest, ManifestOutline)
        for name in ("checkpoint_id", "round", "kind", "parent", "full", "full_reason", "stats", "files"):
            assert getattr(outline.manifest, name) == getattr(info.manifest, name)
        (process,), (whole,) = outline.manifest.processes, info.manifest.processes
        assert (process.pid, process.start_time_ticks) == (whole.pid, whole.start_time_ticks)
        assert [(vma.start_addr, vma.end_addr, vma.pages_data, vma.pages_zero) for vma in process.vmas] == [
            (vma.start_addr, vma.end_addr, vma.pages_data, vma.pages_zero) for vma in whole.vmas
        ]
    assert checkpoint.outline(3).manifest is checkpoint.round(3).manifest  # not read again


def test_an_outline_is_checked_as_a_whole(checkpoint_path: Path) -> None:
    path = checkpoint_path / "0003" / MANIFEST_NAME
    path.write_bytes(path.read_bytes().replace(b'"tool_version"', b'"tool_virsion"'))
    with pytest.raises(ImageCorrupt, match="checksum"):
        Checkpoint.open(checkpoint_path).outline(3)
    (checkpoint_path / "0002").rename(checkpoint_path / "0004")
    with pytest.raises(ImageCorrupt, match="that of round 2"):
        Checkpoint.open(checkpoint_path).outline(4)


def test_an_outline_of_a_round_with_an_unknown_feature_is_refused(checkpoint_path: Path) -> None:
    path = checkpoint_path / "0002" / MANIFEST_NAME
    manifest, _ = read_manifest(path)
    path.write_bytes(encode_manifest(replace(manifest, features=["frobnication"])))
    with pytest.raises(ImageVersionUnsupported, match="frobnication"):
        Checkpoint.open(checkpoint_path).outline(2)


def test_a_damaged_last_round_is_not_passed_over(checkpoint_path: Path) -> None:
    (checkpoint_path / "0003" / MANIFEST_NAME).write_bytes(b"")
    with pytest.raises(ImageCorrupt):
        Checkpoint.open(checkpoint_path).round()


def test_rounds_that_are_added_are_not_read_again(tmp_path: Path) -> None:
    path = write_chain(tmp_path / "checkpoint", FULL, *[LATER] * 4)
    on_disk = Checkpoint.open(path)
    growing = Checkpoint(path, [1], 1)
    for info in on_disk.rounds_of(range(2, 6)):
        growing.add(info)
    assert (growing.selected, growing.numbers, growing.numbers_read) == (5, [1, 2, 3, 4, 5], [1])
    assert growing.outline(2) == on_disk.outline(2)
    for number in range(2, 6):
        (round_path(path, number) / MANIFEST_NAME).unlink()
    with MemoryView(growing) as view:
        assert view.read(addr_of(0), 1) == page_of(3)[:1]
        assert view.read(addr_of(1), 1) == page_of(2)[:1]
