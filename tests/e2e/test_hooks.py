"""--exec-before-freeze, --exec-after-freeze and --exec-after-dump: whatever they do, no target stays frozen."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dumper.dump import AfterDump, Withdrawn
from dumper.hooks import HookCommands
from dumper.rounds import Options
from dumper.session import Session
from dumper.shellcommand import run_command
from formats.check import verify
from formats.checkpoint import Checkpoint
from formats.manifest import RoundKind
from tests.harness import Predump, RunningPredump, Target, is_untouched, poll_until, predump

pytestmark = pytest.mark.usefixtures("targets")

HOME_S = 20
QUIESCED = """#!{python}
import ctypes, os, signal, sys
buffer = ctypes.create_string_buffer(b"busy....", 8)
def quiesce(*_):
    buffer.raw = b"quiesced"
    open(sys.argv[1], "w").close()
signal.signal(signal.SIGUSR1, quiesce)
print("ready", hex(ctypes.addressof(buffer)), flush=True)
while True:
    signal.pause()
"""


class Notes:
    """What hooks have written down."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def taken_by(self, hook: str) -> str:
        """The command that appends its standard input to a file."""
        return f"cat >> {self._directory}/{hook}; date +%s%N >> {self._directory}/{hook}-times"

    def of(self, hook: str) -> list[dict[str, object]]:
        """What the hook got on its standard input, each time."""
        path = self._directory / hook
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def times(self, hook: str) -> list[int]:
        """When it ran, in ns."""
        return [int(line) for line in (self._directory / f"{hook}-times").read_text().split()]


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path)


@pytest.fixture
def target() -> Iterator[Target]:
    """In the end it runs on, if it was not killed, traced by nobody."""
    with Target.spawn("idle", 2, 4, 500) as running:
        yield running
        if running.alive():
            assert is_untouched(running.pid)
            running.command("check")


def dump(target: Target, checkpoint: Path, *words: object, command: str = "dump", expect: int = 0) -> Predump:
    return predump(command, "-p", target.pid, "-D", checkpoint, *words, "--json", expect=expect)


def kinds(checkpoint: Path) -> list[RoundKind]:
    """Of the rounds that are there, which are sound."""
    if not list(checkpoint.glob("*/manifest.json")):
        return []
    opened = Checkpoint.open(checkpoint)
    assert verify(opened).exit_code == 0
    return [opened.round(number).manifest.kind for number in opened.numbers]


def hooks_of(done: Predump) -> list[tuple[object, object]]:
    return [(event["hook"], event["ok"]) for event in done.events if event["type"] == "hook"]


@pytest.mark.parametrize("command", ["dump", "dump --leave-stopped", "dump --kill", "run --max-freeze 10s", "tree"])
def test_each_runs_once_in_order_with_its_round(command: str, target: Target, checkpoint: Path, notes: Notes) -> None:
    name, *options = command.replace("tree", "dump").split()
    words = [f"--exec-{hook}={notes.taken_by(hook)}" for hook in ("before-freeze", "after-freeze", "after-dump")]
    which = "-t" if command == "tree" else "-p"
    done = predump(name, which, target.pid, "-D", checkpoint, *options, *words, "--json")
    if "--leave-stopped" in options:
        os.kill(target.pid, signal.SIGCONT)
    elif "--kill" in options:
        target.wait()
    assert hooks_of(done) == [("before-freeze", True), ("after-freeze", True), ("after-dump", True)]
    assert done.result["hooks_failed"] == []
    (before,), (thawed,), (dumped,) = (notes.of(hook) for hook in ("before-freeze", "after-freeze", "after-dump"))
    figures = done.rounds()[-1]
    known = {"pid": target.pid, "round": figures["round"], "kind": "dump"}
    assert before == {"hook": "before-freeze", **known}
    assert thawed == {"hook": "after-freeze", **known, "captured": True, "frozen_ns": thawed["frozen_ns"]}
    assert dumped["destination"] == str(checkpoint)
    assert {key: dumped[key] for key in figures if key != "command"} == {
        key: value for key, value in figures.items() if key != "command"
    }
    assert notes.times("before-freeze") < notes.times("after-freeze") < notes.times("after-dump")
    types = [event.get("hook", event["type"]) for event in done.events]
    assert types.index("before-freeze") < types.index("micro-round") < types.index("after-freeze")


def test_what_the_first_one_changes_is_in_the_dump(checkpoint: Path, tmp_path: Path) -> None:
    program, done_file = tmp_path / "program", tmp_path / "quiesced"
    program.write_text(QUIESCED.format(python=sys.executable))
    program.chmod(0o700)
    with Target.spawn(str(program), done_file) as target:
        predump("pre-dump", "-p", target.pid, "-D", checkpoint)
        command = f"kill -USR1 {target.pid}; while [ ! -e {done_file} ]; do sleep 0.01; done"
        dump(target, checkpoint, "--exec-before-freeze", command)
        words = ("read", checkpoint, target.ready.split()[1], "8", "--raw")
        assert predump(*words, "--round", "1").stdout == "busy...."
        assert predump(*words).stdout == "quiesced"


