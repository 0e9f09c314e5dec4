"""What cannot be done is refused with the right exit code and two sentences, and harms nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import (
    Predump,
    Target,
    is_untouched,
    poll_until,
    predump,
    proc_state,
    unprivileged_python,
)

pytestmark = pytest.mark.usefixtures("targets")

GONE, PERMISSION, UNTRACEABLE = 10, 11, 13
KERNEL_THREAD = 2
COMMANDS = ("pre-dump", "dump", "run")

# Attaches with PTRACE_SEIZE, says so, and holds on until its input ends.
TRACER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
PTRACE_SEIZE = 0x4206
if libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), 0, 0) != 0:
    sys.exit(f"PTRACE_SEIZE: errno {ctypes.get_errno()}")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def target() -> Iterator[Target]:
    with Target.spawn("idle", 2, 4, 100) as started:
        yield started


def assert_refused(done: Predump, *mentions: object) -> None:
    """One sentence on what happened that names what it is about, one on what to do."""
    for mention in mentions:
        assert str(mention) in done.stderr, str(done)
    assert len(done.stderr.strip().splitlines()) <= 4, str(done)
    assert done.stdout == "", str(done)


def assert_unharmed(target: Target) -> None:
    assert is_untouched(target.pid)
    target.check()


def ended_process() -> int:
    """The pid of a process that has ended and was reaped."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@contextmanager
def zombie() -> Iterator[int]:
    process = subprocess.Popen(["true"])
    try:
        poll_until(lambda: proc_state(process.pid) == "Z", 10, "the child to end")
        yield process.pid
    finally:
        process.wait()


@contextmanager
def tracing(pid: int) -> Iterator[None]:
    """Another process traces `pid`."""
    words = [sys.executable, "-c", TRACER, str(pid)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tracer:
        try:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == b"ready\n"
            yield
        finally:
            tracer.kill()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_such_process(command: str, checkpoint: Path) -> None:
    pid = ended_process()
    done = predump(command, "-p", pid, "-D", checkpoint, expect=GONE)
    assert_refused(done, pid)


@pytest.mark.parametrize("command", COMMANDS)
def test_zombie(command: str, checkpoint: Path) -> None:
    with zombie() as pid:
        done = predump(command, "-p", pid, "-D", checkpoint, expect=GONE)
    assert_refused(done, pid)


@pytest.mark.parametrize("command", COMMANDS)
def test_kernel_thread(command: str, checkpoint: Path) -> None:
    done = predump(command, "-p", KERNEL_THREAD, "-D", checkpoint, expect=UNTRACEABLE)
    assert_refused(done, KERNEL_THREAD)


@pytest.mark.parametrize("command", COMMANDS)
def test_already_traced(command: str, target: Target, checkpoint: Path) -> None:
    with tracing(target.pid):
        done = predump(command, "-p", target.pid, "-D", checkpoint, expect=UNTRACEABLE)
        assert_refused(done, target.pid)
    poll_until(lambda: is_untouched(target.pid), 10, "the tracer to be gone")
    predump(command, "-p", target.pid, "-D", checkpoint)
    assert_unharmed(target)


def test_refusal_as_json(checkpoint: Path) -> None:
    pid = ended_process()
    done = predump("dump", "-p", pid, "-D", checkpoint, "--json", expect=GONE)
    (event,) = done.events
    assert event["type"] == "error"
    assert event["exit_code"] == GONE
    assert str(pid) in str(event["message"])
    assert event["hint"]


@pytest.mark.parametrize("command", COMMANDS)
def test_process_of_another_user(command: str, target: Target) -> None:
    prefix, env = unprivileged_python()
    # pytest's own directories are root's alone.
    with tempfile.TemporaryDirectory(prefix="predump-test-") as name:
        os.chown(name, 65534, 65534)
        words = (command, "-p", target.pid, "-D", f"{name}/checkpoint")
        done = predump(*words, expect=PERMISSION, prefix=prefix, env=env)
        assert_refused(done, target.pid)
        assert not list(Path(name).rglob("manifest.json"))
    assert_unharmed(target)


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_directory_that_is_no_checkpoint(command: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing of ours")
    done = predump(command, tmp_path, expect=1)
    assert_refused(done, tmp_path)
    done = predump(command, tmp_path / "missing", expect=1)
    assert_refused(done, tmp_path / "missing")


@pytest.mark.parametrize("command", COMMANDS)
def test_checkpoint_of_another_process(command: str, target: Target, checkpoint: Path) -> None:
    with Target.spawn("idle", 1, 1, 0) as other:
        predump("pre-dump", "-p", other.pid, "-D", checkpoint)
        done = predump(command, "-p", target.pid, "-D", checkpoint, expect=1)
    assert_refused(done, checkpoint)
    predump("verify", checkpoint)
    assert_unharmed(target)
