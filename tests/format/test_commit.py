"""The commit protocol: whatever instant a writer dies at, a round exists whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from formats.chain import Checkpoint, MemoryView
from formats.check import verify
from formats.errors import NotACheckpoint, StorageError
from formats.layout import MANIFEST_NAME, MANIFEST_TEMPORARY_NAME, RunKind
from formats.manifest import Parent
from formats.manifestfile import read_manifest
from formats.roundwriter import RoundWriter, remove_unfinished
from tests.format.images import (
    PID,
    ImageObject,
    ImageRound,
    addr_of,
    fill_round,
    manifest_of,
    object_vma,
    page_of,
    process_of,
    round_path,
    tree_manifest,
    write_chain,
    write_pages,
    write_round,
)

FIRST = ImageRound({0: page_of(1), 1: RunKind.ZERO})
SECOND = ImageRound({0: page_of(2), 1: RunKind.PARENT})


class CrashError(BaseException):
    """The writer's process is gone; nothing may catch this."""


class SystemCalls:
    """Logs the system calls that reach the disk, and dies instead of one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, die_at: int | None = None) -> None:
        self.log: list[tuple[str, str]] = []
        self._die_at = die_at
        fsync, writev, rename, unlink, mkdir = os.fsync, os.writev, os.rename, os.unlink, os.mkdir

        def path_of(fd: int) -> str:
            return str(Path(f"/proc/self/fd/{fd}").readlink())

        def logged_fsync(fd: int) -> None:
            self._enter("fsync", path_of(fd))
            fsync(fd)

        def logged_writev(fd: int, buffers: list[memoryview]) -> int:
            self._enter("write", path_of(fd))
            return writev(fd, buffers)

        def logged_rename(source: Path, target: Path) -> None:
            self._enter("rename", str(target))
            rename(source, target)

        def logged_unlink(path: Path) -> None:
            self._enter("unlink", str(path))
            unlink(path)

        def logged_mkdir(path: Path, mode: int) -> None:
            self._enter("mkdir", str(path))
            mkdir(path, mode)

        monkeypatch.setattr(os, "fsync", logged_fsync)
        monkeypatch.setattr(os, "writev", logged_writev)
        monkeypatch.setattr(os, "rename", logged_rename)
        monkeypatch.setattr(os, "unlink", logged_unlink)
        monkeypatch.setattr(os, "mkdir", logged_mkdir)

    def _enter(self, call: str, path: str) -> None:
        if self._die_at == len(self.log):
            raise CrashError
        self.log.append((call, path))


def write_second(checkpoint: Path) -> None:
    first = Checkpoint.open(checkpoint).round(1)
    write_round(checkpoint, 2, SECOND, Parent(round=1, sha256=first.sha256))


def committed(checkpoint: Path) -> list[int]:
    return Checkpoint.open(checkpoint).numbers


def content_of(checkpoint: Path) -> bytes:
    with MemoryView(Checkpoint.open(checkpoint)) as view:
        return view.read(addr_of(0), 2 * 4096)


def calls_of_a_commit(tmp_path: Path) -> list[tuple[str, str]]:
    checkpoint = write_chain(tmp_path / "checkpoint", FIRST)
    with pytest.MonkeyPatch.context() as patch:
        calls = SystemCalls(patch)
        write_second(checkpoint)
    return calls.log


def test_the_order_of_a_commit(tmp_path: Path) -> None:
    log = calls_of_a_commit(tmp_path)
    second = tmp_path / "checkpoint" / "0002"
    pages, pagemap = str(second / f"pages-{PID}.zst"), str(second / f"pagemap-{PID}.zst")
    temporary, manifest = str(second / MANIFEST_TEMPORARY_NAME), str(second / MANIFEST_NAME)
    syncs = [path for call, path in log if call == "fsync"]
    assert syncs == [pages, pagemap, str(second), temporary, str(second), str(second.parent)]
    assert log[-3:] == [
        ("rename", manifest),
        ("fsync", str(second)),
        ("fsync", str(second.parent)),
    ]
    for path in (pages, pagemap, temporary):
        last_write = max(i for i, call in enumerate(log) if call == ("write", path))
        assert last_write < log.index(("fsync", path)) < log.index(("rename", manifest))
    assert log.index(("fsync", pagemap)) < log.index(("write", temporary))


def test_the_name_of_a_new_checkpoint_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = SystemCalls(monkeypatch)
    RoundWriter(tmp_path / "checkpoint", 1)
    assert calls.log == [
        ("mkdir", str(tmp_path / "checkpoint")),
        ("fsync", str(tmp_path)),
        ("mkdir", str(tmp_path / "checkpoint" / "0001")),
    ]


def test_a_crash_at_any_step_leaves_the_last_committed_round(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    reference = calls_of_a_commit(tmp_path / "reference")
    rename_at = next(step for step, (call, _) in enumerate(reference) if call == "rename")
    for step in range(len(reference)):
        checkpoint = write_chain(tmp_path / f"step-{step}", FIRST)
        with pytest.MonkeyPatch.context() as patch:
            SystemCalls(patch, die_at=step)
            with pytest.raises(CrashError):
                write_second(checkpoint)
        assert committed(checkpoint) == ([1] if step <= rename_at else [1, 2])
        assert content_of(checkpoint) == page_of(1 if step <= rename_at else 2) + bytes(4096)
        assert verify(Checkpoint.open(checkpoint)).exit_code == 0
        # What the crash left is recognised, removed, and not in the way of the next attempt.
        made = ("mkdir", "0002") in [(call, Path(path).name) for call, path in reference[:step]]
        unfinished = [2] if made and step <= rename_at else []
        assert remove_unfinished(checkpoint) == unfinished
        if step <= rename_at:
            write_second(checkpoint)
        assert content_of(checkpoint) == page_of(2) + bytes(4096)


def test_a_failure_at_any_step_is_undone_by_abandon(tmp_path: Path) -> None:
    def fill_and_commit(writer: RoundWriter, parent_sha256: str) -> None:
        fill_round(writer, SECOND)
        parent = Parent(round=1, sha256=parent_sha256)
        writer.commit(manifest_of(2, process_of(SECOND), parent))

    (tmp_path / "reference").mkdir()
    log = calls_of_a_commit(tmp_path / "reference")
    steps = sum(call != "mkdir" for call, _ in log)  # the constructor is over before the crash
    for step in range(steps):
        checkpoint = write_chain(tmp_path / f"step-{step}", FIRST)
        first = Checkpoint.open(checkpoint).round(1)
        writer = RoundWriter(checkpoint, 2)
        with pytest.MonkeyPatch.context() as patch:
            SystemCalls(patch, die_at=step)
            with pytest.raises(CrashError):
                fill_and_commit(writer, first.sha256)
        writer.abandon()
        assert sorted(path.name for path in checkpoint.iterdir()) == ["0001"]
        writer.abandon()


def test_abandon_takes_the_manifest_away_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RoundWriter(tmp_path / "checkpoint", 1)
    fill_round(writer, FIRST)
    with monkeypatch.context() as patch:
        calls = SystemCalls(patch)
        writer.abandon()
    unlinked = [Path(path).name for call, path in calls.log if call == "unlink"]
    assert unlinked[0] == MANIFEST_NAME
    assert set(unlinked[1:]) == {f"pages-{PID}.zst", f"pagemap-{PID}.zst"}


def test_abandon_after_commit_keeps_the_round(tmp_path: Path) -> None:
    writer = RoundWriter(tmp_path / "checkpoint", 1)
    fill_round(writer, FIRST)
    writer.commit(manifest_of(1, process_of(FIRST), None))
    writer.abandon()
    assert committed(tmp_path / "checkpoint") == [1]


def test_abandon_keeps_files_of_others(tmp_path: Path) -> None:
    writer = RoundWriter(tmp_path / "checkpoint", 1)
    (writer.path / "notes").write_text("mine")
    writer.abandon()
    assert (writer.path / "notes").read_text() == "mine"


def replace_directory_of(writer: RoundWriter) -> Path:
    """Somebody else's round takes the place of the one that is being written; returns a file of it."""
    writer.path.rename(writer.path.with_name("elsewhere"))
    writer.path.mkdir()
    theirs = writer.path / MANIFEST_NAME
    theirs.write_text("theirs")
    return theirs


