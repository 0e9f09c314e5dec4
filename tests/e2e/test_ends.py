"""A process that is killed, and reaped, at a chosen instant of a command: a whole round, or the error that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType

import pytest

from dumper import inject
from dumper.convergence import Policy
from dumper.dump import AfterDump, Dumper
from dumper.errors import TargetGone
from dumper.rounds import Options
from dumper.session import Session
from tests.harness import predump

Child = subprocess.Popen[bytes]

ENGINE = str(Path(inject.__file__).parent)
INSTANTS = 25
"""Of each command, spread evenly over its calls of functions."""
POLICY = Policy(max_freeze_ns=10**10, max_rounds=5, timeout_ns=10**11)

TOO_EARLY = (
    (inject, "find_site"),
    (inject, "read_fd_numbers"),
    (Dumper, "_micro_rounds"),
    (Dumper, "_freeze_and_write"),
    (Dumper, "_capture"),
)
"""What there is to capture is not there yet."""
LATE_ENOUGH = ("_fits", "_finish")

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


def end_before(owner: type | ModuleType, step: str, child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends it when that step begins."""
    original = getattr(owner, step)

    def step_of_a_dead_one(*arguments: object, **named: object) -> object:
        end(child)
        return original(*arguments, **named)

    monkeypatch.setattr(owner, step, step_of_a_dead_one)


def open_session(child: Child, checkpoint: Path, *, tree: bool = False) -> Session:
    return Session(child.pid, checkpoint, Options(staging_bytes=1 << 20), lambda _: None, tree=tree)


def ends_at_call(number: int, command: str, checkpoint: Path) -> int:
    """Ends the target at that call of a function of the engine (0: never); how many calls there were."""
    pid, calls = os.getpid(), 0
    before = sys.getprofile()

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
            sys.setprofile(before)
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
    end_before(owner, step, child, monkeypatch)
    with pytest.raises(TargetGone), open_session(child, checkpoint, tree=tree) as session:
        session.dump(AfterDump.LEAVE_RUNNING, pre_dump=True)
    assert not (checkpoint / "0002").exists()


@pytest.mark.parametrize("after", AfterDump)
@pytest.mark.parametrize("step", LATE_ENOUGH)
def test_an_end_after_the_capture(
    step: str, after: AfterDump, child: Child, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_before(Dumper, step, child, monkeypatch)
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
