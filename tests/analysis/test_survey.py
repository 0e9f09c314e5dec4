"""A checkpoint at a glance, on chains made by hand: what is found of rounds and files, and what is wrong with them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.survey import Survey, survey
from formats.checkpoint import Checkpoint
from formats.layout import MANIFEST_NAME, RunKind
from formats.manifestfile import read_manifest
from tests.format.images import ImageRound, page_of, round_path, vma_of, write_chain, write_round
from tests.fuzz.manifests import body_of, resealed, sealed
from tests.fuzz.samples import files_below, write_files

FULL = ImageRound({page: page_of(page) for page in range(8)})
LATER = ImageRound({0: page_of(9), 1: RunKind.ZERO, **dict.fromkeys(range(2, 8), RunKind.PARENT)})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_chain(tmp_path / "checkpoint", FULL, LATER, LATER)


def surveyed(checkpoint: Path) -> Survey:
    opened = Checkpoint.open(checkpoint)
    return survey(opened, opened.round().manifest.processes[0])


def problems(checkpoint: Path) -> list[tuple[int | None, int, str]]:
    return [(item.round, item.exit_code, item.message) for item in surveyed(checkpoint).findings]


def test_a_whole_chain(checkpoint: Path) -> None:
    found = surveyed(checkpoint)
    assert found.is_whole
    assert found.exit_code == 0
    assert [(item.number, item.full, item.stats.pages_data) for item in found.rounds] == [
        (1, True, 8),
        (2, False, 1),
        (3, False, 1),
    ]
    assert found.files == 6


@pytest.mark.parametrize("name", ["pages-42.zst", "pagemap-42.zst"])
def test_a_file_that_is_gone_or_cut_or_another(checkpoint: Path, name: str) -> None:
    path = round_path(checkpoint, 2) / name
    content = path.read_bytes()
    path.unlink()
    assert problems(checkpoint) == [(2, 20, f"{path} is missing.")]
    path.write_bytes(content[:-1])
    assert [item[:2] for item in problems(checkpoint)] == [(2, 20)]
    path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    assert problems(checkpoint) == [(2, 20, f"{path} is damaged: its seek table is not the one its manifest names.")]


def test_what_only_verify_finds(checkpoint: Path) -> None:
    path = round_path(checkpoint, 1) / "pages-42.zst"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    assert problems(checkpoint) == []


def test_a_parent_that_is_gone(checkpoint: Path) -> None:
    shutil.rmtree(round_path(checkpoint, 1))
    found = surveyed(checkpoint)
    assert [item.number for item in found.rounds] == [2, 3]
    assert problems(checkpoint) == [(2, 22, f"{round_path(checkpoint, 2)} needs round 1, which is not there.")]
    assert found.exit_code == 22


def test_a_full_round_needs_no_parent(tmp_path: Path) -> None:
    checkpoint = write_chain(tmp_path / "checkpoint", FULL, FULL)
    files = files_below(checkpoint)
    write_files(checkpoint, resealed(files, 2, body_of(files["0002/manifest.json"]) | {"full": True}))
    shutil.rmtree(round_path(checkpoint, 1))
    assert problems(checkpoint) == []


def test_a_parent_that_is_another(checkpoint: Path) -> None:
    shutil.rmtree(round_path(checkpoint, 1))
    write_round(checkpoint, 1, replace(FULL, start_time_ticks=8))
    assert problems(checkpoint) == [
        (2, 20, f"{round_path(checkpoint, 2)} needs another round 1 than the one that is there.")
    ]


def test_a_round_that_stands_for_the_parent(checkpoint: Path) -> None:
    """As after flattening."""
    before = read_manifest(round_path(checkpoint, 1) / MANIFEST_NAME)[1]
    files = files_below(checkpoint)
    body = body_of(files["0001/manifest.json"])
    write_files(checkpoint, files | {"0001/manifest.json": sealed(body | {"stands_for": ["cd" * 32]})})
    assert [item[:2] for item in problems(checkpoint)] == [(2, 20)]
    write_files(checkpoint, files | {"0001/manifest.json": sealed(body | {"stands_for": ["cd" * 32, before]})})
    assert problems(checkpoint) == []


def test_a_round_of_another_checkpoint(checkpoint: Path) -> None:
    files = files_below(checkpoint)
    body = body_of(files["0001/manifest.json"]) | {"checkpoint_id": "f" * 32}
    write_files(checkpoint, resealed(files, 1, body))
    assert problems(checkpoint) == [(1, 20, f"{round_path(checkpoint, 1)} belongs to another checkpoint.")]


def test_a_damaged_manifest_is_in_the_way_of_its_round_alone(checkpoint: Path) -> None:
    path = round_path(checkpoint, 2) / MANIFEST_NAME
    path.write_bytes(path.read_bytes().replace(b'"stats"', b'"stots"'))
    found = surveyed(checkpoint)
    assert [item.number for item in found.rounds] == [1, 3]
    assert problems(checkpoint) == [(2, 20, f"{path} is damaged: its checksum does not match.")]


def test_names_of_files_lead_nowhere_else(checkpoint: Path) -> None:
    (checkpoint.parent / "secret.zst").write_bytes(b"x")
    files = files_below(checkpoint)
    body = body_of(files["0002/manifest.json"])
    body["files"][0]["name"] = "../../secret.zst"
    write_files(checkpoint, resealed(files, 2, body))
    (problem,) = problems(checkpoint)
    assert "'../../secret.zst' is not the name of an image file" in problem[2]


def test_so_many_findings_and_no_more(tmp_path: Path) -> None:
    checkpoint = write_chain(tmp_path / "checkpoint", *[ImageRound({0: page_of(1)})] * 60)
    for number in range(1, 61):
        for name in ("pages-42.zst", "pagemap-42.zst"):
            (round_path(checkpoint, number) / name).unlink()
    found = surveyed(checkpoint)
    assert found.n_findings == 120
    assert len(found.findings) == 100


def test_mappings_out_of_order_are_damage(checkpoint: Path) -> None:
    files = files_below(checkpoint)
    body = body_of(files["0002/manifest.json"])
    (vma,) = body["processes"][0]["vmas"]
    body["processes"][0]["vmas"] = [vma, vma]
    write_files(checkpoint, resealed(files, 2, body))
    (problem,) = problems(checkpoint)
    assert "the VMA at 0x7f0000000000 is out of order" in problem[2]


# --- how often what was written ---------------------------------------------------------------------


def written(tmp_path: Path, *images: ImageRound) -> tuple[int, list[int]]:
    found = surveyed(write_chain(tmp_path / "checkpoint", *images)).written
    return found.n_rounds, found.pages


def test_full_rounds_say_nothing_of_what_was_written(checkpoint: Path) -> None:
    found = surveyed(checkpoint).written
    assert (found.n_rounds, found.pages) == (2, [4])


def test_a_mapping_that_grows_and_one_that_is_split(tmp_path: Path) -> None:
    first = ImageRound({}, (vma_of(0, 4), vma_of(8, 16)))
    second = ImageRound(
        {0: page_of(1), **{page: page_of(page) for page in range(8, 16)}}, (vma_of(0, 4), vma_of(8, 16))
    )
    last = ImageRound({5: page_of(3)}, (vma_of(0, 6), vma_of(8, 10), vma_of(10, 16)))
    assert written(tmp_path, first, second, last) == (2, [2, 2, 6])


def test_mappings_that_are_elsewhere_now_do_not_count(tmp_path: Path) -> None:
    first, second = ImageRound({}), ImageRound({20: page_of(1)}, (vma_of(16, 24),))
    assert written(tmp_path, first, second, ImageRound({}, (vma_of(0, 16), vma_of(24, 32)))) == (2, [0, 0])


def test_another_process_of_that_pid_does_not_count(tmp_path: Path) -> None:
    images = [ImageRound({0: page_of(1)}), ImageRound({0: page_of(1)}, start_time_ticks=9), ImageRound({})]
    assert written(tmp_path, *images) == (1, [0])
