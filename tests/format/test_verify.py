"""Verify: sound checkpoints pass, and each kind of damage is named, at its place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from formats.check import Severity, VerifyReport, verify
from formats.checkpoint import Checkpoint
from formats.frames import compress_frames
from formats.layout import (
    MANIFEST_NAME,
    PAGE_BYTES,
    PAGES_FRAME_BYTES,
    RunKind,
    pagemap_name,
    pages_name,
)
from formats.manifest import Manifest
from formats.manifestfile import encode_manifest, read_manifest
from formats.roundwriter import RoundWriter
from tests.format.images import (
    PID,
    ImageRound,
    fill_round,
    manifest_of,
    pack_runs,
    page_of,
    process_of,
    round_path,
    vma_of,
    write_chain,
    write_round,
)

FULL = ImageRound(
    {page: page_of(page) for page in range(200)} | {210: RunKind.ZERO},
    vmas=(vma_of(0, 150), vma_of(150, 300)),
)
LATER = ImageRound(
    {0: page_of(999), 1: RunKind.PARENT, 210: RunKind.PARENT, 5: RunKind.ZERO},
    vmas=(vma_of(0, 150), vma_of(150, 300)),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_chain(tmp_path / "checkpoint", FULL, LATER, LATER)


def check(path: Path) -> VerifyReport:
    return verify(Checkpoint.open(path))


def errors(report: VerifyReport) -> list[tuple[int | None, int, str]]:
    """The errors as round, exit code and file name, once each."""
    found = [
        (item.round, item.exit_code, Path(item.path).name)
        for item in report.findings
        if item.severity is Severity.ERROR
    ]
    return list(dict.fromkeys(found))


def flip(path: Path, offset_bytes: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset_bytes] ^= 0x10
    path.write_bytes(bytes(data))


def rewrite_manifest(round_dir: Path, change: Callable[[Manifest], Manifest]) -> None:
    manifest, _ = read_manifest(round_dir / MANIFEST_NAME)
    (round_dir / MANIFEST_NAME).write_bytes(encode_manifest(change(manifest)))


def test_a_sound_checkpoint_passes(path: Path) -> None:
    report = check(path)
    assert report.findings == []
    assert report.exit_code == 0
    assert (report.rounds, report.files, report.data_pages) == (3, 6, 202)
    assert report.stored_bytes == sum(item.stat().st_size for item in path.rglob("*.zst"))


def test_progress_ends_at_the_total(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(Checkpoint.open(path), lambda done, total: seen.append((done, total)))
    total_bytes = report.stored_bytes + report.data_pages * PAGE_BYTES
    assert seen[-1] == (total_bytes, total_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 10


def test_a_flipped_bit_in_a_page(path: Path) -> None:
    flip(round_path(path, 1) / pages_name(PID), 1000)
    assert errors(check(path)) == [(1, 20, pages_name(PID))]


def test_a_flipped_bit_in_a_pagemap(path: Path) -> None:
    flip(round_path(path, 3) / pagemap_name(PID), 10)
    assert errors(check(path)) == [(3, 20, pagemap_name(PID))]


def test_a_damaged_pagemap_does_not_hide_a_damaged_page(path: Path) -> None:
    flip(round_path(path, 1) / pagemap_name(PID), -1)
    flip(round_path(path, 1) / pages_name(PID), 1000)
    report = check(path)
    assert any("frame 0" in item.message for item in report.findings)
    assert {(1, 20, pages_name(PID)), (1, 20, pagemap_name(PID))} <= set(errors(report))


def test_a_bit_that_decompression_ignores(path: Path) -> None:
    flip(round_path(path, 1) / pages_name(PID), 4)  # Unused_bit of RFC 8878, 3.1.1.1.1.3
    report = check(path)
    assert errors(report) == [(1, 20, pages_name(PID))]
    assert "are not the ones its manifest names" in report.findings[0].message


def test_a_truncated_file(path: Path) -> None:
    target = round_path(path, 1) / pages_name(PID)
    target.write_bytes(target.read_bytes()[:-1])
    report = check(path)
    assert errors(report) == [(1, 20, pages_name(PID))]
    assert "bytes in the file" in report.findings[0].message


def test_a_missing_file(path: Path) -> None:
    (round_path(path, 2) / pages_name(PID)).unlink()
    report = check(path)
    assert errors(report) == [(2, 20, pages_name(PID))]
    assert "is missing" in report.findings[0].message


def test_one_bad_round_does_not_hide_another(path: Path) -> None:
    (round_path(path, 2) / MANIFEST_NAME).write_bytes(b"x")
    flip(round_path(path, 1) / pages_name(PID), 1000)
    flip(round_path(path, 3) / pages_name(PID), 20)
    found = errors(check(path))
    assert (2, 20, MANIFEST_NAME) in found
    assert (1, 20, pages_name(PID)) in found
    assert (3, 20, pages_name(PID)) in found


def test_all_manifests_damaged(path: Path) -> None:
    for number in (1, 2, 3):
        (round_path(path, number) / MANIFEST_NAME).write_bytes(b"x")
    assert [item[:2] for item in errors(check(path))] == [(1, 20), (2, 20), (3, 20)]


def test_a_newer_round_is_unsupported(path: Path) -> None:
    target = round_path(path, 3) / MANIFEST_NAME
    target.write_bytes(target.read_bytes().replace(b'"schema":2', b'"schema":9', 1))
    assert errors(check(path)) == [(3, 21, MANIFEST_NAME)]
    assert check(path).exit_code == 21


def test_a_missing_parent(path: Path) -> None:
    shutil.rmtree(round_path(path, 1))
    report = check(path)
    assert (report.exit_code, report.findings[0].round) == (22, 2)
    assert "needs round 1" in report.findings[0].message


def test_a_changed_parent(path: Path) -> None:
    rewrite_manifest(round_path(path, 1), lambda manifest: replace(manifest, created_ns=77))
    report = check(path)
    assert [(item.round, item.exit_code) for item in report.findings] == [(2, 20)]
    assert "not the one it was taken on top of" in report.findings[0].message


def test_a_page_the_parent_does_not_have(tmp_path: Path) -> None:
    path = write_chain(
        tmp_path / "checkpoint",
        ImageRound({0: page_of(1), 1: page_of(2)}),
        ImageRound({0: page_of(3)}),
        ImageRound({0: RunKind.PARENT, 1: RunKind.PARENT, 2: RunKind.PARENT}),
    )
    report = check(path)
    assert errors(report) == [(3, 20, pagemap_name(PID))]
    assert "0x7f0000001000-0x7f0000003000" in report.findings[0].message


def test_parent_runs_of_a_full_round(tmp_path: Path) -> None:
    path = write_chain(tmp_path / "checkpoint", ImageRound({0: RunKind.PARENT}))
    assert errors(check(path)) == [(1, 20, pagemap_name(PID))]


def test_parent_runs_into_another_process_of_that_pid(tmp_path: Path) -> None:
    path = write_chain(
        tmp_path / "checkpoint",
        ImageRound({0: page_of(1)}),
        ImageRound({0: RunKind.PARENT}, start_time_ticks=99),
    )
    assert errors(check(path)) == [(2, 20, pagemap_name(PID))]


def test_runs_outside_the_vmas(tmp_path: Path) -> None:
    path = write_chain(tmp_path / "checkpoint", ImageRound({0: page_of(1), 9: RunKind.ZERO}, vmas=(vma_of(0, 9),)))
    report = check(path)
    assert errors(report) == [(1, 20, pagemap_name(PID))]
    assert "in no VMA" in report.findings[0].message


@pytest.mark.parametrize("name", ["pages_data", "pages_zero", "pages_parent"])
def test_page_counts_are_compared(tmp_path: Path, name: str) -> None:
    def add_one(manifest: Manifest, where: str) -> Manifest:
        process = manifest.processes[0]
        if where == "stats":
            stats = replace(manifest.stats, **{name: getattr(manifest.stats, name) + 1})
            return replace(manifest, stats=stats)
        if where == "process":
            process = replace(process, **{name: getattr(process, name) + 1})
        else:
            vma = process.vmas[1]
            vmas = [process.vmas[0], replace(vma, **{name: getattr(vma, name) + 1})]
            process = replace(process, vmas=vmas)
        return replace(manifest, processes=[process])

    for where in ("stats", "process", "vma"):
        path = write_chain(tmp_path / where, FULL)
        rewrite_manifest(path / "0001", lambda manifest, at=where: add_one(manifest, at))
        report = check(path)
        assert report.exit_code == 20, where
        what = name.removeprefix("pages_") + " pages"
        assert any(what in item.message for item in report.findings), where


def test_pages_nobody_refers_to(tmp_path: Path) -> None:
    image = ImageRound({0: page_of(1)})
    writer = RoundWriter(tmp_path / "checkpoint", 1)
    pages, pagemap = writer.open_process(PID)
    pages.append(*compress_frames(memoryview(page_of(1) + page_of(2)), PAGES_FRAME_BYTES, 1))
    pagemap.append(pack_runs(image.pages))
    writer.commit(manifest_of(1, process_of(image), None))
    assert errors(check(tmp_path / "checkpoint")) == [(1, 20, pages_name(PID))]


def test_a_process_whose_files_are_gone_from_the_manifest(tmp_path: Path) -> None:
    path = write_chain(tmp_path / "checkpoint", FULL)
    rewrite_manifest(path / "0001", lambda manifest: replace(manifest, files=[]))
    assert errors(check(path)) == [(1, 20, pagemap_name(PID))]


def test_strange_files_and_unfinished_rounds_are_warnings(path: Path) -> None:
    (round_path(path, 1) / "core").touch()
    fill_round(RoundWriter(path, 4), FULL)
    report = check(path)
    assert report.exit_code == 0
    assert [(item.severity, item.round, Path(item.path).name) for item in report.findings] == [
        (Severity.WARNING, 1, "core"),
        (Severity.WARNING, None, "0004"),
    ]


def test_findings_are_bounded_for_each_file(tmp_path: Path) -> None:
    pages = {page: page_of(page) for page in range(64 * 40)}
    path = write_chain(tmp_path / "checkpoint", ImageRound(pages, vmas=(vma_of(0, 64 * 40),)))
    target = path / "0001" / pages_name(PID)
    data = bytearray(target.read_bytes())
    frame_bytes = len(data) // 41
    for position in range(20, len(data) - 1000, frame_bytes):
        data[position] ^= 1
    target.write_bytes(bytes(data))
    report = check(path)
    assert report.exit_code == 20
    assert 2 < len(report.findings) <= 16


def test_a_full_round_needs_no_parent_on_disk(tmp_path: Path) -> None:
    path = write_chain(tmp_path / "checkpoint", FULL)
    parent = write_round(path, 2, FULL)
    write_round(path, 3, LATER, parent)
    shutil.rmtree(path / "0001")
    assert check(path).findings == []


def test_a_thousand_findings_are_enough(path: Path) -> None:
    """Of warnings, and of errors besides."""
    for number in range(1500):
        (path / f"{number + 10:04d}").mkdir()
    for number in (1, 2, 3):
        for index in range(20):
            (round_path(path, number) / f"{index}.bak").touch()
    flip(round_path(path, 3) / pagemap_name(PID), 10)
    report = check(path)
    assert 1000 < len(report.findings) < 1010
    assert report.more_warnings == 3 * 16 + 1500 - 1000
    assert report.more_errors == 0
    assert report.exit_code == 20