def test_a_failing_one_before_the_freeze_ends_it(target: Target, checkpoint: Path, notes: Notes) -> None:
    dump(target, checkpoint, command="pre-dump")
    words = ("--exec-before-freeze", "exit 3", "--exec-after-freeze", notes.taken_by("after"))
    done = dump(target, checkpoint, *words, expect=1)
    assert done.result["message"] == "the command to run before the freeze ended with exit code 3: exit 3"
    assert done.result["hook"] == "before-freeze"
    assert [note["captured"] for note in notes.of("after")] == [False]
    assert kinds(checkpoint) == [RoundKind.PRE_DUMP]
    dump(target, checkpoint)
    assert kinds(checkpoint)[-1] is RoundKind.DUMP


@pytest.mark.parametrize("hook", ["before-freeze", "after-freeze", "after-dump"])
def test_a_hanging_one_is_ended_with_all_that_it_began(
    hook: str, target: Target, checkpoint: Path, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    hanging = f"sleep 1000 & trap '' TERM; echo $! $$ > {pids}; while true; do sleep 1000; done"
    done = dump(
        target,
        checkpoint,
        *(f"--exec-before-freeze={'true' if hook != 'before-freeze' else hanging}", "--exec-timeout", "300ms"),
        *((f"--exec-{hook}", hanging) if hook != "before-freeze" else ()),
        expect=1,
    )
    assert "did not end within 0.3 s, and was ended" in str(done.events)
    for pid in pids.read_text().split():
        poll_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), HOME_S, f"{pid} to be gone")  # type: ignore[misc]
    if hook == "before-freeze":
        assert done.result["type"] == "error"
        assert RoundKind.DUMP not in kinds(checkpoint)
    else:
        assert done.result["hooks_failed"] == [hook]
        assert kinds(checkpoint)[-1] is RoundKind.DUMP


@pytest.mark.parametrize(("command", "hook"), [("dump", "after-freeze"), ("run --max-freeze 10s", "after-dump")])
def test_a_failing_one_after_the_freeze_is_told(command: str, hook: str, target: Target, checkpoint: Path) -> None:
    name, *options = command.split()
    done = dump(target, checkpoint, *options, f"--exec-{hook}", "exit 7", command=name, expect=1)
    assert done.result["hooks_failed"] == [hook]
    assert done.result["exit_code"] == 1
    assert hooks_of(done) == [(hook, False)]
    assert kinds(checkpoint)[-1] is RoundKind.DUMP
    if name == "dump":
        plain = predump(name, "-p", target.pid, "-D", checkpoint, f"--exec-{hook}", "exit 7", expect=1)
        assert "the command to run after the freeze ended with exit code 7: exit 7" in plain.stderr


def test_one_that_kills_the_target_before_the_freeze(target: Target, checkpoint: Path, notes: Notes) -> None:
    words = ("--exec-before-freeze", f"kill -9 {target.pid}", "--exec-after-freeze", notes.taken_by("after"))
    done = dump(target, checkpoint, *words, expect=10)
    assert done.result["pid"] == target.pid
    assert [note["captured"] for note in notes.of("after")] == [False]
    assert RoundKind.DUMP not in kinds(checkpoint)


def test_one_that_kills_the_target_after_the_freeze(target: Target, checkpoint: Path) -> None:
    dump(target, checkpoint, "--exec-after-freeze", f"kill -9 {target.pid}", "--exec-after-dump", "true")
    assert kinds(checkpoint)[-1] is RoundKind.DUMP


@pytest.mark.parametrize("hook", ["before-freeze", "after-freeze", "after-dump"])
def test_one_that_kills_predump(hook: str, target: Target, checkpoint: Path, notes: Notes) -> None:
    command = "kill -9 $PPID"
    words = [f"--exec-{hook}", command]
    if hook == "before-freeze":
        words += ["--exec-after-freeze", notes.taken_by("after-freeze")]
    done = predump("dump", "-p", target.pid, "-D", checkpoint, *words, check=False)
    assert done.returncode == -signal.SIGKILL
    if hook == "before-freeze":
        poll_until(lambda: len(notes.of("after-freeze")) == 1, HOME_S, "the command after the freeze to run")
        assert notes.of("after-freeze")[0]["captured"] is False
    poll_until(lambda: is_untouched(target.pid), HOME_S, "the target to go on")
    poll_until(lambda: dumped_unless_busy(target, checkpoint), HOME_S, "a dump")
    assert kinds(checkpoint)[-1] is RoundKind.DUMP


def dumped_unless_busy(target: Target, checkpoint: Path) -> bool:
    done = predump("dump", "-p", target.pid, "-D", checkpoint, check=False)
    assert done.returncode == 0 or "another predump" in done.stderr, str(done)
    return done.returncode == 0


