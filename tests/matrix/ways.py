"""The ways to capture a process, and what must hold after each."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from tests.harness import is_stopped, is_untouched, poll_until, predump
from tests.oracle import compare
from tests.tally import Count, Tally

GO_ON_S = 10.0

Change = Callable[[int], object]
"""Changes the process; given a number that is another one each time."""
Way = Callable[[int, Path, Change], None]


def by_run(pid: int, checkpoint: Path, change: Change) -> None:
    """One command; the process is left stopped."""
    change(1)
    predump("run", "-p", pid, "-D", checkpoint, "--max-freeze", "60s", "--leave-stopped")


def by_commands(pid: int, checkpoint: Path, change: Change) -> None:
    """A round while it runs and a dump that is no end, with changes after each; then a dump that leaves it stopped."""
    for i, words in enumerate((("pre-dump",), ("dump", "--keep-tracking"))):
        predump(*words, "-p", pid, "-D", checkpoint)
        assert is_untouched(pid)
        change(i)
    predump("dump", "-p", pid, "-D", checkpoint, "--leave-stopped")


def by_clone(pid: int, checkpoint: Path, change: Change) -> None:
    """The last changes are left to a clone of the process, which was stopped by somebody else, and stays so."""
    predump("pre-dump", "-p", pid, "-D", checkpoint)
    change(1)
    os.kill(pid, signal.SIGSTOP)
    poll_until(lambda: is_stopped(pid), GO_ON_S, "the process to stop")
    done = predump("dump", "-p", pid, "-D", checkpoint, "--freeze-by", "clone", "--json")
    assert done.result["freeze_by"] == "clone"


WAYS: dict[str, Way] = {"run": by_run, "commands": by_commands, "clone": by_clone}


def each_way_in_turn(kinds: Sequence[object]) -> list[ParameterSet]:
    """For pytest: each kind in each way; `make test` takes one way of each, another one for each next kind."""
    found = []
    for number, kind in enumerate(kinds):
        for turn, way in enumerate(WAYS):
            marks = [] if number % len(WAYS) == turn else [pytest.mark.thorough]
            found.append(pytest.param(kind, way, marks=marks, id=f"{kind}-{way}"))
    return found


def assert_captured(
    pid: int, checkpoint: Path, tally: Tally, check: Callable[[], object], *, skipped_pages: int = 0
) -> None:
    """The stopped process equals the last round; it goes on, and finds itself unharmed.

    `check` raises AssertionError if it does not; at most `skipped_pages` of its pages may be left out.
    """
    tally.add(Count.MEMORY_CASES)
    assert is_stopped(pid), "--leave-stopped leaves it stopped"
    found = compare(pid, checkpoint)
    tally.compared(found)
    assert not found.mismatches, str(found)
    assert found.pages_skipped <= skipped_pages, str(found)
    assert_unharmed(pid, tally, check)
    predump("verify", checkpoint)


def assert_unharmed(pid: int, tally: Tally, check: Callable[[], object]) -> None:
    """The stopped process goes on, untraced, and `check` finds nothing wrong."""
    harmed = True
    try:
        os.kill(pid, signal.SIGCONT)
        poll_until(lambda: is_untouched(pid), GO_ON_S, "the process to go on")
        check()
        harmed = False
    finally:
        tally.add(Count.TARGETS_HARMED, harmed)
