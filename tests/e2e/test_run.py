"""Rounds that drive themselves: what run does where they converge, and where they do not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dumper.dump import AfterDump, Withdrawn
from dumper.rounds import Options
from dumper.session import Session
from dumper.streamdestination import StreamDestination
from formats.checkpoint import Checkpoint
from streams.pipe import CommandOutgoing
from tests.harness import (
    Event,
    Predump,
    Target,
    is_untouched,
    keeper_pids,
    memory_target,
    number,
    poll_until,
    predump,
)
from tests.oracle import PAGE_BYTES, compare

pytestmark = pytest.mark.usefixtures("targets")

NOT_CONVERGED = 3
PAGES = 16384
FAST_PAGES_PER_S = 4_000_000  # faster than anybody copies
LONG_FREEZE = "5s"


@pytest.fixture
def fast() -> Iterator[Target]:
    """Writes half of its pages as fast as it can."""
    with Target.spawn("steady", PAGES, PAGES // 2, FAST_PAGES_PER_S) as target:
        yield target


def run(target: Target, checkpoint: Path, *options: object, check: bool = False) -> Predump:
    return predump("run", "-p", target.pid, "-D", checkpoint, "--json", *options, check=check)


def assert_equal(target: Target, checkpoint: Path) -> None:
    """The stopped target equals the last round, which is whole."""
    found = compare(target.pid, checkpoint)
    assert not found.mismatches, str(found)
    assert found.pages_compared > 1000, str(found)
    predump("verify", checkpoint)


def predictions(done: Predump) -> list[Event]:
    return [event for event in done.events if event["type"] == "prediction"]


def assert_let_go(target: Target) -> None:
    assert is_untouched(target.pid)
    assert keeper_pids(target.pid) == []
    uffd_flag = " uw "
    assert uffd_flag not in Path(f"/proc/{target.pid}/smaps").read_text()


def test_a_run_that_converges(checkpoint: Path) -> None:
    with Target.spawn("steady", PAGES, 512, 1000) as target:
        done = run(target, checkpoint, "--max-freeze", LONG_FREEZE, check=True)
        last = predictions(done)[-1]
        assert last["decision"] == "freeze"
        assert done.result["converged"] is True
        assert done.result["dumped"] is True
        assert 0 < number(done.result, "predicted_freeze_ns") <= 5_000_000_000
        assert number(done.result, "frozen_ns") > 0
        assert_let_go(target)


def test_a_run_is_cancelled(fast: Target, checkpoint: Path) -> None:
    options = ("--max-freeze", "0ms", "--max-rounds", "3", "--on-no-converge", "cancel")
    done = run(fast, checkpoint, *options)
    assert done.returncode == NOT_CONVERGED, str(done)
    assert done.result["dumped"] is False
    assert {event["kind"] for event in done.rounds()} == {"pre-dump"}
    assert all(number(event, "frozen_ns") == 0 for event in done.rounds())
    assert_let_go(fast)
    predump("verify", checkpoint)


@pytest.mark.skipif(os.geteuid() != 0, reason="a cgroup needs root")
def test_a_target_that_writes_too_fast_is_slowed_down_and_set_back(fast: Target, checkpoint: Path) -> None:
    cgroup = Path(f"/proc/{fast.pid}/cgroup").read_text()
    options = ("--max-freeze", "0ms", "--max-rounds", "2", "--on-no-converge", "throttle")
    done = run(fast, checkpoint, *options)
    steps = [event for event in done.events if event["type"] == "notice" and event["subject"] == "throttle"]
    assert len(steps) > 1, str(done)
    written = [number(event, "pages_written") / number(event, "duration_ns") for event in done.rounds()]
    assert done.returncode == NOT_CONVERGED, "no freeze fits nothing"
    assert done.result["dumped"] is True
    assert len(written) > len(steps)
    poll_until(lambda: Path(f"/proc/{fast.pid}/cgroup").read_text() == cgroup, 10, "it to be where it was")
    assert_let_go(fast)
    predump("verify", checkpoint)


# ---- hot pages ----


def test_hot_pages_are_left_for_the_freeze(checkpoint: Path) -> None:
    """Half of the pages are written in each round: after three of them no round copies them any more."""
    with Target.spawn("steady", PAGES, PAGES // 2, FAST_PAGES_PER_S) as target:
        options = ("--max-freeze", "0ms", "--max-rounds", "8", "--interval", "20ms", "--defer-hot")
        done = run(target, checkpoint, *options)
        assert done.returncode == NOT_CONVERGED, str(done)
        *rounds, dump = done.rounds()
        deferred = [number(event, "pages_deferred") for event in rounds]
        assert deferred[:2] == [0, 0], "the first round holds everything, one more tells nothing"
        assert deferred[-1] > PAGES // 4, str(deferred)
        assert number(rounds[-1], "pages_data") < number(rounds[1], "pages_data") // 2
        assert number(dump, "pages_deferred") == 0
        assert number(done.result, "deferred_bytes") == sum(deferred) * PAGE_BYTES
        assert number(dump, "pages_data") > PAGES // 4, "the dump has them"
        predump("verify", checkpoint)


def test_deferred_pages_come_with_the_round_in_which_they_cooled_down(tmp_path: Path, checkpoint: Path) -> None:
    """Each page of the last round that does not defer, and of the dump, is the target's own."""
    with memory_target(tmp_path) as target, Session(target.pid, checkpoint, Options(), lambda _: None) as session:
        session.track()
        deferred = []
        for _ in range(6):
            target.command("write 2000 7")
            deferred.append(session.take_round(defer_hot=True).pages_deferred)
            session.track()
        assert deferred[-1] > 0, str(deferred)
        cooled = session.take_round(defer_hot=True)
        assert cooled.pages_deferred <= 8, "the stack of a target that has just answered"
        assert cooled.pages_written >= deferred[-1] - 8, "they were not written since, and come all the same"
        session.take_dump(AfterDump.LEAVE_STOPPED)
        assert_equal(target, checkpoint)


