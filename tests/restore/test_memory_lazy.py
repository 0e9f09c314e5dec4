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

from formats.faults import VARIABLE, Point
from formats.layout import pages_name
from tests.alive import Lives
from tests.harness import COMMAND_S, REPO, children, is_alive, is_stopped, poll_until
from tests.restore.usesmemory import N_FAMILY, LazyTarget, assert_same, dumped_family


@pytest.fixture
def target(lives: Lives, tmp_path: Path) -> LazyTarget:
    return LazyTarget(lives, tmp_path / "target")


@pytest.fixture
def halted(target: LazyTarget, lives: Lives, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A server that stands still with pages left to bring, and its sentinel, when `target` was restored and stopped."""
    monkeypatch.setenv(VARIABLE, Point.LAZY_PIECE)
    try:
        lives.restore(target.checkpoint, "--lazy", "--stopped")
        server, sentinel = servers(target.checkpoint)
        poll_until(lambda: is_stopped(server), COMMAND_S, "the server to stand still")
        yield server, sentinel
    finally:
        for pid in servers(target.checkpoint):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


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


def test_all_memory_of_a_family_comes(lives: Lives, tmp_path: Path) -> None:
    checkpoint = dumped_family(lives, tmp_path / "family")
    pids = lives.restore(checkpoint, "--lazy", "--stopped")
    assert len(pids) == N_FAMILY
    poll_until(lambda: not list(servers(checkpoint)), COMMAND_S, "the server to end when all is there")
    assert_same(pids, checkpoint)


def test_the_process_ends_with_the_server(target: LazyTarget, halted: tuple[int, int]) -> None:
    server, _ = halted
    target.go()
    os.kill(server, signal.SIGKILL)
    poll_until(lambda: not is_alive(target.pid), COMMAND_S, "the process to end")
    assert target.result() == ""


def test_a_sentinel_that_is_killed_gets_a_successor(target: LazyTarget, halted: tuple[int, int]) -> None:
    server, sentinel = halted
    os.kill(sentinel, signal.SIGKILL)
    os.kill(server, signal.SIGCONT)
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
