"""The injected call: the target goes on untouched, whenever the tool that made it dies."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from dumper import inject
from dumper.errors import TargetUntraceable
from dumper.kernel.ptrace import INJECT_STEPS
from dumper.proc.maps import MapsParser, read_maps
from dumper.target import Target as DumpTarget
from formats.faults import VARIABLE, Point
from tests.harness import REPO, Target, is_stopped, is_untouched, open_descriptors, predump, tracer_pid

pytestmark = pytest.mark.usefixtures("targets")

INJECT_AND_DIE = """
import sys
from dumper.inject import take_userfaultfd
from dumper.proc.maps import MapsParser, read_maps
from dumper.target import Target
target = Target(int(sys.argv[1]))
take_userfaultfd(target, MapsParser().parse(read_maps(target.tid)))
"""
DEATHS = 10
HUNDREDS = 300
SHORT_PATIENCES_NS = range(1000, 120_000, 1000)


def signal_mask(pid: int) -> str:
    """What the leader, in which the call is injected, blocks."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("SigBlk"))


@pytest.mark.parametrize("step", INJECT_STEPS)
def test_death_of_the_tool_at_every_step_leaves_the_target_as_it_was(step: Point) -> None:
    environment = {**os.environ, VARIABLE: step}
    with Target.spawn("selfcheck") as target:
        before = signal_mask(target.pid), open_descriptors(target.pid)
        for _ in range(DEATHS):
            arguments = [sys.executable, "-c", INJECT_AND_DIE, str(target.pid)]
            died = subprocess.run(arguments, cwd=REPO, env=environment, check=False, capture_output=True, text=True)
            assert died.returncode == -signal.SIGKILL, died.stderr
        assert "errors=0" in target.command("status")
        assert not is_stopped(target.pid)
        assert tracer_pid(target.pid) == 0
        assert (signal_mask(target.pid), open_descriptors(target.pid)) == before


def test_hundreds_of_injections_go_unnoticed() -> None:
    with Target.spawn("selfcheck") as target, DumpTarget(target.pid) as dump_target:
        before = open_descriptors(target.pid)
        maps = MapsParser().parse(read_maps(target.pid))
        for _ in range(HUNDREDS):
            os.close(inject.take_userfaultfd(dump_target, maps).uffd)
        assert "errors=0" in target.command("status")
        assert open_descriptors(target.pid) == before


def test_a_call_that_ends_late_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it was waited for: before it, within it, on the way home."""
    with Target.spawn("selfcheck") as target, DumpTarget(target.pid) as dump_target:
        before = signal_mask(target.pid), open_descriptors(target.pid)
        maps = MapsParser().parse(read_maps(target.pid))
        for patience_ns in SHORT_PATIENCES_NS:
            monkeypatch.setattr(inject, "CALL_TIMEOUT_NS", patience_ns)
            with suppress(TargetUntraceable):
                os.close(inject.take_userfaultfd(dump_target, maps).uffd)
            assert is_untouched(target.pid)
            assert (signal_mask(target.pid), open_descriptors(target.pid)) == before
        assert "errors=0" in target.command("status")


def test_a_thread_that_stops_when_nobody_waits_any_more_goes_on() -> None:
    """In vfork(2) it stops when its child has ended, and this process lives on."""
    with Target.spawn("special", "vfork") as target, DumpTarget(target.pid) as dump_target:
        maps = MapsParser().parse(read_maps(target.pid))
        target.command("child")
        with pytest.raises(TargetUntraceable, match="did not stop"):
            inject.take_userfaultfd(dump_target, maps)
        target.command("end")
        target.command("check")
        assert is_untouched(target.pid)


def test_a_target_that_was_stopped_is_tracked_and_stays_stopped(tmp_path: Path) -> None:
    with Target.spawn("idle", 1, 4, 0) as target:
        os.kill(target.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, target.pid, os.WSTOPPED)
        predump("pre-dump", "-p", target.pid, "-D", tmp_path / "checkpoint")
        assert is_stopped(target.pid)
        os.kill(target.pid, signal.SIGCONT)
