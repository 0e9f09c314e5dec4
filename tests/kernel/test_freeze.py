"""Stopping a whole tree ends, whatever the tree does."""

from __future__ import annotations

import itertools
import os
import resource
import signal
from contextlib import suppress

import pytest

from dumper import freeze
from dumper.errors import TargetGone, TargetUntraceable
from dumper.freeze import Freeze
from dumper.target import Target
from tests.harness import Target as RunningTarget
from tests.harness import is_untouched
from tests.kernel.child import Child

KILLS = 30


def test_a_tree_that_forks_faster_than_it_can_be_stopped_is_given_up(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the children shows another one, which has ended when it is its turn."""
    pids = itertools.count(1 << 22)  # above the largest pid there is
    monkeypatch.setattr(freeze, "children", lambda _: [next(pids)])
    asked: list[int] = []
    with (
        Target(child.pid) as target,
        pytest.raises(TargetUntraceable, match="faster than they can be stopped"),
        Freeze(target, descendants=asked.append),  # type: ignore[func-returns-value]
    ):
        raise AssertionError("it was taken for stopped")
    assert len(asked) == freeze.MAX_PASSES
    assert is_untouched(child.pid)


def test_time_bounds_the_passes_too(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "TREE_TIMEOUT_NS", 0)
    monkeypatch.setattr(freeze, "children", lambda _: range(1 << 22, (1 << 22) + 1000))
    asked: list[int] = []
    with (
        Target(child.pid) as target,
        pytest.raises(TargetUntraceable, match="faster than they can be stopped"),
        Freeze(target, descendants=asked.append),  # type: ignore[func-returns-value]
    ):
        raise AssertionError("it was taken for stopped")
    assert len(asked) < 1000
    assert is_untouched(child.pid)


def test_a_descriptor_above_1023(child: Child) -> None:
    """Large trees have many descriptors; select(2) takes none above 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    filler = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        with Target(child.pid) as target:
            assert target.pidfd > 1023
            assert not target.has_ended
    finally:
        for fd in filler:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("targets")
def test_a_process_that_is_killed_while_it_is_stopped_is_gone() -> None:
    """Its leader does not end for a tracer that has not waited for its other threads."""
    for _ in range(KILLS):
        with RunningTarget.spawn("idle", 32, 0, 0) as running, Target(running.pid) as target:
            os.kill(running.pid, signal.SIGKILL)
            with suppress(TargetGone), Freeze(target):
                pass
