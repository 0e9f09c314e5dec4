"""`restore --check` on dumps of real processes, and what `restore` refuses before it makes anything."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.alive import Lives
from tests.harness import COMMAND_S, TARGETS, children, is_alive, poll_until, predump
from tests.redisserver import redis_server

PYTHON = """
import signal, sys
log = open(sys.argv[1], "a+b")
log.write(b"x" * 5000)
log.flush()
while True:
    signal.pause()
"""


SLEEP = shutil.which("sleep") or "/bin/sleep"


def checked(checkpoint: Path, *options: object, expect: int = 0) -> list[str]:
    """What stands in the way."""
    done = predump("restore", checkpoint, "--check", "--json", *options, expect=expect)
    problems = [event for event in done.events if event["type"] == "problem" and event["stops"]]
    assert done.result["problems"] == len(problems)
    assert done.result["restorable"] is (not problems)
    return [str(event["message"]) for event in problems]


def test_a_program_with_an_open_file(lives: Lives, tmp_path: Path) -> None:
    """It runs on, so that its ids are taken."""
    log, checkpoint = tmp_path / "log", tmp_path / "checkpoint"
    (tmp_path / "program.py").write_text(PYTHON)
    pid = lives.start(sys.executable, tmp_path / "program.py", log, log=tmp_path / "output")
    poll_until(lambda: log.exists() and log.stat().st_size == 5000, COMMAND_S, "the program to write its log")
    predump("dump", "-p", pid, "-D", checkpoint, "--no-pre-dump")

    (message,) = checked(checkpoint, expect=1)
    assert f"{pid} (by python" in message
    assert checked(checkpoint, "--pid", "new") == []
    assert checked(checkpoint, "--pid-namespace") == []

    os.truncate(log, 4999)
    before = children(os.getpid())
    refused = predump("restore", checkpoint, "--pid", "new", expect=1)
    assert f"{log}, open file" in refused.stderr
    assert "is shorter than it was: 4999 bytes instead of 5000" in refused.stderr
    assert children(os.getpid()) == before
    assert is_alive(pid)


def test_an_image_that_others_may_write_to(lives: Lives, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    pid = lives.start(SLEEP, 1000, log=tmp_path / "output")
    lives.dump(pid, checkpoint, "--no-pre-dump")
    assert checked(checkpoint) == []

    (checkpoint / "0001").chmod(0o770)
    (message,) = checked(checkpoint, expect=11)
    assert "0001 can be written to by others" in message
    refused = predump("restore", checkpoint, "--detach", expect=11)
    assert "--trust" in refused.stderr
    assert not is_alive(pid)
    assert checked(checkpoint, "--trust") == []


def test_another_program_in_its_place(lives: Lives, tmp_path: Path) -> None:
    program, checkpoint = tmp_path / "program", tmp_path / "checkpoint"
    shutil.copy(SLEEP, program)
    pid = lives.start(program, 1000, log=tmp_path / "output")
    lives.dump(pid, checkpoint, "--no-pre-dump")

    shutil.copy(TARGETS / "bin" / "sweep", program)
    assert f"{program}, mapped by process {pid}" in checked(checkpoint, expect=1)[0]
    program.unlink()
    assert "No such file" in checked(checkpoint, expect=1)[0]
    shutil.copy(SLEEP, program)
    assert checked(checkpoint) == []
    assert lives.restore(checkpoint) == [pid]


def test_redis_whose_port_is_taken(tmp_path: Path) -> None:
    with redis_server(tmp_path, 100) as (process, port):
        predump("dump", "-p", process.pid, "-D", tmp_path / "checkpoint", "--no-pre-dump")
        messages = checked(tmp_path / "checkpoint", "--pid", "new", expect=1)
        assert any(f"127.0.0.1:{port}, where nobody can now: Address already in use" in one for one in messages)
    assert checked(tmp_path / "checkpoint", "--pid", "new") == []
