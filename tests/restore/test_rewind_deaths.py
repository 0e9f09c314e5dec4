"""predump killed, or refused a call, in the midst of a rewind: the process never runs half of then and half of now."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from formats.faults import Point
from tests.crash.zygote import Zygote
from tests.harness import Predump, Target, is_stopped, is_untouched, poll_until, thread_fields

pytestmark = pytest.mark.usefixtures("targets")

CHANGES = ("memory", "heap", "map", "unmap", "protect", "guard", "file", "signals", "timers", "counts", "name")
N_WORKERS = 4
UNCHANGED = (Point.STOPPED, Point.REWIND_PLANNED)
STEPS = (Point.GUARD_LED, Point.GUARD_ENTERED, Point.GUARD_CALLS, Point.GUARD_CALLED)
CHANGED = (Point.REWIND_GUARDED, Point.REWIND_MAPPED, Point.REWIND_WRITTEN, Point.REWIND_SET)
SEVERAL = ("", ":2", ":9", ":20")
RANDOM_S = 3.0
REFUSED = ("1", "2:ENOMEM", "3", "5:ENOMEM", "8:EAGAIN", "13", "20", "27:ENOMEM")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """What runs the commands."""
    with Zygote.start() as started:
        yield started


class Patient:
    """A process that was dumped, and has changed since."""

    def __init__(self, target: Target, checkpoint: Path, zygote: Zygote) -> None:
        self.target = target
        self._checkpoint = checkpoint
        self.zygote = zygote
        self.before = target.command("state")
        zygote.run("dump", "-p", target.pid, "-D", checkpoint)

    def change(self) -> str:
        for what in CHANGES:
            self.target.command(f"change {what}")
        return self.target.command("state")

    def rewind(
        self, *, die_at: str = "", fail_call: str = "", kill_after_s: float | None = None, expect: int | None = 0
    ) -> Predump:
        words = ("rewind", "-p", self.target.pid, self._checkpoint)
        return self.zygote.run(*words, die_at=die_at, fail_call=fail_call, kill_after_s=kill_after_s, expect=expect)

    def count(self) -> int:
        return int(self.target.command("count").split()[1])

    def assert_runs(self, *states: str) -> None:
        poll_until(lambda: is_untouched(self.target.pid), 10, "it to run")
        assert self.target.command("state") in states
        rounds = self.count()
        poll_until(lambda: self.count() > rounds + 10 * N_WORKERS, 30, "its threads to go on")

    def mend(self) -> None:
        """A process that was left stopped is put back again, and goes on when it is told to."""
        poll_until(lambda: is_stopped(self.target.pid), 10, "it to stop")
        self.rewind()
        poll_until(lambda: is_stopped(self.target.pid), 10, "it to be stopped still")
        os.kill(self.target.pid, signal.SIGCONT)
        self.assert_runs(self.before)


@pytest.fixture
def patient(tmp_path: Path, zygote: Zygote) -> Iterator[Patient]:
    path = tmp_path / "read"
    path.write_bytes(bytes(1000))
    with Target.spawn("rewind", path, N_WORKERS) as target:
        yield Patient(target, tmp_path / "checkpoint", zygote)
        target.check()


def test_killed_before_anything_was_changed(patient: Patient) -> None:
    changed = patient.change()
    for point in UNCHANGED:
        patient.rewind(die_at=point, expect=-signal.SIGKILL)
        patient.assert_runs(changed)


@pytest.mark.parametrize("point", [*CHANGED, *STEPS])
def test_killed_while_it_is_changed(patient: Patient, point: Point) -> None:
    for times in SEVERAL if point in STEPS else ("",):
        patient.change()
        patient.rewind(die_at=f"{point}{times}", expect=-signal.SIGKILL)
        patient.mend()


def has_settled(pid: int) -> bool:
    """Whether it stands still, or runs with no stop on its way to a thread that had no processor yet."""
    stop = 1 << signal.SIGSTOP - 1
    is_stopping = any(int(mask, 16) & stop for mask in thread_fields(pid, "SigPnd").values())
    return is_stopped(pid) or (is_untouched(pid) and not is_stopping)


def test_killed_at_random(patient: Patient, rng: random.Random) -> None:
    patient.change()
    patient.rewind()
    duration_s = patient.zygote.last_duration_s
    end_s = time.monotonic() + RANDOM_S
    while time.monotonic() < end_s:
        changed = patient.change()
        done = patient.rewind(kill_after_s=rng.uniform(0, 1.1 * duration_s), expect=None)
        assert done.returncode in (0, -signal.SIGKILL), str(done)
        poll_until(lambda: has_settled(patient.target.pid), 10, "it to settle")
        if is_stopped(patient.target.pid):
            patient.mend()
        else:
            patient.assert_runs(changed, patient.before)
            patient.rewind()


def test_a_call_that_fails_leaves_it_as_it_was(patient: Patient) -> None:
    for refused in REFUSED:
        changed = patient.change()
        done = patient.rewind(fail_call=refused, expect=1)
        assert "goes on as it was" in str(done.result["hint"]), str(done)
        patient.assert_runs(changed)
        patient.rewind()
        patient.assert_runs(patient.before)
