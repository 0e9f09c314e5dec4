"""Targets that are awkward to trace or to track: right, or refused as the contract says, and never harmed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dumper.dump import AfterDump, Dumper
from dumper.errors import TargetUntraceable
from dumper.inject import take_userfaultfd
from dumper.kernel.missing import watch
from dumper.kernel.ptrace import INJECT_STEPS
from dumper.proc.maps import Mapping, MapsParser, read_maps
from dumper.rounds import Options
from dumper.session import Session
from dumper.target import Target as DumpTarget
from formats import faults
from formats.chain import Checkpoint, MemoryView
from formats.faults import Point
from tests.cgroups import own_cgroup, removed, unified_root
from tests.harness import (
    Predump,
    RunningPredump,
    Target,
    is_untouched,
    number,
    poll_until,
    predump,
    proc_state,
    stopped,
    thread_fields,
)
from tests.oracle import compare, compare_view
from tests.steps import before

pytestmark = pytest.mark.usefixtures("targets")

GONE, UNTRACEABLE, NOT_CONVERGED = 10, 13, 3
LEAST_PAGES_AFTER_EXEC = 32
"""A program that has just begun has the kernel's stack for it, and what its loader has touched."""
DEATHS = 4
ATTACHES = 50
DUMPS_CUT_SHORT = 30
EXEC_RUNS = 5
SIGNALS = 40
SIGNALS_PER_TURN = 8


def pre_dump(target: Target, checkpoint: Path) -> dict[str, object]:
    done = predump("pre-dump", "-p", target.pid, "-D", checkpoint, "--json")
    assert is_untouched(target.pid)
    return last_round(done)


def dump_stopped(target: Target, checkpoint: Path, *options: str) -> Predump:
    return predump("dump", "-p", target.pid, "-D", checkpoint, "--leave-stopped", "--json", *options)


def last_round(done: Predump) -> dict[str, object]:
    return done.rounds()[-1]


def live_tid(pid: int) -> int:
    """A thread that has not ended."""
    return min(tid for tid, state in thread_fields(pid, "State").items() if state[0] not in "ZX")


def is_stopped(pid: int) -> bool:
    """Whether every thread that has not ended is stopped by a signal."""
    states = [state[0] for state in thread_fields(pid, "State").values() if state[0] not in "ZX"]
    return bool(states) and set(states) == {"T"}


def assert_equal(target: Target, checkpoint: Path, least_pages: int = 1024) -> None:
    """The stopped target equals the last round, which is whole."""
    assert is_stopped(target.pid), "--leave-stopped leaves it stopped"
    with MemoryView(Checkpoint.open(checkpoint), None, target.pid) as view:
        found = compare_view(live_tid(target.pid), view)
    assert not found.mismatches, str(found)
    assert found.pages_skipped == 0, str(found)
    assert found.pages_compared > least_pages
    predump("verify", checkpoint)


def go_on(target: Target) -> None:
    os.kill(target.pid, signal.SIGCONT)
    poll_until(lambda: is_untouched(target.pid), 10, "the target to go on")


def assert_unharmed(target: Target) -> None:
    go_on(target)
    target.check()


def rounds_and_dump(target: Target, checkpoint: Path) -> None:
    """The whole way: two rounds with writes in between, a dump that builds on them, all of it right."""
    pre_dump(target, checkpoint)
    target.command("write 300")
    second = pre_dump(target, checkpoint)
    assert number(second, "pages_parent") > 0, "the second round builds on the first"
    target.command("write 200")
    done = dump_stopped(target, checkpoint)
    assert number(last_round(done), "pages_parent") > 0
    assert_equal(target, checkpoint)


