"""Rounds that drive themselves: what run does where they converge, and where they do not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Event, Predump, Target, is_untouched, keeper_pids, number, poll_until, predump

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


def test_a_dump_that_would_freeze_for_too_long_is_withdrawn_and_rounds_go_on(fast: Target, checkpoint: Path) -> None:
    """The first rounds are short and foretell little; the micro-rounds see how fast the target writes."""
    done = run(fast, checkpoint, "--max-freeze", "3ms", "--max-rounds", "4", "--interval", "10ms")
    assert done.returncode == NOT_CONVERGED, str(done)
    assert done.result["dumped"] is True
    rounds = [number(event, "round") for event in done.rounds()]
    assert rounds == list(range(1, len(rounds) + 1)), "what was withdrawn left a gap"
    assert predictions(done)[-1]["decision"] == "give-up"
    predump("verify", checkpoint)


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
