"""A process that tracks its own writes: it is refused where predump would have to track it, and dumped without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import Target, is_untouched, predump
from tests.matrix.ways import assert_captured
from tests.tally import Tally

pytestmark = pytest.mark.usefixtures("targets")

UNTRACEABLE = 13


@pytest.mark.parametrize("command", ["run", "pre-dump", "dump"])
def test_it_is_refused_and_its_tracking_stays(command: str, checkpoint: Path) -> None:
    with Target.spawn("kinds", "own-tracking") as target:
        target.command("change 1")
        done = predump(command, "-p", target.pid, "-D", checkpoint, expect=UNTRACEABLE)
        assert "userfaultfd" in done.stderr
        assert not list(checkpoint.rglob("manifest.json"))
        assert is_untouched(target.pid)
        target.check()


def test_it_is_dumped_without_tracking(checkpoint: Path, tally: Tally) -> None:
    """Reading its memory is no write, and protects nothing: its own tracking says what it did before."""
    with Target.spawn("kinds", "own-tracking") as target:
        target.command("change 1")
        predump("dump", "-p", target.pid, "-D", checkpoint, "--no-pre-dump", "--leave-stopped")
        assert_captured(target.pid, checkpoint, tally, lambda: target.command("check"))
        target.command("change 2")
        target.check()
