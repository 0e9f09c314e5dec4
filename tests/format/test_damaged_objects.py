"""Damaged and crafted memory objects: verify names them, and no process reads a wrong byte of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.chain import Checkpoint, MemoryView
from formats.check import Severity, VerifyReport, verify
from formats.errors import ImageCorrupt, PredumpError
from formats.layout import (
    MANIFEST_NAME,
    PAGE_BYTES,
    RUN,
    RunKind,
    object_pagemap_name,
    object_pages_name,
)
from formats.manifest import Manifest
from formats.manifestfile import encode_manifest, read_manifest
from formats.roundwriter import RoundWriter
from tests.format.images import (
    PID,
    ZERO_PAGE,
    ImageObject,
    ImageRound,
    addr_of,
    fill_round,
    object_vma,
    page_of,
    tree_manifest,
    vma_of,
    write_tree,
)
from tests.states import zombie_of

CHILD = PID + 1
HELD = ImageObject(0, {0: page_of(1), 1: RunKind.ZERO, 3: page_of(3)}, 4 * PAGE_BYTES - 100)
IMAGES = {
    PID: ImageRound({0: page_of(10)}, (object_vma(0, 4, 0), vma_of(4, 6))),
    CHILD: ImageRound({}, (object_vma(0, 2, 0, 2), object_vma(2, 3, 0))),
    CHILD + 1: ImageRound({}, ()),
}
ROOT_MEMORY = page_of(10) + ZERO_PAGE * 2 + page_of(3) + ZERO_PAGE * 2
CHILD_MEMORY = ZERO_PAGE + page_of(3) + page_of(1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_tree(tmp_path / "checkpoint", 1, IMAGES, [HELD])
    return tmp_path / "checkpoint"


def check(path: Path) -> VerifyReport:
    return verify(Checkpoint.open(path))


def errors(report: VerifyReport) -> list[tuple[int, str]]:
    """Exit code and file name of the errors, once each."""
    found = [(item.exit_code, Path(item.path).name) for item in report.findings if item.severity is Severity.ERROR]
    return list(dict.fromkeys(found))


def rewrite_manifest(path: Path, change: Callable[[Manifest], Manifest]) -> None:
    manifest, _ = read_manifest(path / "0001" / MANIFEST_NAME)
    (path / "0001" / MANIFEST_NAME).write_bytes(encode_manifest(change(manifest)))


def test_a_sound_tree_passes(path: Path) -> None:
    report = check(path)
    assert report.findings == []
    assert (report.rounds, report.files, report.data_pages) == (1, 8, 3)


def test_progress_counts_objects(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(Checkpoint.open(path), lambda done, total: seen.append((done, total)))
    total_bytes = report.stored_bytes + 3 * PAGE_BYTES
    assert {total for _, total in seen} == {total_bytes}
    assert seen[-2][0] == total_bytes  # all of it was counted, not made up at the end


@pytest.mark.parametrize("name", [object_pages_name(0), object_pagemap_name(0)])
def test_damaged_and_missing_files(path: Path, name: str) -> None:
    target = path / "0001" / name
    data = target.read_bytes()
    target.write_bytes(data[:5] + bytes([data[5] ^ 1]) + data[6:])
    assert errors(check(path)) == [(20, name)]
    target.write_bytes(data[:-1])
    assert errors(check(path)) == [(20, name)]
    target.unlink()
    assert errors(check(path)) == [(20, name)]
    with MemoryView(Checkpoint.open(path), pid=CHILD) as view, pytest.raises(ImageCorrupt, match="is missing"):
        view.read(addr_of(1), 1)


def test_files_of_another_object_are_noticed(tmp_path: Path) -> None:
    """A splice: each file is sound, but one stands for the other."""
    image = ImageRound({}, (object_vma(0, 1, 0), object_vma(1, 2, 1)))
    objects = [ImageObject(number, {0: page_of(number)}) for number in range(2)]
    write_tree(tmp_path / "checkpoint", 1, {PID: image}, objects)
    round_dir = tmp_path / "checkpoint" / "0001"
    shutil.copy(round_dir / object_pages_name(0), round_dir / object_pages_name(1))
    with MemoryView(Checkpoint.open(tmp_path / "checkpoint")) as view:
        assert view.read(addr_of(0), PAGE_BYTES) == page_of(0)
        with pytest.raises(ImageCorrupt):
            view.read(addr_of(1), 1)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"pages_data": 1}, "1 data pages of object 0, but there are 2"),
        ({"pages_zero": 2}, "2 zero pages of object 0, but there are 1"),
        ({"size_bytes": 3 * PAGE_BYTES}, "runs cover 0x3000-0x4000, past the end of 12288 bytes"),
    ],
)
def test_what_the_manifest_says_of_an_object(path: Path, change: dict[str, int], problem: str) -> None:
    rewrite_manifest(path, lambda manifest: replace(manifest, objects=[replace(manifest.objects[0], **change)]))
    report = check(path)
    assert report.exit_code == 20
    assert any(problem in item.message for item in report.findings)


def test_pages_of_objects_are_in_the_sums(path: Path) -> None:
    for name in ("pages_data", "pages_zero"):

        def without_objects(manifest: Manifest, name: str = name) -> Manifest:
            summed = sum(getattr(process, name) for process in manifest.processes)
            return replace(manifest, stats=replace(manifest.stats, **{name: summed}))

        rewrite_manifest(path, without_objects)
        assert errors(check(path)) == [(20, MANIFEST_NAME)]


def test_an_object_without_its_files(path: Path) -> None:
    def without_files(manifest: Manifest) -> Manifest:
        return replace(manifest, files=[item for item in manifest.files if "object" not in item.name])

    rewrite_manifest(path, without_files)
    assert errors(check(path)) == [(20, object_pagemap_name(0))]


def test_an_object_without_pages_needs_no_files(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    writer = RoundWriter(checkpoint, 1)
    image = ImageRound({}, (object_vma(0, 2, 0),))
    fill_round(writer, image)
    writer.commit(tree_manifest(1, {PID: image}, [ImageObject(0, {}, PAGE_BYTES)], None))
    assert check(checkpoint).findings == []
    with MemoryView(Checkpoint.open(checkpoint)) as view:
        assert view.read(addr_of(0), PAGE_BYTES) == ZERO_PAGE


def test_an_object_nothing_refers_to_is_a_warning(path: Path) -> None:
    def unused(manifest: Manifest) -> Manifest:
        processes = [
            replace(item, vmas=[replace(vma, object=None) for vma in item.vmas]) for item in manifest.processes
        ]
        return replace(manifest, processes=processes)

    rewrite_manifest(path, unused)
    report = check(path)
    assert report.exit_code == 0
    assert [item.message for item in report.findings] == [
        f"{path / '0001' / MANIFEST_NAME} has memory object 0, which nothing refers to."
    ]


def test_a_zombie_needs_no_files(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    writer = RoundWriter(checkpoint, 1)
    images = {PID: ImageRound({0: page_of(1)}), CHILD: ImageRound({}, ())}
    fill_round(writer, images[PID])
    manifest = tree_manifest(1, images, [], None)
    root, zombie = manifest.processes
    writer.commit(replace(manifest, processes=[root, replace(zombie, zombie=zombie_of(zombie.pid, 9))]))
    assert check(checkpoint).findings == []


CRAFTED: dict[str, tuple[bytes, str]] = {
    "parent run": (RUN.pack(0, 4, RunKind.PARENT, 0), "refers to its parent round"),
    "run past the end": (RUN.pack(3 * PAGE_BYTES, 2, RunKind.ZERO, 0), "past"),
    "run at 2^56": (RUN.pack(1 << 56, 1, RunKind.ZERO, 0), "out of order"),
    "run up to 2^64": (RUN.pack((1 << 64) - PAGE_BYTES, 1, RunKind.ZERO, 0), "out of order"),
    "run of 2^32 pages": (RUN.pack(0, (1 << 32) - 1, RunKind.DATA, 0), "past"),
    "page index of nowhere": (RUN.pack(0, 1, RunKind.DATA, 1 << 60), "go on counting data pages"),
    "unaligned run": (RUN.pack(1, 1, RunKind.ZERO, 0), "whole pages"),
    "unknown kind": (RUN.pack(0, 1, 4, 0), "unknown kind"),
    "no pages in the pages file": (RUN.pack(0, 1, RunKind.DATA, 0), "pages 0 to 1 are asked for"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_runs_of_an_object_are_damage(tmp_path: Path, case: str) -> None:
    records, problem = CRAFTED[case]
    checkpoint = tmp_path / "checkpoint"
    image = ImageRound({}, (object_vma(0, 8, 0),))
    writer = RoundWriter(checkpoint, 1)
    fill_round(writer, image)
    _, pagemap = writer.open_object(0)
    pagemap.append(records)
    writer.commit(tree_manifest(1, {PID: image}, [ImageObject(0, {}, 4 * PAGE_BYTES)], None))
    assert check(checkpoint).exit_code == 20
    with MemoryView(Checkpoint.open(checkpoint)) as view, pytest.raises(ImageCorrupt, match=problem):
        list(view.chunks(addr_of(0), addr_of(8)))


@given(data=st.data())
def test_a_damaged_tree_never_reads_wrong(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Flip, cut or overwrite any file: every process reads as it was, or not at all."""
    path = tmp_path_factory.mktemp("damage") / "checkpoint"
    write_tree(path, 1, IMAGES, [HELD])
    target = data.draw(st.sampled_from(sorted(path.rglob("*.*"))))
    content = target.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.binary(max_size=20))
    resume = position + data.draw(st.integers(0, 20))
    target.write_bytes(content[:position] + damage + content[resume:])
    for pid, expected in ((PID, ROOT_MEMORY), (CHILD, CHILD_MEMORY)):
        try:
            with MemoryView(Checkpoint.open(path), pid=pid) as view:
                assert view.read(addr_of(0), len(expected)) == expected
        except PredumpError as error:
            assert error.exit_code in {20, 21}  # noqa: PT017
