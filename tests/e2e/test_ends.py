"""A process that is killed, and reaped, at a chosen instant of a command: a whole round, or the error that says so."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType

import pytest

from dumper import inject
from dumper.beforefreeze import BeforeFreeze
from dumper.convergence import Policy
from dumper.dump import AfterDump, Dumper
from dumper.dumpwriter import DumpWriter
from dumper.errors import TargetGone
from dumper.rounds import Options
from dumper.session import Session
from formats.checkpoint import Checkpoint
from tests.harness import Target, is_untouched, poll_until, predump
from tests.steps import before

Child = subprocess.Popen[bytes]

ENGINE = str(Path(inject.__file__).parent)
INSTANTS = 12
"""Of each command, spread evenly over its calls of functions."""
OPTIONS = Options(staging_bytes=1 << 20)
POLICY = Policy(max_freeze_ns=10**10, max_rounds=5, timeout_ns=10**11)

TOO_EARLY = (
    (inject, "find_site"),
    (inject, "read_fd_numbers"),
    (BeforeFreeze, "micro_rounds"),
    (Dumper, "_freeze_and_write"),
    (Dumper, "_capture"),
)
"""What there is to capture is not there yet."""
LATE_ENOUGH = ((DumpWriter, "fits"), (Dumper, "_finish"))

EXEC_ON_A_SIGNAL = """
import os, signal
signal.signal(signal.SIGUSR1, lambda *_: os.execvp("sleep", ["sleep", "600"]))
print("ready", flush=True)
while True: signal.pause()
"""

COMMANDS: dict[str, Callable[[Session], object]] = {
    "pre-dump": lambda session: (session.pre_dump(), session.pre_dump()),
    "dump": lambda session: session.dump(AfterDump.LEAVE_RUNNING, pre_dump=True),
    "dump --no-pre-dump --kill": lambda session: session.dump(AfterDump.KILL, pre_dump=False),
    "run --leave-stopped": lambda session: session.run(POLICY, AfterDump.LEAVE_STOPPED, 0),
}


@pytest.fixture
def child() -> Iterator[Child]:
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process
        finally:
            process.kill()


def end(child: Child) -> None:
    """Nothing is left of it, not even a zombie."""
    child.kill()
    child.wait()


def runs(pid: int, program: str) -> bool:
    """Whether it is that program, and has loaded its C library."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return Path(f"/proc/{pid}/exe").readlink().name == program and re.search(r" r-xp .*/libc\.", maps) is not None


def open_session(child: Child, checkpoint: Path, *, tree: bool = False) -> Session:
    return Session(child.pid, checkpoint, OPTIONS, lambda _: None, tree=tree)


def ends_at_call(number: int, command: str, checkpoint: Path) -> int:
    """Ends the target at that call of a function of the engine (0: never); how many calls there were."""
    pid, calls = os.getpid(), 0
    profile = sys.getprofile()

    def count(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        if event == "call" and frame.f_code.co_filename.startswith(ENGINE) and os.getpid() == pid:
            calls += 1
            if calls == number:
                end(child)

    with subprocess.Popen(["sleep", "600"]) as child:
        sys.setprofile(count)
        try:
            with open_session(child, checkpoint) as session:
                COMMANDS[command](session)
        except TargetGone:
            pass
        finally:
            sys.setprofile(profile)
            end(child)
    return calls


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize(("owner", "step"), TOO_EARLY)
def test_an_end_before_the_capture(
    owner: type | ModuleType,
    step: str,
    tree: bool,
    child: Child,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before(owner, step, lambda: end(child), monkeypatch)
    with pytest.raises(TargetGone), open_session(child, checkpoint, tree=tree) as session:
        session.dump(AfterDump.LEAVE_RUNNING, pre_dump=True)
    assert not (checkpoint / "0002").exists()


@pytest.mark.parametrize("step", ["find_site", "_inject"])
def test_an_exec_while_it_is_attached_to(step: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new program is attached to instead."""
    with Target.spawn(sys.executable, "-c", EXEC_ON_A_SIGNAL) as target:

        def call_exec() -> None:
            os.kill(target.pid, signal.SIGUSR1)
            poll_until(lambda: runs(target.pid, "sleep"), 10, "the exec")

        before(inject, step, call_exec, monkeypatch)
        with Session(target.pid, checkpoint, OPTIONS, lambda _: None) as session:
            session.dump(AfterDump.LEAVE_RUNNING, pre_dump=True)
        assert is_untouched(target.pid)
    last = Checkpoint.open(checkpoint).round()
    assert last.number == 2
    assert last.manifest.processes[0].name == "sleep"
    assert last.manifest.stats.pages_parent > 0, "the new program was tracked"


@pytest.mark.parametrize("after", AfterDump)
@pytest.mark.parametrize(("owner", "step"), LATE_ENOUGH)
def test_an_end_after_the_capture(
    owner: type, step: str, after: AfterDump, child: Child, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(owner, step, lambda: end(child), monkeypatch)
    with open_session(child, checkpoint) as session:
        session.dump(after, pre_dump=True)
    predump("verify", checkpoint)
    assert (checkpoint / "0002" / "manifest.json").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_an_end_at_any_call(command: str, tmp_path: Path) -> None:
    total = ends_at_call(0, command, tmp_path / "undisturbed")
    assert total > 1000
    for number in range(1, total, total // INSTANTS):
        checkpoint = tmp_path / str(number)
        ends_at_call(number, command, checkpoint)
        if list(checkpoint.glob("*/manifest.json")):
            predump("verify", checkpoint)