def die_while_injecting(pid: int, step: Point) -> None:
    """A process of its own attaches to `pid` and is killed at that step."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            target = DumpTarget(pid)
            maps = MapsParser().parse(read_maps(target.tid))
            faults.die_at(step)
            poll_until(lambda: dies_or_tries_again(target, maps), 10, "the target to be home from the last time")
            os.write(writer, b"nothing went wrong")
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the tool was not killed at step {step}: {said}"


def dies_or_tries_again(target: DumpTarget, maps: list[Mapping]) -> bool:
    """A target on its way home still has the descriptor of the time before, and is refused for it."""
    try:
        take_userfaultfd(target, maps)
    except TargetUntraceable as error:
        if "uses userfaultfd itself" in error.message:
            return False
        raise
    return True


def die_at_every_step(target: Target) -> None:
    for step in INJECT_STEPS:
        for _ in range(DEATHS):
            die_while_injecting(target.pid, step)
            assert target.alive(), f"the target was killed by a death of the tool at {step}"
            poll_until(lambda: is_as_before(target.pid), 10, f"the target to be as before after {step}")


def is_as_before(pid: int) -> bool:
    """Whether it has come home by itself, with the descriptor closed again."""
    return is_untouched(pid) and "anon_inode:[userfaultfd]" not in descriptors(pid).values()


def attach(target: Target, times: int) -> None:
    with DumpTarget(target.pid) as dump_target:
        maps = MapsParser().parse(read_maps(dump_target.tid))
        for _ in range(times):
            os.close(take_userfaultfd(dump_target, maps).uffd)


def descriptors(pid: int) -> dict[str, str]:
    """What the process has open, seen through a thread that lives."""
    found = {}
    for entry in Path(f"/proc/{live_tid(pid)}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found[entry.name] = str(entry.readlink())
    return found


@pytest.mark.parametrize("mode", ["leaderless", "brink", "rseq", "unprivileged", "coroutine"])
def test_rounds_and_dump(mode: str, checkpoint: Path) -> None:
    with Target.spawn("special", mode) as target:
        rounds_and_dump(target, checkpoint)
        assert_unharmed(target)


@pytest.mark.parametrize("mode", ["seccomp-errno", "seccomp-kill"])
def test_seccomp_filter_stays_in_force(mode: str, checkpoint: Path) -> None:
    with Target.spawn("special", mode) as target:
        rounds_and_dump(target, checkpoint)
        go_on(target)
        assert set(thread_fields(target.pid, "Seccomp").values()) == {"2"}
        if mode == "seccomp-errno":
            target.command("denied")
        assert_unharmed(target)


@pytest.mark.parametrize("after", ["--leave-running", "--kill"])
def test_death_of_the_tool_while_it_dumps_a_target_whose_filter_kills(after: str, checkpoint: Path) -> None:
    """The tracer is a process of its own, which goes on until no injected call is under way, and does not kill."""
    chance = random.Random(7)
    with Target.spawn("special", "seccomp-kill") as target:
        deaths = 0
        for _ in range(DUMPS_CUT_SHORT):
            with RunningPredump.start("dump", "-p", target.pid, "-D", checkpoint, "--no-pre-dump", after) as running:
                running.wait_for("round-start")
                running.ends_within(chance.uniform(0, 0.02))  # any instant will do
                running.process.kill()
            if not target.alive():
                break  # the dump was complete, and the target killed as was asked for
            poll_until(lambda: is_untouched(target.pid), 10, "the target to go on")
            deaths += 1
        assert deaths >= DUMPS_CUT_SHORT // 2
        if target.alive():
            rounds_and_dump(target, checkpoint)
            assert_unharmed(target)
        else:
            assert Checkpoint.open(checkpoint).numbers, "it was killed without a dump on disk"


@pytest.mark.parametrize("mode", ["seccomp-errno", "seccomp-kill", "leaderless", "rseq", "unprivileged", "pending"])
def test_death_of_the_tool_while_it_injects(mode: str) -> None:
    with Target.spawn("special", mode) as target:

        def seen() -> tuple[dict[str, str], dict[int, str]]:
            return descriptors(target.pid), thread_fields(target.pid, "SigBlk")

        before = seen()
        die_at_every_step(target)
        poll_until(lambda: seen() == before, 10, "descriptors and signal masks to be as before")
        assert_unharmed(target)


# ---- restartable sequences ----


def aborts(target: Target) -> int:
    return int(target.command("aborts").split()[1])


def abort_by_signal(target: Target, times: int) -> None:
    """Each signal ends the sequence once; one that the kernel has forgotten goes on for ever."""
    for _ in range(times):
        before = aborts(target)
        os.kill(target.pid, signal.SIGUSR1)
        poll_until(lambda before=before: aborts(target) > before, 10, "the sequence to be aborted")  # type: ignore[misc]


def test_restartable_sequence_is_not_ended_in_silence(checkpoint: Path) -> None:
    with Target.spawn("special", "rseq") as target:
        for _ in range(ATTACHES):
            attach(target, 1)
            abort_by_signal(target, 1)
        die_at_every_step(target)
        abort_by_signal(target, 3)
        predump("run", "-p", target.pid, "-D", checkpoint, "--max-freeze", "60s")
        abort_by_signal(target, 3)
        assert_unharmed(target)


# ---- its own userfaultfd ----


@pytest.mark.parametrize("command", ["pre-dump", "dump", "run"])
def test_own_userfaultfd_is_refused(command: str, checkpoint: Path) -> None:
    with Target.spawn("special", "uffd") as target:
        done = predump(command, "-p", target.pid, "-D", checkpoint, expect=UNTRACEABLE)
        assert str(target.pid) in done.stderr
        assert "userfaultfd" in done.stderr
        assert "--no-pre-dump" in done.stderr, "what to do"
        assert not list(checkpoint.rglob("manifest.json"))
        assert is_untouched(target.pid)
        target.check()


def test_own_userfaultfd_without_tracking(checkpoint: Path) -> None:
    with Target.spawn("special", "uffd") as target:
        done = dump_stopped(target, checkpoint, "--no-pre-dump")
        assert number(last_round(done), "pages_parent") == 0
        assert_equal(target, checkpoint)
        assert_unharmed(target)


def test_pages_that_another_process_brings_are_not_taken_for_zeros(checkpoint: Path) -> None:
    with Target.spawn("kinds", "private-anonymous") as target, DumpTarget(target.pid) as dump_target:
        maps = MapsParser().parse(read_maps(dump_target.tid))
        largest = max((m for m in maps if not m.path), key=lambda m: m.n_pages)
        fd = take_userfaultfd(dump_target, maps).uffd
        try:
            watch(fd, largest.start_addr, largest.end_addr)
            for options in ([], ["--no-pre-dump"]):
                done = predump("dump", "-p", target.pid, "-D", checkpoint, *options, expect=UNTRACEABLE)
                assert "userfaultfd" in done.stderr
                assert not list(checkpoint.rglob("manifest.json"))
        finally:
            os.close(fd)
        dump_stopped(target, checkpoint, "--no-pre-dump")
        assert_equal(target, checkpoint, least_pages=100)


def test_main_thread_that_ends_between_rounds(checkpoint: Path) -> None:
    """What a dead leader shows of the memory is nothing: no round may take that for the truth."""
    with Target.spawn("special", "leaves") as target:
        pre_dump(target, checkpoint)
        with Session(target.pid, checkpoint, Options(), lambda _: None) as session:
            session.track()
            session.take_round()
            target.command("leave")
            target.command("write 100")
            session.track()
            assert session.take_round().pages_present > LEAST_PAGES_AFTER_EXEC
        dump_stopped(target, checkpoint)
        assert_equal(target, checkpoint)
        assert_unharmed(target)


# ---- exec ----


@pytest.mark.parametrize("mode", ["exec", "exec-thread"])
def test_exec_between_commands(mode: str, checkpoint: Path) -> None:
    with Target.spawn("special", mode) as target:
        pre_dump(target, checkpoint)
        pre_dump(target, checkpoint)
        target.command("exec")
        target.command("write 100")
        event = pre_dump(target, checkpoint)
        assert event["full"] is True
        assert event["full_reason"]
        assert number(event, "pages_parent") == 0
        target.command("exec")
        done = dump_stopped(target, checkpoint)
        assert done.rounds()[0]["full"] is True
        assert_equal(target, checkpoint)
        assert_unharmed(target)


@pytest.mark.parametrize("mode", ["exec", "exec-thread"])
def test_exec_in_the_middle_of_a_run(mode: str, tmp_path: Path, rng: random.Random) -> None:
    options = ("--leave-stopped", "--interval", "20ms", "--max-freeze", "0ms", "--max-rounds", "6")
    with Target.spawn("special", mode) as target:
        for turn in range(EXEC_RUNS):
            checkpoint = tmp_path / f"{turn}"
            with RunningPredump.start("run", "-p", target.pid, "-D", checkpoint, *options) as running:
                running.wait_for("attached")
                running.ends_within(rng.uniform(0, 0.25))
                target.send("exec")
                done = running.finish(20)
            if done.returncode in (0, NOT_CONVERGED):
                assert_equal(target, checkpoint, LEAST_PAGES_AFTER_EXEC)
            else:
                assert done.returncode in (GONE, UNTRACEABLE), f"turn {turn}\n{done}"
                assert done.result["message"], str(done)
            go_on(target)
            target.answer("exec")
            target.command("check")
            target.command("write 50")
        target.check()


# ---- fork and vfork ----


def test_fork_while_tracked(checkpoint: Path) -> None:
    """The child shares pages with its parent, and both write."""
    with Target.spawn("special", "fork") as target:
        pre_dump(target, checkpoint)
        target.command("child")
        pre_dump(target, checkpoint)
        target.command("end")
        target.command("child")
        dump_stopped(target, checkpoint)
        assert_equal(target, checkpoint)
        go_on(target)
        target.command("check")
        target.command("end")
        assert_unharmed(target)


def test_child_of_a_tracked_process_is_captured_right(checkpoint: Path, tmp_path: Path) -> None:
    """It has got copies of write-protected pages."""
    with Target.spawn("special", "fork") as target:
        pre_dump(target, checkpoint)
        child = int(target.command("child").split()[1])
        words = ("-p", child, "-D", tmp_path / "child", "--json")
        predump("pre-dump", *words)
        with stopped(target.pid):  # it writes to memory that both share
            predump("dump", *words, "--leave-stopped")
            with MemoryView(Checkpoint.open(tmp_path / "child"), None, child) as view:
                found = compare_view(child, view)
        assert not found.mismatches, str(found)
        dump_stopped(target, checkpoint)
        assert_equal(target, checkpoint)
        go_on(target)
        target.command("end")
        assert_unharmed(target)


def test_vfork_parent_is_refused_in_time(checkpoint: Path) -> None:
    with Target.spawn("special", "vfork") as target:
        target.command("child")
        for command in ("pre-dump", "dump"):
            since = time.monotonic()
            done = predump(command, "-p", target.pid, "-D", checkpoint, check=False)
            assert time.monotonic() - since < 4, "about two seconds, on a busy machine"
            assert done.returncode == UNTRACEABLE, str(done)
            assert str(target.pid) in done.stderr
            assert "state D" in done.stderr, str(done)
            poll_until(lambda: is_untouched(target.pid), 10, "the other thread to go on")
            target.command("check")
        target.command("end")
        rounds_and_dump(target, checkpoint)
        assert_unharmed(target)


# ---- a small stack ----


def test_small_stack_is_not_written_over(checkpoint: Path) -> None:
    with Target.spawn("special", "coroutine") as target:
        attach(target, ATTACHES)
        target.command("status")
        die_at_every_step(target)
        target.command("status")
        predump("run", "-p", target.pid, "-D", checkpoint, "--max-freeze", "60s")
        target.command("status")
        assert_unharmed(target)


# ---- a frozen cgroup ----


@contextmanager
def frozen_cgroup() -> Iterator[Path]:
    """A cgroup of its own; thawed and removed in the end, when its processes have ended."""
    with own_cgroup(unified_root()) as group:
        try:
            yield group
        finally:
            with contextlib.suppress(OSError):
                (group / "cgroup.freeze").write_text("0")


def freeze(group: Path, frozen: bool) -> None:
    (group / "cgroup.freeze").write_text(f"{int(frozen)}")
    events = group / "cgroup.events"
    poll_until(lambda: f"frozen {int(frozen)}" in events.read_text(), 10, "the cgroup to freeze or thaw")


def test_frozen_cgroup(checkpoint: Path) -> None:
    """Frozen by the cgroup above its own."""
    with frozen_cgroup() as group, contextlib.ExitStack() as stack:
        inner = group / "inner"
        inner.mkdir()
        stack.callback(lambda: poll_until(lambda: removed(inner), 10, "the inner cgroup to be empty"))
        stack.callback(lambda: freeze(group, False))
        target = stack.enter_context(Target.spawn("special", "plain"))
        try:
            (inner / "cgroup.procs").write_text(f"{target.pid}")
        except OSError as error:
            pytest.skip(f"cannot move a process into a cgroup: {error}")
        freeze(group, True)
        for command in ("pre-dump", "run"):
            done = predump(command, "-p", target.pid, "-D", checkpoint, expect=UNTRACEABLE)
            assert str(target.pid) in done.stderr
            assert "cgroup" in done.stderr, str(done)
        frozen_checkpoint = checkpoint.with_name("frozen")
        predump("dump", "-p", target.pid, "-D", frozen_checkpoint, "--no-pre-dump")
        predump("verify", frozen_checkpoint)
        freeze(group, False)
        target.command("check")
        rounds_and_dump(target, checkpoint)
        assert_unharmed(target)


# ---- pending signals ----


def test_pending_signals_come_exactly_once(checkpoint: Path) -> None:
    with Target.spawn("special", "pending") as target:
        pending = thread_fields(target.pid, "ShdPnd"), thread_fields(target.pid, "SigPnd")
        attach(target, ATTACHES)
        predump("run", "-p", target.pid, "-D", checkpoint, "--max-freeze", "60s")
        assert (thread_fields(target.pid, "ShdPnd"), thread_fields(target.pid, "SigPnd")) == pending
        target.command("take")
        die_at_every_step(target)
        target.command("take")
        assert_unharmed(target)


def test_signals_that_come_meanwhile_are_handled_exactly_once(tmp_path: Path) -> None:
    """Signals of the real-time kind queue up: each is a call of the handler of its own."""
    sent = 0
    with Target.spawn("special", "pending") as target:
        for turn in range(2):
            words = ("run", "-p", target.pid, "-D", tmp_path / f"{turn}", "--max-freeze", "60s")
            with RunningPredump.start(*words) as running:
                while not running.ends_within(0.005):
                    os.kill(target.pid, signal.SIGRTMIN + 4)
                    sent += 1
                assert running.finish().returncode == 0
        with DumpTarget(target.pid) as dump_target:
            maps = MapsParser().parse(read_maps(target.pid))
            for _ in range(SIGNALS):
                for _ in range(SIGNALS_PER_TURN):
                    os.kill(target.pid, signal.SIGRTMIN + 4)
                sent += SIGNALS_PER_TURN
                os.close(take_userfaultfd(dump_target, maps).uffd)
        for step in INJECT_STEPS:
            os.kill(target.pid, signal.SIGSTOP)  # so that it is pending when the call is injected
            poll_until(lambda: proc_state(target.pid) == "T", 10, "the target to stop")
            os.kill(target.pid, signal.SIGRTMIN + 4)
            sent += 1
            die_while_injecting(target.pid, step)
            os.kill(target.pid, signal.SIGCONT)
            target.command("handled")  # what answers has come home: before its first step it looks untouched, too
            poll_until(lambda: is_as_before(target.pid), 10, "the target to be as before")
        poll_until(lambda: int(target.command("handled").split()[1]) >= sent, 10, "all signals to be handled")
        assert target.command("handled") == f"ok {sent}"
        assert_unharmed(target)


HANDLES_USR1 = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: None)
print("ready", flush=True)
while True: signal.pause()
"""


def test_a_signal_that_comes_in_the_freeze_waits_in_a_process_left_stopped(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handler would begin on the stack, if not with its first instruction."""
    with Target.spawn(sys.executable, "-c", HANDLES_USR1) as target:
        before(Dumper, "_capture", lambda: os.kill(target.pid, signal.SIGUSR1), monkeypatch)
        with Session(target.pid, checkpoint, Options(), lambda _: None) as session:
            session.dump(AfterDump.LEAVE_STOPPED, pre_dump=True)
        found = compare(target.pid, checkpoint)
        assert not found.mismatches, str(found)
        go_on(target)
