"""A process that job control had stopped comes back stopped, and goes on when it is told to."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from tests.alive import Lives
from tests.harness import COMMAND_S, is_stopped, poll_until, proc_state

SLEEP = shutil.which("sleep") or "/bin/sleep"


def test_a_stopped_process_stays_so_until_it_is_told_to_go_on(lives: Lives, tmp_path: Path) -> None:
    pid = lives.start(SLEEP, 1000, log=tmp_path / "output")
    poll_until(lambda: proc_state(pid) == "S", COMMAND_S, "the program to sleep")
    os.kill(pid, signal.SIGSTOP)
    poll_until(lambda: is_stopped(pid), COMMAND_S, "the process to stop")
    for life in ("first", "second"):
        lives.dump(pid, tmp_path / life)
        assert lives.restore(tmp_path / life) == [pid]
        poll_until(lambda: is_stopped(pid), COMMAND_S, "the process to stop again")
    os.kill(pid, signal.SIGCONT)
    poll_until(lambda: proc_state(pid) == "S", COMMAND_S, "the process to go on")
    lives.dump(pid, tmp_path / "third")
    assert lives.restore(tmp_path / "third") == [pid]
    poll_until(lambda: proc_state(pid) == "S", COMMAND_S, "the process to run on")
