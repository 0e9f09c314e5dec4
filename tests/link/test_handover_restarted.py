"""A receiver is killed in a handover, and the next one goes on with it: the process runs once, there or here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from formats.faults import VARIABLE, Point
from tests.harness import REPO, is_alive, is_stopped, poll_until
from tests.link.test_link_commands import Listening, listening
from tests.stream.test_handover import SIGKILLED, UNDECIDED, Move
from tests.stream.test_handover import lives as lives  # noqa: PLC0414 - a fixture
from tests.stream.test_handover import move as move  # noqa: PLC0414

RESTORES = ("--restore", "--pid", "new", "--handover-timeout", "20s", "--reconnect-timeout", "20s")
SENDS = ("--kill", "--handover-timeout", "20s", "--reconnect-timeout", "20s")


@contextmanager
def dying(
    move: Move, point: Point, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Listening, subprocess.Popen[str]]]:
    """A receiver that has died at that point, and a sender that waits for the next one."""
    with monkeypatch.context() as environment:
        environment.setenv(VARIABLE, point)
        first = Listening(move.checkpoint, "0", *RESTORES)
    to = ("--to", f"tcp://127.0.0.1:{first.port}")
    words = [sys.executable, "-m", "cli", "run", "-t", str(move.target.pid), *SENDS, *to]
    with subprocess.Popen(words, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sender:
        try:
            first.events(SIGKILLED)
            yield first, sender
        finally:
            sender.kill()
            first.process.kill()


def outcome(sender: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it said."""
    told, _ = sender.communicate(timeout=60)
    return sender.returncode, told


@pytest.mark.parametrize("point", [Point.TAKEOVER_BUILT, Point.TAKEOVER_RUNS])
def test_the_next_receiver_goes_on_with_it(move: Move, point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        dying(move, point, monkeypatch) as (first, sender),
        listening(move.checkpoint, str(first.port), *RESTORES) as second,
    ):
        exit_code, told = outcome(sender)
        assert exit_code == 0, told
        second.events()
    poll_until(lambda: not is_alive(move.target.pid), 5, "the original to end")
    (move.target.pid,) = move.copies()
    assert move.target.check() == {}


def test_what_ran_and_has_ended_since_ran(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    with dying(move, Point.TAKEOVER_RUNS, monkeypatch) as (first, sender):
        (copy,) = move.copies()
        os.kill(copy, signal.SIGKILL)
        poll_until(lambda: not is_alive(copy), 10, "the copy to end")
        with listening(move.checkpoint, str(first.port), *RESTORES) as second:
            exit_code, told = outcome(sender)
            assert exit_code == 0, told
            second.events()
    poll_until(lambda: not is_alive(move.target.pid), 5, "the original to end")
    assert move.copies() == []


def test_what_was_about_to_run_is_not_believed_to_run(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        dying(move, Point.TAKEOVER_RECORDED, monkeypatch) as (first, sender),
        listening(move.checkpoint, str(first.port), *RESTORES) as second,
    ):
        exit_code, told = outcome(sender)
        assert exit_code == UNDECIDED, told
        assert f"kill -CONT {move.target.pid}" in told
        second.events(1)
    poll_until(lambda: not move.copies(), 5, "what was built to end")
    poll_until(lambda: is_stopped(move.target.pid), 5, "the original to stand still")
    os.kill(move.target.pid, signal.SIGCONT)
    assert move.target.check() == {}
