"""The loop of a run, with steps that only write down what was asked of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from dumper.convergence import Decision, OnNoConverge, Policy
from dumper.dump import AfterDump, BeforeStop, Withdrawn
from dumper.events import Event, Predicted, RoundFinished
from dumper.prediction import Size
from dumper.run import Run
from dumper.throttle import Throttle, ThrottleError

MS = 1_000_000
PAGES = 1 << 18


def finished(number: int, kind: str, pages: int) -> RoundFinished:
    values: dict[str, Any] = {field.name: 0 for field in fields(RoundFinished)}
    values |= {"type": "round", "pid": 1, "round": number, "kind": kind, "pages_written": pages}
    return RoundFinished(**values | {"copy_ns": pages * 1000, "scan_ns": MS})


class NoThrottle(Throttle):
    """Steps without a target."""

    def __init__(self, log: list[str], *, fails: bool) -> None:
        self._log = log
        self._fails = fails

    def limit(self, share: float) -> str:
        if self._fails:
            raise ThrottleError("it cannot be had")
        self._log.append(f"limit {share}")
        return "by nobody"

    def lift(self) -> None:
        self._log.append("lift")

    def lifted(self) -> Any:
        return _Lifted(self._log)

    def close(self) -> None:
        self._log.append("set back")


class _Lifted:
    def __init__(self, log: list[str]) -> None:
        self._log = log

    def __enter__(self) -> None:
        self._log.append("lift")

    def __exit__(self, *_unused: object) -> None:
        self._log.append("limit again")


class FakeSteps:
    """Rounds of so many pages, one after the other and then the last for ever; dumps withdrawn so many times."""

    last_window_ns = 10 * MS

    def __init__(self, pages: list[int], *, withdrawn: int = 0, throttle_fails: bool = False) -> None:
        self._pages = pages
        self._rounds = 0
        self._withdrawn = withdrawn
        self._throttle_fails = throttle_fails
        self.log: list[str] = []
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def size(self, _after: AfterDump) -> Size:
        return Size()

    def track(self) -> None:
        self.log.append("track")

    def take_round(self, *, defer_hot: bool) -> RoundFinished:
        pages = self._pages[min(self._rounds, len(self._pages) - 1)]
        self._rounds += 1
        self.log.append("defer" if defer_hot else "round")
        return finished(self._rounds, "pre-dump", pages)

    def take_dump(self, _after: AfterDump, before_stop: BeforeStop) -> RoundFinished:
        before_stop()
        self.log.append("dump")
        return finished(self._rounds + 1, "dump", 0)

    def try_dump(self, after: AfterDump, before_stop: BeforeStop, max_freeze_ns: float) -> RoundFinished | Withdrawn:
        if self._withdrawn:
            self._withdrawn -= 1
            self.log.append("withdrawn")
            return Withdrawn(int(max_freeze_ns) + 1)
        return self.take_dump(after, before_stop)

    def end_tracking(self) -> None:
        self.log.append("let go")

    def throttle(self) -> Throttle:
        return NoThrottle(self.log, fails=self._throttle_fails)


def run(steps: FakeSteps, on_no_converge: OnNoConverge = OnNoConverge.ACCEPT, **policy: Any) -> Any:
    settings: dict[str, Any] = {"max_freeze_ns": 20 * MS, "max_rounds": 4, "timeout_ns": 60_000 * MS} | policy
    return Run(steps, Policy(**settings, on_no_converge=on_no_converge), AfterDump.LEAVE_RUNNING, 0).take()


def test_it_dumps_when_the_freeze_fits() -> None:
    steps = FakeSteps([PAGES, 100])
    outcome = run(steps)
    assert outcome.converged
    assert outcome.dumped
    assert steps.log == ["track", "round", "track", "round", "dump"]


def test_a_withdrawn_dump_is_followed_by_another_round() -> None:
    steps = FakeSteps([PAGES, 100], withdrawn=1)
    outcome = run(steps)
    assert outcome.converged
    assert steps.log == ["track", "round", "track", "round", "withdrawn", "track", "round", "dump"]
    told = [event.decision for event in steps.events if isinstance(event, Predicted)]
    assert told == [Decision.CONTINUE, Decision.FREEZE, Decision.CONTINUE, Decision.FREEZE]


def test_dumps_that_are_always_withdrawn_use_up_the_rounds() -> None:
    steps = FakeSteps([PAGES, 100], withdrawn=100)
    outcome = run(steps)
    assert not outcome.converged
    assert outcome.dumped
    assert steps.log.count("round") == 4
    assert steps.log[-1] == "dump"


def test_cancel_takes_no_dump_and_lets_go() -> None:
    steps = FakeSteps([PAGES], withdrawn=100)
    outcome = run(steps, OnNoConverge.CANCEL, max_freeze_ns=0)
    assert not outcome.converged
    assert not outcome.dumped
    assert outcome.finished.kind == "pre-dump"
    assert steps.log[-1] == "let go"
    assert "dump" not in steps.log


def test_a_throttled_target_is_dumped_without_a_limit_and_set_back() -> None:
    steps = FakeSteps([PAGES] * 7 + [100])
    outcome = run(steps, OnNoConverge.THROTTLE)
    assert outcome.converged
    assert steps.log[-3:] == ["lift", "dump", "set back"]
    steps_taken = [entry for entry in steps.log if entry.startswith("limit 0")]
    assert len(steps_taken) > 1, "the first step is not enough here"
    for index, entry in enumerate(steps.log):
        if entry == "track" and index > steps.log.index(steps_taken[0]):
            assert (steps.log[index - 1], steps.log[index + 1]) == ("lift", "limit again")


@pytest.mark.parametrize("fails", [False, True])
def test_where_throttling_does_not_help_it_is_dumped_all_the_same(fails: bool) -> None:
    steps = FakeSteps([PAGES], throttle_fails=fails)
    outcome = run(steps, OnNoConverge.THROTTLE, max_freeze_ns=0)
    assert not outcome.converged
    assert outcome.dumped
    assert steps.log[-3:] == ["lift", "dump", "set back"]


def test_hot_pages_are_deferred_if_the_policy_says_so() -> None:
    steps = FakeSteps([PAGES, 100])
    run(steps, defer_hot=True)
    assert steps.log.count("defer") == 2
