"""System V shared memory: ids, keys, owners and contents, between processes, and what is in the way of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dumper.kernel.segments import IPC_CREAT, AttachedSegment, make_segment, own_segment, remove_segment
from dumper.proc.sysvipc import read_segments
from formats.checkpoint import Checkpoint
from formats.manifest import Segment
from restorer.errors import RestoreFailed
from restorer.memory.segments import Segments
from restorer.restore import Restoration, RestoreOptions
from tests.alive import Lives
from tests.format.images import ImageObject
from tests.harness import Target, predump
from tests.restore.comebacks import Program, mappings, program

pytestmark = pytest.mark.usefixtures("targets")

SIZE_BYTES = 3 * 4096 + 100


@pytest.fixture
def key() -> Iterator[int]:
    """Of this test alone; no segment with it is left."""
    chosen = 0x50440000 | os.getpid() & 0xFFFF
    yield chosen
    for one in read_segments().values():
        if one.key == chosen:
            remove_segment(one.id)


@pytest.fixture
def dead(lives: Lives, tmp_path: Path, key: int) -> Iterator[tuple[Program, Path, list[int]]]:
    """A target that died into a dump, the checkpoint, and the ids of its segments."""
    with program(tmp_path / "target", "segments", f"{key:x}") as target:
        target.command("write 2")
        target.command("check")
        ids = [int(word) for word in target.command("info").split()[1:]]
        said = predump("dump", "-t", target.pid, "-D", tmp_path / "checkpoint", "--kill", "--no-pre-dump").stdout
        assert "Not restorable" not in said
        target.end()
        lives.end(target.pid)
        assert ids[1] not in read_segments()
        try:
            yield target, tmp_path / "checkpoint", ids
        finally:
            for number in (ids[0], ids[2]):
                with suppress(OSError):
                    remove_segment(number)


def check_alive(target: Program) -> None:
    target.command("check")
    for number in (3, 4):  # one process writes, then the other
        target.command(f"write {number}")
        target.command("check")


def test_segments_that_are_still_there_get_their_contents_back(
    dead: tuple[Program, Path, list[int]], lives: Lives
) -> None:
    target, checkpoint, ids = dead
    with AttachedSegment(ids[0], SIZE_BYTES) as ours:
        ours.memory[:] = b"\xff" * SIZE_BYTES
    assert lives.restore(checkpoint)[0] == target.pid
    check_alive(target)
    assert target.command("detach") == "ok 3"


def test_segments_are_made_anew(dead: tuple[Program, Path, list[int]], lives: Lives, tmp_path: Path) -> None:
    target, checkpoint, ids = dead
    for number in (ids[0], ids[2]):
        remove_segment(number)
    lives.restore(checkpoint)
    check_alive(target)
    before = mappings(target.pid)
    lives.dump(target.pid, tmp_path / "second", "--no-pre-dump")  # they can be dumped again
    lives.restore(tmp_path / "second")
    assert mappings(target.pid) == before
    check_alive(target)
    assert target.command("detach") == "ok 3"


@pytest.mark.parametrize("options", [("--lazy",), ("--track",), ("--pid-namespace",)])
def test_with_options(options: tuple[str, ...], dead: tuple[Program, Path, list[int]], lives: Lives) -> None:
    target, checkpoint, ids = dead
    remove_segment(ids[2])
    lives.restore(checkpoint, *options)
    check_alive(target)


def refused(checkpoint: Path, words: str) -> None:
    done = predump("restore", checkpoint, "--detach", check=False)
    assert done.returncode == 1
    assert words in done.stderr


def test_what_others_have_is_left_alone(dead: tuple[Program, Path, list[int]], key: int) -> None:
    _, checkpoint, ids = dead
    with AttachedSegment(ids[0], SIZE_BYTES) as ours:
        before = bytes(ours.memory)
        refused(checkpoint, f"segment {ids[0]} (key {key:#010x}) is attached by 1 others")
        assert ours.memory == before
    own_segment(ids[0], 1, 1, 0o600)
    refused(checkpoint, "another System V segment with the id")
    remove_segment(ids[0])
    other = make_segment(key, 1, IPC_CREAT)
    refused(checkpoint, f"is that of segment {other}")
    assert set(read_segments()) >= {other, ids[2]}
    assert ids[1] not in read_segments()


def test_a_restore_that_fails_leaves_no_segment(dead: tuple[Program, Path, list[int]]) -> None:
    _, checkpoint, ids = dead
    for number in (ids[0], ids[2]):
        remove_segment(number)
    with Restoration(Checkpoint.open(checkpoint), None, RestoreOptions(), [].append) as restoration:
        restoration.build()
        assert set(ids) <= set(read_segments())
    assert not set(ids) & set(read_segments())


def test_a_size_that_its_pages_do_not_have_is_refused() -> None:
    wrong = Segment(key=0, size_bytes=1, mode=0o600, uid=0, gid=0, attached=1)
    held = replace(ImageObject(1, {}, 8192).record(), path="/SYSV00000000", segment=wrong)
    with Segments(same_boot=True, tell=[].append) as segments, pytest.raises(RestoreFailed, match="size"):
        segments.make(held, lambda _memory: None)


def test_a_segment_that_others_have_attached_is_known_beforehand(tmp_path: Path, key: int) -> None:
    with program(tmp_path / "target", "segments", f"{key:x}") as target:
        number = int(target.command("info").split()[1])
        cloned = predump("dump", "-t", target.pid, "-D", tmp_path / "cloned", "--no-pre-dump", "--freeze-by", "clone")
        assert "Not restorable" not in cloned.stdout
        with AttachedSegment(number, SIZE_BYTES):
            predump("dump", "-t", target.pid, "-D", tmp_path / "checkpoint", "--no-pre-dump")
        shown = predump("inspect", tmp_path / "checkpoint", "--show", "restore", env={"COLUMNS": "200"}).stdout
        target.command("check")
    assert "processes that are not in the dump have this System V segment attached" in " ".join(shown.split())


def test_segments_of_another_ipc_namespace_are_recorded(tmp_path: Path, key: int) -> None:
    if predump("--version", prefix=("unshare", "--ipc", sys.executable), check=False).returncode:
        pytest.skip("unshare --ipc does not work here")
    with Target.spawn("segments", f"{key:x}", namespaces=("--ipc",)) as target:
        predump("dump", "-t", target.pid, "-D", tmp_path / "checkpoint", "--no-pre-dump")
        target.command("check")
    segments = [one.segment for one in Checkpoint.open(tmp_path / "checkpoint").round().manifest.objects if one.segment]
    assert [(one.key, one.size_bytes, one.mode & 0o777, one.uid, one.attached) for one in segments if one.key] == [
        (key, SIZE_BYTES, 0o640, 65534, 4)
    ]
    assert len(segments) == 3