def test_a_round_that_took_the_place_of_another_is_left_alone(tmp_path: Path) -> None:
    writer = RoundWriter(tmp_path / "checkpoint", 1)
    fill_round(writer, FIRST)
    theirs = replace_directory_of(writer)
    with pytest.raises(StorageError, match="removed or replaced"):
        writer.commit(manifest_of(1, process_of(FIRST), None))
    writer.abandon()
    assert [path.name for path in writer.path.iterdir()] == [MANIFEST_NAME]
    assert theirs.read_text() == "theirs"


def test_commit_returns_what_the_file_holds(tmp_path: Path) -> None:
    writer = RoundWriter(tmp_path / "checkpoint", 1)
    fill_round(writer, FIRST)
    returned = writer.commit(manifest_of(1, process_of(FIRST), None))
    assert read_manifest(writer.path / MANIFEST_NAME) == returned
    for entry in returned[0].files:
        assert (writer.path / entry.name).stat().st_size == entry.stored_bytes
    assert len(returned[0].files) == 2


@contextmanager
def umask(mask: int) -> Iterator[None]:
    previous = os.umask(mask)
    try:
        yield
    finally:
        os.umask(previous)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o177, 0o277])
def test_images_are_secrets_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        checkpoint = write_chain(tmp_path / "checkpoint", FIRST)
    for path in (checkpoint, *checkpoint.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert len(list(checkpoint.rglob("*"))) == 4


def test_the_mode_of_an_existing_checkpoint_is_its_owners(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir(0o755)
    (tmp_path / "checkpoint").chmod(0o755)
    checkpoint = write_chain(tmp_path / "checkpoint", FIRST)
    assert stat.S_IMODE(checkpoint.stat().st_mode) == 0o755
    assert stat.S_IMODE(round_path(checkpoint, 1).stat().st_mode) == 0o700


def test_an_existing_round_is_never_written_to(tmp_path: Path) -> None:
    checkpoint = write_chain(tmp_path / "checkpoint", FIRST)
    with pytest.raises(StorageError) as caught:
        RoundWriter(checkpoint, 1)
    assert caught.value.fields["errno"] == errno.EEXIST
    assert content_of(checkpoint) == page_of(1) + bytes(4096)


@pytest.mark.parametrize("number", [0, -1, 1 << 40])
def test_impossible_round_numbers(tmp_path: Path, number: int) -> None:
    with pytest.raises(ValueError, match="not a round number"):
        RoundWriter(tmp_path / "checkpoint", number)


def test_a_checkpoint_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "checkpoint"):
        with pytest.raises(StorageError) as caught:
            RoundWriter(path, 1)
        assert caught.value.fields["errno"] == errno.ENOTDIR


def test_a_process_is_opened_once(tmp_path: Path) -> None:
    writer = RoundWriter(tmp_path / "checkpoint", 1)
    writer.open_process(PID)
    with pytest.raises(StorageError):
        writer.open_process(PID)
    writer.abandon()
    assert not writer.path.exists()


def test_the_pages_file_goes_when_the_pagemap_cannot_be_made(tmp_path: Path) -> None:
    writer = RoundWriter(tmp_path / "checkpoint", 1)
    obstacle = writer.path / f"pagemap-{PID}.zst"
    obstacle.mkdir()
    with pytest.raises(StorageError):
        writer.open_process(PID)
    writer.abandon()
    assert list(writer.path.iterdir()) == [obstacle]


class TestDiscard:
    """What is taken back is no part of the round; the rest of the round goes on."""

    def test_a_process_that_vanished(self, tmp_path: Path) -> None:
        writer = RoundWriter(tmp_path / "checkpoint", 1)
        fill_round(writer, FIRST)
        writers = writer.open_process(PID + 1)
        write_pages(writers, {0: page_of(5)})
        writer.discard(writers)
        manifest, _ = writer.commit(manifest_of(1, process_of(FIRST), None))
        assert {entry.name for entry in manifest.files} == {f"pages-{PID}.zst", f"pagemap-{PID}.zst"}
        assert len(list(writer.path.iterdir())) == 3
        assert verify(Checkpoint.open(tmp_path / "checkpoint")).findings == []

    def test_an_object_then_the_same_again(self, tmp_path: Path) -> None:
        writer = RoundWriter(tmp_path / "checkpoint", 1)
        image = ImageRound({}, (object_vma(0, 1, 0),))
        held = ImageObject(0, {0: page_of(6)})
        fill_round(writer, image)
        first = writer.open_object(0)
        write_pages(first, {3: page_of(5)}, base_addr=0)
        writer.discard(first)
        write_pages(writer.open_object(0), held.pages, base_addr=0)
        writer.commit(tree_manifest(1, {PID: image}, [held], None))
        with MemoryView(Checkpoint.open(tmp_path / "checkpoint")) as view:
            assert view.read(addr_of(0), 4096) == page_of(6)

    def test_abandon_after_discard(self, tmp_path: Path) -> None:
        writer = RoundWriter(tmp_path / "checkpoint", 1)
        fill_round(writer, FIRST)
        writer.open_object(3)
        writer.discard(writer.open_process(PID + 1))
        writer.abandon()
        assert not writer.path.exists()

    def test_a_file_that_cannot_be_removed(self, tmp_path: Path) -> None:
        writer = RoundWriter(tmp_path / "checkpoint", 1)
        writers = writer.open_process(PID)
        writers[0].path.unlink()
        with pytest.raises(StorageError) as caught:
            writer.discard(writers)
        assert caught.value.fields["errno"] == errno.ENOENT
        writer.abandon()
        assert not writer.path.exists()

    def test_only_what_this_round_opened(self, tmp_path: Path) -> None:
        writers = RoundWriter(tmp_path / "one", 1).open_process(PID)
        with pytest.raises(ValueError, match="not in list"):
            RoundWriter(tmp_path / "two", 1).discard(writers)


class TestRemoveUnfinished:
    def test_nothing_to_do(self, tmp_path: Path) -> None:
        assert remove_unfinished(tmp_path / "missing") == []
        assert remove_unfinished(tmp_path) == []

    def test_only_unfinished_rounds_go(self, tmp_path: Path) -> None:
        checkpoint = write_chain(tmp_path / "checkpoint", FIRST)
        for number in (2, 12345):
            writer = RoundWriter(checkpoint, number)
            writer.open_process(PID)
            writer.open_object(0)
        (checkpoint / "0012x").mkdir()
        (checkpoint / "0000").mkdir()
        assert remove_unfinished(checkpoint) == [2, 12345]
        assert sorted(path.name for path in checkpoint.iterdir()) == ["0000", "0001", "0012x"]

    def test_what_is_not_ours_stays(self, tmp_path: Path) -> None:
        writer = RoundWriter(tmp_path, 1)
        writer.open_process(PID)
        (writer.path / "precious").write_text("mine")
        with pytest.raises(StorageError, match="precious"):
            remove_unfinished(tmp_path)
        assert len(list(writer.path.iterdir())) == 3

    def test_a_damaged_manifest_still_is_a_round(self, tmp_path: Path) -> None:
        checkpoint = write_chain(tmp_path / "checkpoint", FIRST)
        (round_path(checkpoint, 1) / MANIFEST_NAME).write_bytes(b"")
        assert remove_unfinished(checkpoint) == []

    def test_an_unfinished_first_round_is_no_checkpoint(self, tmp_path: Path) -> None:
        fill_round(RoundWriter(tmp_path / "checkpoint", 1), FIRST)
        with pytest.raises(NotACheckpoint):
            Checkpoint.open(tmp_path / "checkpoint")
