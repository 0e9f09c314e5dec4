"""tests/targets/lazy.c, dumped and gone: it uses its memory in every way at once when it is told to."""

from __future__ import annotations

from pathlib import Path

from tests.alive import Lives
from tests.harness import READY_S, TARGETS, is_alive, poll_until, predump

MIB = 128


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
