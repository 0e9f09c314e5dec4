"""A target does not notice predump: its calls, signals, registers and descriptors stay its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dumper.dump import AfterDump
from dumper.rounds import Options
from dumper.session import Session
from tests.harness import Target, is_untouched, keeper_pids, poll_until, predump, tracked_vmas

pytestmark = pytest.mark.usefixtures("targets")

CYCLES = 4
"""Of five commands each, of which three stop the target."""
HUNDREDS = 100
"""Of sessions: each freezes the target, every second one attaches and takes a round before."""


@pytest.fixture
def target() -> Iterator[Target]:
    with Target.spawn("selfcheck") as started:
        assert "errors=0 " in started.command("status")
        yield started


def assert_unnoticed(target: Target) -> None:
    assert is_untouched(target.pid)
    assert "errors=0 " in target.command("status")
    assert target.command("fds") == "ok 0"


def cycle(target: Target, directory: Path) -> None:
    """Each command that stops the target or injects into it, on a checkpoint of its own."""
    pid = target.pid
    predump("pre-dump", "-p", pid, "-D", directory)
    assert_unnoticed(target)
    predump("dump", "-p", pid, "-D", directory)
    predump("detach", "-p", pid)
    assert_unnoticed(target)
    predump("run", "-p", pid, "-D", directory / "run", "--max-freeze", "60s")
    predump("detach", "-p", pid)


def test_many_commands(target: Target, tmp_path: Path) -> None:
    for number in range(CYCLES):
        cycle(target, tmp_path / f"{number}")
    assert_unnoticed(target)
    poll_until(lambda: not keeper_pids(target.pid), 10, "the keeper to end")
    target.check()


def test_threads_that_come_and_go(target: Target, tmp_path: Path) -> None:
    target.command("threads 2")
    for number in range(CYCLES // 2):
        cycle(target, tmp_path / f"{number}")
    assert_unnoticed(target)
    target.check()


def test_rounds_while_armed_all_the_time(target: Target, tmp_path: Path) -> None:
    """The system calls of the target write into memory that is write-protected."""
    for _ in range(CYCLES):
        predump("pre-dump", "-p", target.pid, "-D", tmp_path / "checkpoint")
    assert_unnoticed(target)
    predump("verify", tmp_path / "checkpoint")
    target.check()


def test_detach_leaves_nothing(target: Target, tmp_path: Path) -> None:
    predump("pre-dump", "-p", target.pid, "-D", tmp_path / "checkpoint")
    assert tracked_vmas(target.pid) > 0
    predump("detach", "-p", target.pid)
    poll_until(lambda: tracked_vmas(target.pid) == 0, 10, "no VMA to be registered")
    poll_until(lambda: not keeper_pids(target.pid), 10, "the keeper to end")
    assert_unnoticed(target)
    predump("detach", "-p", target.pid, check=False)
    assert_unnoticed(target)
    target.check()


def test_hundreds_of_attaches_rounds_and_freezes(target: Target, tmp_path: Path) -> None:
    options = Options(staging_bytes=1 << 20)
    for number in range(HUNDREDS):
        with Session(target.pid, tmp_path / f"{number}", options, lambda _: None) as session:
            session.dump(AfterDump.LEAVE_RUNNING, pre_dump=number % 2 == 0)
    assert_unnoticed(target)
    target.check()
