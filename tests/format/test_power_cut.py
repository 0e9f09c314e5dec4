"""A power cut at any instant leaves the last committed round, or the one before while its commit was under way.

The writer's system calls are recorded, and for each of them everything is put together that a disk may hold if it was
the last one: `tests.format.disk` says what that is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from formats.chain import Checkpoint, MemoryView
from formats.check import verify
from formats.elfcore import CoreOptions, write_core
from formats.errors import NotACheckpoint, PredumpError, StorageError
from formats.flatten import FlattenOptions
from formats.layout import FLATTEN_NAME, PAGE_BYTES, RunKind
from formats.manifest import Parent
from formats.replacing import flatten_in_place, tidy_up
from formats.roundwriter import RoundWriter, remove_unfinished
from tests.format.disk import Disk, Mark, Rename, Sync, Tree, write_tree
from tests.format.images import (
    PID,
    ImageObject,
    ImageRound,
    PageState,
    addr_of,
    fill_round,
    manifest_of,
    object_vma,
    page_of,
    process_of,
    tree_manifest,
    write_chain,
    write_pages,
    write_round,
)
from tests.tally import Count, Tally

_STATES = 24  # of all that a cut may leave, where there are more
_SEED = 20251

FIRST = ImageRound({0: page_of(1), 1: RunKind.ZERO})
LATER = ImageRound({0: page_of(2), 1: RunKind.PARENT})
CONTENT = {0: b"", 1: page_of(1) + bytes(PAGE_BYTES), 2: page_of(2) + bytes(PAGE_BYTES)}
"""Of the first two pages, by the number of the last round."""

COMMITTED = "committed "
Writer = Callable[[Path, Disk], None]


def parent_of(checkpoint: Path) -> Parent:
    info = Checkpoint.open(checkpoint).round()
    return Parent(round=info.number, sha256=info.sha256)


def first_round(checkpoint: Path, disk: Disk) -> None:
    write_round(checkpoint, 1, FIRST)
    disk.mark(f"{COMMITTED}1")


def second_round(checkpoint: Path, disk: Disk) -> None:
    write_round(checkpoint, 2, LATER, parent_of(checkpoint))
    disk.mark(f"{COMMITTED}2")


def two_rounds(checkpoint: Path, disk: Disk) -> None:
    first_round(checkpoint, disk)
    second_round(checkpoint, disk)


def tree_with_objects(checkpoint: Path, disk: Disk) -> None:
    """Two processes and two objects, and one more object that is taken back."""
    vmas = (*FIRST.vmas, object_vma(64, 66, 1), object_vma(66, 68, 2))
    images = {PID: ImageRound(LATER.pages, vmas), PID + 1: ImageRound({3: page_of(7)}, vmas)}
    objects = [ImageObject(1, {0: page_of(8), 1: RunKind.ZERO}), ImageObject(2, {1: page_of(9)})]
    parent = parent_of(checkpoint)
    writer = RoundWriter(checkpoint, 2)
    for pid, image in images.items():
        fill_round(writer, image, pid)
    discarded = writer.open_object(3)
    write_pages(discarded, {0: page_of(3)}, base_addr=0)
    writer.discard(discarded)
    for item in objects:
        write_pages(writer.open_object(item.id), item.pages, base_addr=0)
    writer.commit(tree_manifest(2, images, objects, parent))
    disk.mark(f"{COMMITTED}2")


def after_an_unfinished_round(checkpoint: Path, disk: Disk) -> None:
    assert remove_unfinished(checkpoint) == [2]
    second_round(checkpoint, disk)


def abandoned_then_again(checkpoint: Path, disk: Disk) -> None:
    writer = RoundWriter(checkpoint, 2)
    fill_round(writer, FIRST)
    writer.abandon()
    second_round(checkpoint, disk)


def committed_in_vain_then_again(checkpoint: Path, disk: Disk) -> None:
    """The disk fails after the rename that commits: nobody knows whether the round is there, so it is taken back."""
    writer = RoundWriter(checkpoint, 2)
    fill_round(writer, LATER)
    synced = os.fsync

    def failing(fd: int) -> None:
        if (writer.path / "manifest.json").exists():
            raise OSError(5, "the disk fails")
        synced(fd)

    manifest = manifest_of(2, process_of(LATER), parent_of(checkpoint))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(StorageError):
            writer.commit(manifest)
    writer.abandon()
    second_round(checkpoint, disk)


def nothing_before(_checkpoint: Path) -> None:
    pass


def one_round_before(checkpoint: Path) -> None:
    write_chain(checkpoint, FIRST)


def an_unfinished_round_before(checkpoint: Path) -> None:
    write_chain(checkpoint, FIRST, LATER)
    (checkpoint / "0002" / "manifest.json").rename(checkpoint / "0002" / "manifest.json.tmp")


SCENARIOS: dict[str, tuple[Callable[[Path], None], Writer]] = {
    "the first rounds": (nothing_before, two_rounds),
    "a round on top of one": (one_round_before, second_round),
    "a tree with objects": (one_round_before, tree_with_objects),
    "a round in place of an unfinished one": (an_unfinished_round_before, after_an_unfinished_round),
    "a round in place of an abandoned one": (one_round_before, abandoned_then_again),
    "a round in place of one whose commit failed": (one_round_before, committed_in_vain_then_again),
}


def last_committed(checkpoint: Path) -> int:
    """The last round, 0 for none; it must be sound, and its pages right."""
    try:
        opened = Checkpoint.open(checkpoint)
    except NotACheckpoint:
        return 0
    last = opened.numbers[-1]
    assert opened.numbers == list(range(1, last + 1))
    assert verify(opened).exit_code == 0
    with MemoryView(opened) as view:
        assert view.read(addr_of(0), 2 * PAGE_BYTES) == CONTENT[last]
    return last


def go_on(checkpoint: Path, last: int) -> None:
    """The next round can be written as if nothing had happened."""
    if checkpoint.is_dir():
        remove_unfinished(checkpoint)
    parent = parent_of(checkpoint) if last else None
    write_round(checkpoint, last + 1, ImageRound({0: page_of(5), 1: RunKind.ZERO}), parent)
    assert verify(Checkpoint.open(checkpoint)).findings == []
    with MemoryView(Checkpoint.open(checkpoint)) as view:
        assert view.read(addr_of(0), 2 * PAGE_BYTES) == page_of(5) + bytes(PAGE_BYTES)


def recorded(root: Path, scenario: str) -> tuple[Disk, int]:
    """What the writer of a scenario did, and the last round that was there before."""
    prepare, write = SCENARIOS[scenario]
    root.mkdir()
    prepare(root / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(root, patch)
        write(root / "checkpoint", disk)
    return disk, 0 if prepare is nothing_before else 1


def cut_everywhere(disk: Disk, last: int, directory: Path) -> int:
    """Check all that may be left by a cut behind each step; returns the last round behind the last step."""
    random = Random(_SEED)
    seen: set[tuple[int, frozenset[tuple[str, bytes | None]]]] = set()
    for n_steps in range(len(disk.steps) + 1):
        if n_steps and disk.steps[n_steps - 1] == Mark(f"{COMMITTED}{last + 1}"):
            last += 1
        is_under_way = any(isinstance(step, Mark) for step in disk.steps[n_steps:])
        for tree in disk.after_cut(n_steps, random, _STATES):
            key = (last, frozenset(tree.items()))
            if key not in seen:
                seen.add(key)
                check(directory, tree, (last, last + 1) if is_under_way else (last,))
    return last


def check(directory: Path, tree: Tree, allowed: tuple[int, ...]) -> None:
    """What is there after the cut is one of the allowed rounds, and the next one can be written."""
    write_tree(directory, tree)
    try:
        last = last_committed(directory / "checkpoint")
        assert last in allowed, sorted(tree)
        go_on(directory / "checkpoint", last)
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_round_is_there_whole_or_not_at_all(tmp_path: Path, tally: Tally, scenario: str) -> None:
    disk, last = recorded(tmp_path / "recorded", scenario)
    tally.add(Count.POWER_CUTS, len(disk.steps) + 1)
    assert cut_everywhere(disk, last, tmp_path / "cut") == 2


def test_each_fsync_is_needed(tmp_path: Path) -> None:
    """Without any one of them there is a cut that leaves what must not be: this suite can fail."""
    disk, last = recorded(tmp_path / "recorded", "a round on top of one")
    syncs = [step for step in disk.steps if isinstance(step, Sync)]
    assert len(syncs) == 6
    steps = disk.steps
    for position in [index for index, step in enumerate(steps) if isinstance(step, Sync)]:
        disk.steps = [*steps[:position], *steps[position + 1 :]]
        with pytest.raises((AssertionError, PredumpError)):
            cut_everywhere(disk, last, tmp_path / "cut")


ROUNDS = 4
FLATTENED = 3


def chain_to_flatten(checkpoint: Path) -> dict[int, bytes]:
    """Rounds of which each has one page of its own; returns what the first four pages are, as of each."""
    pages: dict[int, PageState] = {page: page_of(page) for page in range(4)}
    contents = {}
    images = []
    for number in range(1, ROUNDS + 1):
        own = page_of(10 + number)
        images.append(ImageRound(pages if number == 1 else dict.fromkeys(range(4), RunKind.PARENT) | {number - 1: own}))
        held = [page_of(page) for page in range(4)]
        for earlier in range(2, number + 1):
            held[earlier - 1] = page_of(10 + earlier)
        contents[number] = b"".join(held)
    write_chain(checkpoint, *images)
    return contents


def check_flattened(checkpoint: Path, contents: dict[int, bytes]) -> list[int]:
    """The last rounds are right, before and after the next writer tidies up; returns the rounds that there are then."""
    for _ in range(2):
        opened = Checkpoint.open(checkpoint)
        for number in range(FLATTENED, ROUNDS + 1):
            with MemoryView(opened, number) as view:
                assert view.read(addr_of(0), 4 * PAGE_BYTES) == contents[number]
        tidy_up(checkpoint)
    assert not (checkpoint / FLATTEN_NAME).exists()
    opened = Checkpoint.open(checkpoint)
    assert verify(opened).findings == []
    return opened.numbers


def flattened_at_each_cut(tmp_path: Path, contents: dict[int, bytes], disk: Disk) -> list[list[list[int]]]:
    """The rounds that may be left by a cut behind each step."""
    random = Random(_SEED)
    found: list[list[list[int]]] = []
    seen: dict[frozenset[tuple[str, bytes | None]], list[int]] = {}
    for n_steps in range(len(disk.steps) + 1):
        found.append([])
        for tree in disk.after_cut(n_steps, random, _STATES):
            key = frozenset(tree.items())
            if key not in seen:
                write_tree(tmp_path / "cut", tree)
                try:
                    seen[key] = check_flattened(tmp_path / "cut" / "checkpoint", contents)
                finally:
                    shutil.rmtree(tmp_path / "cut")
            found[-1].append(seen[key])
    return found


def recorded_flattening(tmp_path: Path) -> tuple[Disk, dict[int, bytes]]:
    root = tmp_path / "recorded"
    root.mkdir()
    contents = chain_to_flatten(root / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(root, patch)
        flatten_in_place(root / "checkpoint", FLATTENED, 0, FlattenOptions(), lambda _done, _total: None)
    return disk, contents


def test_rounds_that_are_replaced_by_one_are_there_or_it_is(tmp_path: Path, tally: Tally) -> None:
    disk, contents = recorded_flattening(tmp_path)
    tally.add(Count.POWER_CUTS, len(disk.steps) + 1)
    found = flattened_at_each_cut(tmp_path, contents, disk)
    before, after = list(range(1, ROUNDS + 1)), list(range(FLATTENED, ROUNDS + 1))
    assert all(numbers in (before, after) for left in found for numbers in left)
    assert set(map(tuple, found[0])) == {tuple(before)}
    assert set(map(tuple, found[-1])) == {tuple(after)}


def test_the_fsyncs_of_the_swap_are_needed(tmp_path: Path) -> None:
    """Without the one that makes the swap durable, the earlier rounds may go before it."""
    disk, contents = recorded_flattening(tmp_path)
    swap = next(n for n, step in enumerate(disk.steps) if isinstance(step, Rename) and step.others)
    needed = next(n for n in range(swap, len(disk.steps)) if disk.steps[n] == Sync(disk.steps[swap].inode))
    del disk.steps[needed]
    with pytest.raises((AssertionError, PredumpError)):
        flattened_at_each_cut(tmp_path, contents, disk)


@pytest.mark.parametrize("replaces", [False, True])
def test_a_core_is_there_whole_or_not_at_all(tmp_path: Path, tally: Tally, replaces: bool) -> None:
    checkpoint = write_chain(tmp_path / "checkpoint", FIRST, LATER)
    root = tmp_path / "recorded"
    root.mkdir()
    out = root / "core"
    before = b"an older core" if replaces else None
    if before is not None:
        out.write_bytes(before)
    options = CoreOptions(torn=True, force=replaces)
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(root, patch)
        write_core(Checkpoint.open(checkpoint), None, None, out, options, lambda _done, _total: None)
    random = Random(_SEED)
    left = set()
    for n_steps in range(len(disk.steps) + 1):
        tally.add(Count.POWER_CUTS)
        found = {tree.get("core") for tree in disk.after_cut(n_steps, random, _STATES)}
        assert found <= {before, out.read_bytes()}
        left |= found
    assert found == {out.read_bytes()}
    assert left == {before, out.read_bytes()}