def test_the_guard_is_killed_and_the_command_runs_all_the_same(
    target: Target, checkpoint: Path, notes: Notes, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    after = f"[ -e {once} ] || {{ touch {once}; kill -9 $PPID; exit 0; }}; {notes.taken_by('after')}"
    done = dump(target, checkpoint, "--exec-before-freeze", "true", "--exec-after-freeze", after)
    assert done.result["hooks_failed"] == []
    assert [note["captured"] for note in notes.of("after")] == [True]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_predump_is_interrupted_while_one_runs(
    number: signal.Signals, target: Target, checkpoint: Path, notes: Notes, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    hanging = f"echo $$ > {pid_file}; exec sleep 1000"
    words = ("--exec-before-freeze", hanging, "--exec-after-freeze", notes.taken_by("after"), "--exec-timeout", "60s")
    with RunningPredump.start("dump", "-p", target.pid, "-D", checkpoint, *words) as running:
        poll_until(lambda: pid_file.exists() and pid_file.read_text() != "", HOME_S, "the command to run")
        running.process.send_signal(number)
        assert running.process.wait(HOME_S) == 130
    pid = pid_file.read_text().strip()
    poll_until(lambda: not Path(f"/proc/{pid}").exists(), HOME_S, "the command to be gone")
    assert [note["captured"] for note in notes.of("after")] == [False]
    assert RoundKind.DUMP not in kinds(checkpoint)


def test_a_target_with_a_filter(checkpoint: Path, notes: Notes) -> None:
    """A process of its own takes the dump."""
    words = [f"--exec-{hook}={notes.taken_by(hook)}" for hook in ("before-freeze", "after-freeze", "after-dump")]
    with Target.spawn("special", "seccomp-kill") as target:
        done = dump(target, checkpoint, *words)
        assert [hook for hook, _ in hooks_of(done)] == ["before-freeze", "after-freeze", "after-dump"]
        assert all(len(notes.of(hook)) == 1 for hook in ("before-freeze", "after-freeze", "after-dump"))
        done = dump(target, checkpoint, "--exec-after-freeze", "exit 2", expect=1)
        assert done.result["hooks_failed"] == ["after-freeze"]
        assert is_untouched(target.pid)


def test_a_withdrawn_dump_has_its_commands_too(target: Target, checkpoint: Path, notes: Notes) -> None:
    """Whenever the one before the freeze has run, so does the one after it."""
    commands = HookCommands(notes.taken_by("before"), notes.taken_by("after"), notes.taken_by("after-dump"))
    with Session(target.pid, checkpoint, Options(staging_bytes=1 << 20, hooks=commands), lambda _: None) as session:
        session.track()
        session.take_round()
        assert isinstance(session.try_dump(AfterDump.LEAVE_RUNNING, lambda: None, 1.0), Withdrawn)
        assert [note["captured"] for note in notes.of("after")] == [False]
        session.take_dump(AfterDump.LEAVE_RUNNING)
    assert [note["captured"] for note in notes.of("after")] == [False, True]
    assert len(notes.of("before")) == 2
    assert len(notes.of("after-dump")) == 1


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("true", ""),
        ("exec 0<&-; true", ""),
        ("exit 9", "ended with exit code 9"),
        ("kill -KILL $$", "was ended by signal 9"),
        ("kill -RTMIN+1 $$", f"was ended by signal {signal.SIGRTMIN + 1}"),
        ("no-such-command-of-anybody 2>&-", "ended with exit code 127"),
        ("sleep 100", "did not end within 0.2 s, and was ended"),
    ],
)
def test_commands(command: str, problem: str, tmp_path: Path) -> None:
    assert run_command(command, "x" * 200_000, 0.2 if "sleep" in command else HOME_S, tmp_path) == problem


def test_where_and_with_what_a_command_runs(tmp_path: Path) -> None:
    assert run_command("pwd > here; cat > text; ls -l /proc/self/fd > fds", "text", HOME_S, tmp_path) == ""
    assert (tmp_path / "here").read_text().strip() == str(tmp_path)
    assert (tmp_path / "text").read_text() == "text"
    assert not re.search("userfaultfd|pidfd|socket", (tmp_path / "fds").read_text())


def test_what_a_command_leaves_behind_by_itself_goes_on(tmp_path: Path) -> None:
    since = time.monotonic()
    assert run_command("sleep 100 & echo $! > pid", "", HOME_S, tmp_path) == ""
    assert time.monotonic() - since < HOME_S
    pid = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{pid}").exists()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_an_interrupt_at_the_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs before its start has returned."""
    popen = subprocess.Popen

    def start(*words: object, **named: object) -> object:
        process = popen(*words, **named)  # type: ignore[call-overload]
        poll_until((tmp_path / "begun").exists, HOME_S, "the command to run")
        os.kill(os.getpid(), signal.SIGINT)
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        run_command("echo $$ > pid; touch begun; exec sleep 1000", "", HOME_S, tmp_path)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    assert run_command("true", "", HOME_S, tmp_path / "gone").startswith("could not be started: ")


def test_what_stops_a_dump_is_said_once(target: Target, checkpoint: Path) -> None:
    done = predump("dump", "-p", target.pid, "-D", checkpoint, "--exec-before-freeze", "exit 3", expect=1)
    assert done.stderr.count("the command to run before the freeze ended with exit code 3") == 1
