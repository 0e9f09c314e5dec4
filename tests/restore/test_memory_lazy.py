"""Processes that run before their pages are there never see a wrong one, whatever they and predump go through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from formats.layout import pages_name
from tests.alive import Lives
from tests.harness import COMMAND_S, READY_S, REPO, TARGETS, children, is_alive, poll_until, predump

MIB = 192


class LazyTarget:
    """tests/targets/lazy.c, dumped and gone."""

    def __init__(self, lives: Lives, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.checkpoint = directory / "checkpoint"
        self.pid = lives.start(TARGETS / "bin" / "lazy", directory, MIB, log=directory / "log")
        poll_until((directory / "ready").exists, READY_S, "the target to be ready")
        predump("pre-dump", "-p", self.pid, "-D", self.checkpoint)
        lives.dump(self.pid, self.checkpoint)

    def go(self) -> None:
        """It begins to use its memory."""
        (self.directory / "go").touch()

    def result(self) -> str:
        """What it found."""
        path = self.directory / "result"
        poll_until(lambda: path.exists() or not is_alive(self.pid), READY_S, "a result")
        return path.read_text() if path.exists() else ""


@pytest.fixture
def target(lives: Lives, tmp_path: Path) -> LazyTarget:
    return LazyTarget(lives, tmp_path / "target")


def servers(checkpoint: Path) -> Iterator[int]:
    """The processes that a restore has left behind: the server first, then its sentinel."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            if entry.name.isdigit() and str(checkpoint).encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    for pid in found:
        with suppress(OSError):
            if sentinels := children(pid) & found:
                yield pid
                yield from sentinels


def test_memory_is_right_whatever_its_process_does(lives: Lives, target: LazyTarget) -> None:
    target.go()  # before it is there: it begins at once
    assert lives.restore(target.checkpoint, "--lazy") == [target.pid]
    word, _, missing = target.result().strip().partition(" missing=")
    assert word == "ok"
    assert int(missing) > 0
    poll_until(lambda: not list(servers(target.checkpoint)), COMMAND_S, "the server to end when all is there")
    assert is_alive(target.pid)


def test_the_process_ends_with_the_server(lives: Lives, target: LazyTarget) -> None:
    lives.restore(target.checkpoint, "--lazy", "--stopped")
    server, _ = servers(target.checkpoint)
    target.go()
    os.kill(server, signal.SIGKILL)
    poll_until(lambda: not is_alive(target.pid), COMMAND_S, "the process to end")
    assert target.result() == ""


def test_a_sentinel_that_is_killed_gets_a_successor(lives: Lives, target: LazyTarget) -> None:
    lives.restore(target.checkpoint, "--lazy", "--stopped")
    _, sentinel = servers(target.checkpoint)
    os.kill(sentinel, signal.SIGKILL)
    target.go()
    os.kill(target.pid, signal.SIGCONT)
    assert target.result().startswith("ok ")


def test_a_page_that_cannot_be_brought_ends_the_process(target: LazyTarget) -> None:
    path = target.checkpoint / "0001" / pages_name(target.pid)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    log = target.directory / "errors"
    with log.open("wb") as errors:
        subprocess.run(
            [sys.executable, "-m", "cli", "restore", str(target.checkpoint), "--lazy", "--detach"],
            cwd=REPO,
            stdin=subprocess.DEVNULL,
            stderr=errors,
            timeout=COMMAND_S,
            check=True,
        )
    poll_until(lambda: not is_alive(target.pid), COMMAND_S, "the process to end")
    poll_until(lambda: "could not be brought" in log.read_text(), COMMAND_S, "a word about it")
    assert path.name in log.read_text()
