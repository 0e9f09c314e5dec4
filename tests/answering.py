"""Targets that take commands from a FIFO and answer into a file, which come back with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from formats.checkpoint import Checkpoint
from formats.manifest import Manifest
from tests.alive import Lives
from tests.harness import COMMAND_S, is_alive, poll_until, predump

INTERPRETER = """
import os, sys
print("ready", flush=True)
for line in iter(sys.stdin.readline, ""):
    try:
        try:
            print(repr(eval(line)), flush=True)
        except SyntaxError:
            exec(line)
            print(None, flush=True)
    except BaseException as error:
        print(repr(error), flush=True)
"""
"""Runs what it is told, line by line: a statement, or an expression whose value is the answer."""


class Answering:
    """One in a directory of its own; a context manager, which closes our end of the FIFO."""

    def __init__(self, lives: Lives, directory: Path, words: Sequence[object], fds: Sequence[int] = ()) -> None:
        """`fds`: of ours, that it has, too."""
        self._answers = directory / "answers"
        self._fifo = directory / "commands"
        self._lives = lives
        os.mkfifo(self._fifo)
        self._commands = os.open(self._fifo, os.O_RDWR | os.O_CLOEXEC)
        with self._answers.open("ab") as answers:
            self.pid = lives.start_with(words, stdin=self._commands, output=answers.fileno(), cwd=directory, fds=fds)
        poll_until(lambda: bool(self._lines()), COMMAND_S, "a target to be ready")
        assert self._lines()[0].startswith("ready")

    def __enter__(self) -> Answering:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        os.close(self._commands)

    def die(self, checkpoint: Path, *options: object) -> Manifest:
        self._lives.dump(self.pid, checkpoint, *options)
        return Checkpoint.open(checkpoint).round().manifest

    def come_back(self, checkpoint: Path, *options: object, fds: Sequence[int] = ()) -> None:
        assert self._lives.restore(checkpoint, *options, fds=fds)[0] == self.pid

    def fail_to_come_back(self, checkpoint: Path, *options: object) -> str:
        """What the restore says that was refused; there is no process."""
        done = predump("restore", checkpoint, "--detach", *options, expect=1)
        assert not is_alive(self.pid)
        return done.stderr

    def die_and_come_back(self, checkpoint: Path, *options: object) -> Manifest:
        manifest = self.die(checkpoint)
        self.come_back(checkpoint, *options)
        return manifest

    def ask(self, command: str) -> str:
        """Its answer, when there is one or it has ended."""
        n_lines = len(self._lines())
        os.write(self._commands, f"{command}\n".encode())
        poll_until(lambda: len(self._lines()) > n_lines or not is_alive(self.pid), COMMAND_S, f"an answer to {command}")
        return "\n".join(self._lines()[n_lines:])

    def _lines(self) -> list[str]:
        text = self._answers.read_text()
        return text[: text.rfind("\n") + 1].splitlines()


def interpreter(
    lives: Lives, directory: Path, *setup: str, fds: Sequence[int] = (), prefix: Sequence[str] = ()
) -> Answering:
    """A Python that is told what to do; `setup` are its first commands, `prefix` is what becomes it by execve(2)."""
    target = Answering(lives, directory, [*prefix, sys.executable, "-S", "-E", "-u", "-c", INTERPRETER], fds)
    for line in setup:
        assert "Error" not in (answer := target.ask(line)), f"{line}: {answer}"
    return target