def test_a_dump_has_what_was_deferred_before_it(tmp_path: Path, checkpoint: Path) -> None:
    with memory_target(tmp_path) as target, Session(target.pid, checkpoint, Options(), lambda _: None) as session:
        session.track()
        for _ in range(6):
            target.command("write 2000 7")
            deferred = session.take_round(defer_hot=True).pages_deferred
        assert deferred > 0
        finished = session.take_dump(AfterDump.LEAVE_STOPPED)
        assert finished.pages_data > deferred // 2, "one page in eight is zero"
        assert_equal(target, checkpoint)


def test_a_keeper_does_not_vouch_for_a_round_that_left_pages_out(tmp_path: Path, checkpoint: Path) -> None:
    with memory_target(tmp_path) as target:
        with Session(target.pid, checkpoint, Options(), lambda _: None) as session:
            session.pre_dump()
            for _ in range(6):
                target.command("write 2000 7")
                deferred = session.take_round(defer_hot=True).pages_deferred
            assert deferred > 0
        done = predump("dump", "-p", target.pid, "-D", checkpoint, "--json", "--leave-stopped")
        assert done.rounds()[0]["full"] is True
        assert_equal(target, checkpoint)


# ---- withdrawn ----


def test_a_dump_that_is_withdrawn_does_not_end_a_stream(checkpoint: Path) -> None:
    words = (sys.executable, "-m", "cli", "receive", "-D", str(checkpoint))
    with (
        Target.spawn("steady", PAGES, 512, 1000) as target,
        StreamDestination(CommandOutgoing(words), "a receiver") as destination,
        Session(target.pid, destination, Options(), lambda _: None) as session,
    ):
        session.track()
        session.take_round()
        assert isinstance(session.try_dump(AfterDump.LEAVE_RUNNING, lambda: None, 0), Withdrawn)
        session.take_round()
        session.take_dump(AfterDump.LEAVE_RUNNING)
    predump("verify", checkpoint)
    assert Checkpoint.open(checkpoint).numbers == [1, 2, 3]


def test_what_a_withdrawn_dump_had_copied_comes_with_the_next_round(tmp_path: Path, checkpoint: Path) -> None:
    with memory_target(tmp_path) as target, Session(target.pid, checkpoint, Options(), lambda _: None) as session:
        session.track()
        session.take_round()
        target.command("write 3000 7")
        for _ in range(2):
            assert isinstance(session.try_dump(AfterDump.LEAVE_RUNNING, lambda: None, 0), Withdrawn)
            assert is_untouched(target.pid)
        finished = session.take_round()
        assert finished.pages_data > 1000
        target.command("write 100 8")
        assert isinstance(session.try_dump(AfterDump.LEAVE_RUNNING, lambda: None, 0), Withdrawn)
        session.take_dump(AfterDump.LEAVE_STOPPED)
        assert_equal(target, checkpoint)
