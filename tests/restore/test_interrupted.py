"""A restore that is interrupted, killed, or fails late: nothing of it is left, and it can be tried again."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from formats.checkpoint import Checkpoint
from formats.faults import Point
from restorer.restore import Restoration, RestoreOptions
from restorer.shell import WALL
from tests.alive import Lives
from tests.harness import COMMAND_S, REPO, TARGETS, children, is_alive, live_tree, poll_until, predump

FAMILY = "(s(t)(t))(g(tt))(R(x)(t))ttt"
N_PROCESSES = 8
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
MOST_S = 0.04  # about what it takes from the first process to the last

# A program whose name is taken by sockets, and that has shared memory with a name.
NAMED = """
import mmap, os, socket, sys
stream, datagrams = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
stream.bind("stream")
stream.listen()
datagrams.bind(os.path.abspath("datagrams"))
with open(sys.argv[1], "w+b") as file:
    file.truncate(1 << 20)
    memory = mmap.mmap(file.fileno(), 1 << 20)
memory[:5] = b"hello"
open("ready", "w").close()
while stream.accept():
    pass
"""


class Descendants:
    """Of this process, which adopts orphans; those that were there before do not count."""

    def __init__(self) -> None:
        self._before = {*live_tree(os.getpid()), *children(os.getpid())}

    def now(self) -> set[int]:
        """Those that are there; whoever has ended is reaped, or is still to be."""
        for pid in children(os.getpid()) - self._before:
            if not is_alive(pid):
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG | WALL)
        return {*live_tree(os.getpid()), *children(os.getpid())} - self._before

    def family(self) -> set[int]:
        """Those that are what came back."""
        return {pid for pid in self.now() if name_of(pid) == "family"}

    def end(self) -> None:
        for pid in self.now():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        poll_until(lambda: not self.now(), COMMAND_S, "the end of all")


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def interrupt(number: int, after_s: float, checkpoint: Path, *options: str) -> int:
    """The exit code of a restore that gets the signal so long after its first process is there."""
    words = [sys.executable, "-m", "cli", "restore", str(checkpoint), *options]
    with subprocess.Popen(words, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            poll_until(lambda: bool(children(process.pid)) or process.poll() is not None, COMMAND_S, "a process")
            with suppress(subprocess.TimeoutExpired):
                process.wait(after_s)
            process.send_signal(number)
            _, errors = process.communicate(timeout=COMMAND_S)
        finally:
            process.kill()
    assert "Traceback" not in errors
    return process.returncode


@pytest.mark.parametrize("way", ["--detach", "--wait", "--lazy", "--pid-namespace"])
def test_an_interrupted_restore_leaves_no_process(way: str, rng: random.Random, lives: Lives, tmp_path: Path) -> None:
    root = lives.start(TARGETS / "bin" / "family", FAMILY, log=tmp_path / "log", cwd=tmp_path)
    poll_until((tmp_path / "ready").exists, COMMAND_S, "the family")
    checkpoint = tmp_path / "checkpoint"
    lives.dump(root, checkpoint)
    descendants = Descendants()
    options = {way, "--detach"} - ({"--detach"} if way == "--wait" else set())
    try:
        for number in (rng.choice(SIGNALS), signal.SIGKILL, signal.SIGKILL):
            exit_code = interrupt(number, rng.uniform(0, MOST_S), checkpoint, *options)
            if exit_code == INTERRUPTED:
                poll_until(lambda: not descendants.now(), COMMAND_S, "the end of all")
            else:  # it was too late, or killed
                expected = {0, N_PROCESSES} if exit_code else {N_PROCESSES}
                poll_until(lambda: len(descendants.family()) in expected, COMMAND_S, f"all or none, {exit_code}")  # noqa: B023
            descendants.end()
        predump("restore", checkpoint, "--detach")
        assert len(descendants.family()) == N_PROCESSES
    finally:
        descendants.end()


@pytest.fixture
def named(lives: Lives, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The checkpoint of a dead program whose files are gone, and the path of its memory."""
    memory = Path(f"/dev/shm/predump-test-{os.getpid()}-{tmp_path.name}")
    directory = tmp_path / "names"
    directory.mkdir()
    try:
        pid = lives.start(sys.executable, "-c", NAMED, memory, log=tmp_path / "log", cwd=directory)
        poll_until((directory / "ready").exists, COMMAND_S, "the program")
        lives.dump(pid, tmp_path / "checkpoint")
        for path in (memory, directory / "stream", directory / "datagrams"):
            path.unlink()
        yield tmp_path / "checkpoint", memory
    finally:
        memory.unlink(missing_ok=True)


def test_a_restore_that_fails_late_leaves_no_file(named: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, memory = named
    with Restoration(Checkpoint.open(checkpoint), None, RestoreOptions(), [].append) as restoration:
        restoration.build()
        assert (tmp_path / "names" / "stream").is_socket()
        assert memory.exists()
    assert [entry.name for entry in (tmp_path / "names").iterdir()] == ["ready"]
    assert not memory.exists()


def test_what_a_killed_restore_left_does_not_stand_in_the_way(
    named: tuple[Path, Path], lives: Lives, tmp_path: Path
) -> None:
    checkpoint, memory = named
    descendants = Descendants()
    fault = {"PREDUMP_DIE_AT": Point.RESTORE_BUILT.value}
    assert predump("restore", checkpoint, "--detach", check=False, env=fault).returncode == -signal.SIGKILL
    poll_until(lambda: not descendants.now(), COMMAND_S, "the end of all")
    lives.restore(checkpoint)
    assert memory.read_bytes()[:6] == b"hello\0"
    assert os.listxattr(memory) == []
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "names" / "stream"))
