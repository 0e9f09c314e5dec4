"""Watches of inotify: of the file that it was, or of what has its path now; what is gone is known beforehand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from formats.openfiles import InotifyWatch
from restorer.files.inotify import WatchFinder, is_same
from tests.alive import Lives
from tests.answering import Answering, interpreter
from tests.harness import predump

IN_MODIFY = 2
EVENT_BYTES = 16  # without a name
SET_UP = f"""
import ctypes
libc = ctypes.CDLL(None)
fd = libc.inotify_init1(os.O_NONBLOCK)
watches = [libc.inotify_add_watch(fd, name.encode(), {IN_MODIFY}) for name in ("first", "second")]
"""


@pytest.fixture
def watcher(lives: Lives, tmp_path: Path) -> Iterator[Answering]:
    """It watches two files in its directory."""
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    with interpreter(lives, tmp_path, *SET_UP.strip().splitlines()) as target:
        assert target.ask("watches") == "[1, 2]"
        yield target


def events(target: Answering) -> list[int]:
    """The numbers of the watches that had some."""
    told = target.ask("os.read(fd, 999).hex()").strip("'")
    return [int.from_bytes(bytes.fromhex(told[at : at + 8]), "little") for at in range(0, len(told), 2 * EVENT_BYTES)]


def test_watches_of_the_same_files(watcher: Answering, tmp_path: Path) -> None:
    manifest = watcher.die(tmp_path / "checkpoint")
    (item,) = [one for one in manifest.open_files if one.inotify]
    assert [watch.path for watch in sorted(item.inotify or [], key=lambda one: one.wd)] == [
        str(tmp_path / name) for name in ("first", "second")
    ]
    (tmp_path / "first").rename(tmp_path / "moved")
    (tmp_path / "first").write_text("another")
    watcher.come_back(tmp_path / "checkpoint")
    (tmp_path / "first").write_text("not watched")
    (tmp_path / "second").write_text("x")
    (tmp_path / "moved").write_text("x")
    assert set(events(watcher)) == {1, 2}
    (tmp_path / "first").write_text("not watched")
    assert watcher.ask("os.read(fd, 999)").startswith("BlockingIOError")


def test_what_was_replaced_is_watched_and_said(watcher: Answering, tmp_path: Path) -> None:
    watcher.die(tmp_path / "checkpoint")
    (tmp_path / "other").write_text("while there are both, they have two numbers")
    (tmp_path / "first").unlink()
    checked = predump("restore", tmp_path / "checkpoint", "--check", check=False)
    assert checked.returncode == 1
    assert f"{tmp_path / 'first'}, watched by" in checked.stdout
    (tmp_path / "other").rename(tmp_path / "first")
    assert "is another file by now" in predump("restore", tmp_path / "checkpoint", "--check").stdout
    watcher.come_back(tmp_path / "checkpoint")
    (tmp_path / "first").write_text("x")
    assert set(events(watcher)) == {1}


def test_on_another_machine_the_path_counts(tmp_path: Path) -> None:
    (tmp_path / "watched").write_text("")
    watch = InotifyWatch(
        wd=1, mask=2, device="ff:fff", inode=7, handle_type=1, handle=b"x", path=str(tmp_path / "watched")
    )
    finder = WatchFinder([], [])
    place = finder.find(watch)
    assert place is not None
    assert os.fstat(place).st_ino == (tmp_path / "watched").stat().st_ino
    assert not is_same(place, watch)
    os.close(place)
    (tmp_path / "watched").unlink()
    assert finder.find(watch) is None
