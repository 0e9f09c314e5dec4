"""A restore that is refused a call, or killed at one: nothing is left, and it can be tried again."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from formats.faults import Point
from tests.alive import Alive, Lives
from tests.harness import COMMAND_S, is_alive, poll_until, predump

TRIES = 4
MOST_CALLS = 400


@pytest.mark.parametrize("errno", ["EPERM", "ENOMEM", "EINVAL"])
def test_a_call_that_fails_leaves_nothing(
    errno: str, rng: random.Random, lives: Lives, home: Path, tmp_path: Path
) -> None:
    target = Alive(lives, home / "target", "alive-signals")
    assert target.check() == {}
    target.die(tmp_path / "checkpoint")
    for number in sorted(rng.sample(range(1, MOST_CALLS), TRIES)):
        fault = {"PREDUMP_FAIL_CALL": f"{number}:{errno}"}
        done = predump("restore", tmp_path / "checkpoint", "--detach", check=False, env=fault)
        assert "Traceback" not in done.stderr
        assert "internal error" not in done.stderr, f"call {number}: {done}"
        if done.returncode == 0:  # there are not so many, or it was one that is told of and done without
            poll_until(lambda: is_alive(target.pid), COMMAND_S, "the process")
            lives.end(target.pid)
        else:
            assert done.returncode in (1, 11, 12), str(done)
            assert "\n" in done.stderr.strip(), f"no hint: {done}"
        assert not Path(f"/proc/{target.pid}").exists(), str(done)
    target.come_back(tmp_path / "checkpoint")
    assert target.check() == {}


@pytest.mark.usefixtures("processors")
def test_a_death_at_any_call_leaves_nothing(rng: random.Random, lives: Lives, home: Path, tmp_path: Path) -> None:
    target = Alive(lives, home / "target", "alive-threads")
    assert target.check() == {}
    target.die(tmp_path / "checkpoint")
    for number in rng.sample(range(1, 100), TRIES):
        fault = {"PREDUMP_DIE_AT": f"restore-call:{number}"}
        done = predump("restore", tmp_path / "checkpoint", "--detach", check=False, env=fault)
        assert done.returncode == -signal.SIGKILL, str(done)
        poll_until(lambda: not is_alive(target.pid), COMMAND_S, "the process to end with predump")
        lives.end(target.pid)
    target.come_back(tmp_path / "checkpoint")
    assert target.check() == {}


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize("point", [Point.RESTORE_SHELLS, Point.RESTORE_BUILT, Point.RESTORE_SET, Point.RESTORED])
def test_a_death_leaves_nothing_or_all_of_it(point: Point, lives: Lives, home: Path, tmp_path: Path) -> None:
    """What is let go lives on without predump."""
    target = Alive(lives, home / "target", "alive-threads")
    assert target.check() == {}
    target.die(tmp_path / "checkpoint")
    done = predump("restore", tmp_path / "checkpoint", "--detach", check=False, env={"PREDUMP_DIE_AT": point.value})
    assert done.returncode == -signal.SIGKILL, str(done)
    try:
        if point is not Point.RESTORED:
            poll_until(lambda: not is_alive(target.pid), COMMAND_S, "the process to end with predump")
            lives.end(target.pid)
            target.come_back(tmp_path / "checkpoint")
        assert target.check() == {}
    finally:
        lives.end(target.pid)  # nobody told `lives` of one that came back without predump
