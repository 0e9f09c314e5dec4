"""Programs that were dumped and are gone: one that uses its memory in every way at once, and a family."""

from __future__ import annotations

from pathlib import Path

from tests.alive import Lives
from tests.harness import READY_S, TARGETS, is_alive, poll_until, predump
from tests.restore.comebacks import compare

MIB = 128
FAMILY = "(t(t))(g())"
"""A script of tests/targets/family.c: two of its processes have two threads."""
N_FAMILY = 5


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


def dumped_family(lives: Lives, directory: Path) -> Path:
    """The checkpoint of a FAMILY, which is gone."""
    directory.mkdir()
    pid = lives.start(TARGETS / "bin" / "family", FAMILY, log=directory / "log", cwd=directory)
    poll_until((directory / "ready").exists, READY_S, "the family to be ready")
    lives.dump(pid, directory / "checkpoint")
    return directory / "checkpoint"


def assert_same(pids: list[int], checkpoint: Path) -> None:
    """All pages of these stopped processes are as in the last round."""
    for pid in pids:
        found = compare(pid, checkpoint, pid)
        assert found.pages_compared, str(found)
        assert not found.mismatches, str(found)
