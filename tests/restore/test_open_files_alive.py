"""A process with descriptors of every kind that can come back: it says itself whether it is what it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from formats.checkpoint import Checkpoint
from formats.manifest import Manifest
from formats.openfiles import OpenFile, OpenFileKind
from tests.alive import Lives
from tests.harness import COMMAND_S, TARGETS, is_alive, poll_until

O_DIRECTORY, O_TMPFILE = 0o200000, 0o20000000


class Opened:
    """The target `descriptors`, which takes commands from a FIFO and answers into a file: both come back."""

    def __init__(self, lives: Lives, directory: Path) -> None:
        self._answers = directory / "answers"
        self._fifo = directory / "commands"
        self._lives = lives
        files = directory / "files"
        files.mkdir()
        os.mkfifo(self._fifo)
        self._commands = os.open(self._fifo, os.O_RDWR | os.O_CLOEXEC)
        with self._answers.open("ab") as answers:
            words = [TARGETS / "bin" / "descriptors", files, "restorable"]
            self.pid = lives.start_with(words, stdin=self._commands, output=answers.fileno())
        self._await("ready")

    def close(self) -> None:
        os.close(self._commands)

    def die_and_come_back(self, checkpoint: Path) -> Manifest:
        self._lives.dump(self.pid, checkpoint)
        assert self._lives.restore(checkpoint) == [self.pid]
        return Checkpoint.open(checkpoint).round().manifest

    def ask(self, command: str) -> str:
        """Its answer: the last line."""
        n_lines = len(self._lines())
        os.write(self._commands, f"{command}\n".encode())
        poll_until(lambda: len(self._lines()) > n_lines or not is_alive(self.pid), COMMAND_S, f"an answer to {command}")
        return "\n".join(self._lines()[n_lines:])

    def _lines(self) -> list[str]:
        return self._answers.read_text().splitlines()

    def _await(self, word: str) -> None:
        poll_until(lambda: any(line.startswith(word) for line in self._lines()), COMMAND_S, word)


@pytest.fixture
def opened(lives: Lives, tmp_path: Path) -> Iterator[Opened]:
    target = Opened(lives, tmp_path)
    yield target
    target.close()


def test_everything_is_as_it_was(opened: Opened, tmp_path: Path) -> None:
    opened.die_and_come_back(tmp_path / "checkpoint")
    assert opened.ask("quit") == "ok"


def test_records_are_the_same_after_three_deaths(opened: Opened, tmp_path: Path) -> None:
    """What a dump says of open files is what it says of those of the restored process."""
    manifests = [opened.die_and_come_back(tmp_path / f"checkpoint-{number}") for number in range(3)]
    first, *others = [described(manifest) for manifest in manifests]
    for other in others:
        assert other == first
    assert opened.ask("quit") == "ok"


def described(manifest: Manifest) -> dict[str, object]:
    """What is open, by process and descriptor, without what a kernel numbers anew and times that go on."""
    files = {one.id: one for one in manifest.open_files}
    pipes = {(pipe.device, pipe.inode): pipe for pipe in manifest.pipes}
    found: dict[str, object] = {}
    for process in manifest.processes:
        assert process.state is not None
        for descriptor in process.state.descriptors:
            one = files[descriptor.open_file]
            where = f"descriptor {descriptor.fd}"
            sharing = [other.fd for other in process.state.descriptors if other.open_file == one.id]
            pipe = pipes.get((one.device, one.inode))
            found[where] = (descriptor.close_on_exec, sharing, plain(one), pipe and replace(pipe, inode=0, device=""))
        found["locks"] = process.state.locks
        found["missing"] = [item.reason for item in process.missing]
    return found


def plain(one: OpenFile) -> OpenFile:
    changes: dict[str, object] = {"id": 0, "object": one.object is not None, "mount_id": 0}
    has_name = one.path.startswith("/") and not one.deleted
    if not has_name:
        changes |= {"inode": 0, "device": "", "path": ""}
    if one.flags & O_TMPFILE:
        changes["flags"] = one.flags & ~O_TMPFILE & ~O_DIRECTORY
    if one.timerfd:
        assert one.timerfd.remaining_ns > 0 or one.timerfd.ticks
        changes["timerfd"] = replace(one.timerfd, remaining_ns=0)
    if one.epoll is not None:
        changes["epoll"] = sorted((watch.fd, watch.events, watch.data) for watch in one.epoll)
    if one.socket:
        options = {name: value for name, value in one.socket.options.items() if name != "so_peercred_pid"}
        changes["socket"] = replace(one.socket, options=options, peer_inode=bool(one.socket.peer_inode))
    return replace(one, **changes)  # type: ignore[arg-type]


def test_the_target_has_every_kind(opened: Opened, tmp_path: Path) -> None:
    manifest = opened.die_and_come_back(tmp_path / "checkpoint")
    assert {one.kind for one in manifest.open_files} == set(OpenFileKind) - {OpenFileKind.OTHER}
