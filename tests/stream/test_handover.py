"""A process moves: it runs at the destination or here, never at both, whoever dies and whatever is lost on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dumper.errors import HandoverFailed, HandoverUndecided
from dumper.events import Event as DumpEvent
from dumper.freeze import Freeze
from dumper.handover import Handover, HandoverOptions
from dumper.target import Target as LiveTarget
from formats.checkpoint import Checkpoint, RoundInfo
from formats.faults import VARIABLE, Point
from formats.manifest import RoundKind
from streams.errors import StreamBroken, StreamRefused
from streams.link import LinkOptions, connect, listen
from streams.questions import Build, Built, Go, Offer, Offered, Problem, Running, WantedFile, encode_answer
from streams.sender import Sender
from streams.takeover import RECORD_NAME, Takeover
from streams.transport import Buffer
from tests.alive import Alive, Lives
from tests.harness import build_targets, is_alive, is_stopped, is_untouched, poll_until, predump
from tests.link.peers import HASTY
from tests.link.proxy import proxied
from tests.stream.recorded import chain_of

PARTS = ("private", "heap", "stack")
UNDECIDED = 14
SIGKILLED = -9


@pytest.fixture
def lives() -> Iterator[Lives]:
    build_targets()
    with Lives() as found:
        yield found


@dataclass
class Move:
    """A target, and a checkpoint that it goes through to run beside us, with another pid."""

    target: Alive
    directory: Path
    checkpoint: Path

    def to(self, *options: object, die_at: str = "") -> str:
        """Where it goes: a receiver that restores, and may die."""
        death = (f"{VARIABLE}={die_at}",) if die_at else ()
        words = (
            "env",
            *death,
            sys.executable,
            "-m",
            "cli",
            "receive",
            "-D",
            self.checkpoint,
            "--restore",
            "--pid",
            "new",
        )
        return "exec:" + " ".join(map(str, (*words, *options)))

    def run(self, to: str, *options: object, expect: int = 0, die_at: str = "") -> str:
        """What the sender says."""
        env = {VARIABLE: die_at} if die_at else {}
        words = ("run", "-t", self.target.pid, "--to", to, "--kill", "--handover-timeout", "20s", *options)
        done = predump(*words, "--reconnect-timeout", "1s", expect=expect, env=env)
        return done.stdout + done.stderr

    def copies(self) -> list[int]:
        """Processes of the target but for the original."""
        return [pid for pid in processes_of(self.directory) if pid != self.target.pid]

    def end(self) -> None:
        for pid in processes_of(self.directory):
            os.kill(pid, signal.SIGKILL)


def processes_of(directory: Path) -> list[int]:
    """Those alive that were started for that directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(words) > 1 and words[0].endswith(b"alive-memory") and words[1] == os.fsencode(directory):
                found.append(int(entry.name))
    return [pid for pid in found if is_alive(pid)]


@pytest.fixture
def move(lives: Lives, tmp_path: Path) -> Iterator[Move]:
    directory = tmp_path / "target"
    made = Move(Alive(lives, directory, "alive-memory", *PARTS), directory, tmp_path / "checkpoint")
    try:
        yield made
    finally:
        made.end()


def test_a_process_moves(move: Move, tmp_path: Path) -> None:
    assert move.target.check() == {}
    hook = tmp_path / "hook"
    told = move.run(move.to("--exec-before-resume", f"'cat >{hook}'"))
    assert "It runs at" in told
    poll_until(lambda: not is_alive(move.target.pid), 5, "the original to end")
    (copy,) = move.copies()
    move.target.pid = copy
    assert move.target.check() == {}
    assert f'"pids": [{copy}]' in hook.read_text()


@pytest.mark.parametrize(
    ("point", "copies", "exit_code"),
    [
        (Point.TAKEOVER_BUILT, 0, 1),
        (Point.TAKEOVER_RECORDED, 0, UNDECIDED),
        (Point.TAKEOVER_RUNS, 1, UNDECIDED),
    ],
)
def test_the_receiver_dies(move: Move, point: Point, copies: int, exit_code: int) -> None:
    told = move.run(move.to(die_at=point), expect=exit_code)
    poll_until(lambda: len(move.copies()) == copies, 5, "what was built to end with it")
    if exit_code == UNDECIDED:
        poll_until(lambda: is_stopped(move.target.pid), 5, "the original to stand still")
        assert f"kill -CONT {move.target.pid}" in told
        os.kill(move.target.pid, signal.SIGKILL if copies else signal.SIGCONT)
    else:
        assert is_untouched(move.target.pid)
    if not copies:
        assert move.target.check() == {}


@pytest.mark.parametrize(
    ("point", "copies"),
    [(Point.HANDOVER_BUILT, 0), (Point.HANDOVER_HELD, 0), (Point.HANDOVER_SENT, 1), (Point.HANDOVER_HEARD, 1)],
)
def test_the_sender_dies(move: Move, point: Point, copies: int) -> None:
    move.run(move.to(), expect=SIGKILLED, die_at=point)
    poll_until(lambda: is_over(move), 20, "the receiver to end")
    poll_until(lambda: len(move.copies()) == copies, 5, "what was built to end with it")
    if point is Point.HANDOVER_BUILT:
        assert is_untouched(move.target.pid)
    else:
        poll_until(lambda: is_stopped(move.target.pid), 5, "the original to stand still")
    if not copies:
        os.kill(move.target.pid, signal.SIGCONT)
        assert move.target.check() == {}


def is_over(move: Move) -> bool:
    """Whether the receiver has ended: nobody has the checkpoint's lock any more, or traces a copy."""
    done = subprocess.run(
        ["pgrep", "-f", f"receive -D {move.checkpoint} "], capture_output=True, text=True, check=False
    )
    return not done.stdout.strip()


def test_a_command_that_fails_before_it_resumes(move: Move) -> None:
    told = move.run(move.to("--exec-before-resume", "false"), expect=1)
    assert "ended with exit code 1" in told
    assert not move.copies()
    assert is_untouched(move.target.pid)
    assert move.target.check() == {}


def test_a_sender_that_keeps_the_process_is_refused(move: Move) -> None:
    done = predump("run", "-t", move.target.pid, "--to", move.to(), expect=1)
    assert "--kill" in done.stderr
    assert is_untouched(move.target.pid)
    assert not move.copies()


# ---- each message lost ---------------------------------------------------------------------------------------------


class Script(Sender):
    """Says what a test wants in the place of a receiver: a record, None for no word, or an error."""

    def __init__(self, *answers: object) -> None:
        self.asked: list[object] = []
        self._answers = list(answers)

    def start(self, question: object) -> Script:  # type: ignore[override]
        self.asked.append(question)
        return self

    def wait(self, _answer_type: type, _timeout_s: float) -> object:
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


OFFERED, BUILT = Offered(restores=True), Built(build_ns=1)
RUNNING = Running(pids=[7], hook_ns=0, resume_ns=0)
GONE = Running(pids=[], hook_ns=0, resume_ns=0, is_known=False)
REFUSED, BROKEN = StreamRefused("not here"), StreamBroken("cut off")


def hand_over(pid: int, *answers: object, confirm: Callable[[], None] = lambda: None) -> Script:
    """With a receiver that says this."""
    script = Script(OFFERED, *answers)
    told: list[DumpEvent] = []
    handover = Handover(script, "there", HandoverOptions(timeout_s=1, patience_s=1))
    with LiveTarget(pid) as target, Freeze(target) as freeze:
        handover.ask_to_build(script)
        handover.take_place(freeze, told.append, 3, confirm)
        assert [event.type for event in told] == ["handover"]
    return script


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ((None,), HandoverFailed),
        ((REFUSED,), StreamRefused),
        ((BROKEN,), StreamBroken),
        ((BUILT, REFUSED), StreamRefused),
        ((BUILT, None, REFUSED), StreamRefused),
    ],
)
def test_the_original_goes_on(lives: Lives, tmp_path: Path, answers: tuple[object, ...], error: type) -> None:
    target = Alive(lives, tmp_path / "target", "alive-memory", *PARTS)
    with pytest.raises(error):
        hand_over(target.pid, *answers)
    assert is_untouched(target.pid)
    assert target.check() == {}


def test_what_is_known_late_stops_a_handover(lives: Lives, tmp_path: Path) -> None:
    def confirm() -> None:
        raise HandoverFailed("not so", hint="")

    target = Alive(lives, tmp_path / "target", "alive-memory", *PARTS)
    with pytest.raises(HandoverFailed, match="not so"):
        hand_over(target.pid, BUILT, confirm=confirm)  # GO would find no answer
    assert is_untouched(target.pid)
    assert target.check() == {}


@pytest.mark.parametrize(
    "answers",
    [(BUILT, BROKEN), (BUILT, None, None), (BUILT, None, BROKEN), (BUILT, GONE), (BUILT, KeyboardInterrupt())],
)
def test_nobody_can_tell(lives: Lives, tmp_path: Path, answers: tuple[object, ...]) -> None:
    target = Alive(lives, tmp_path / "target", "alive-memory", *PARTS)
    with pytest.raises(HandoverUndecided):
        hand_over(target.pid, *answers)
    poll_until(lambda: is_stopped(target.pid), 5, "it to stand still")
    os.kill(target.pid, signal.SIGCONT)
    assert target.check() == {}


def test_the_original_stands_still_until_it_is_killed(lives: Lives, tmp_path: Path) -> None:
    target = Alive(lives, tmp_path / "target", "alive-memory", *PARTS)
    script = hand_over(target.pid, BUILT, RUNNING)
    assert [type(one) for one in script.asked] == [Offer, Build, Go]
    poll_until(lambda: is_stopped(target.pid), 5, "it to stand still")


COUNTER = """
import signal, sys, threading, time
conts = alarms = 0
def cont(*_):
    global conts
    conts += 1
def alarm(*_):
    global alarms
    alarms += 1
signal.signal(signal.SIGCONT, cont)
signal.signal(signal.SIGALRM, alarm)
for _ in range(3):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    print(conts, alarms, flush=True)
"""


@pytest.mark.parametrize("was_stopped", [False, True])
def test_a_hold_that_is_taken_back_leaves_no_trace(was_stopped: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COUNTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            assert process.stdout.readline() == "ready\n"
            if was_stopped:
                os.kill(process.pid, signal.SIGSTOP)
                poll_until(lambda: is_stopped(process.pid), 5, "the stop")
            with LiveTarget(process.pid) as target, Freeze(target) as freeze:
                os.kill(process.pid, signal.SIGALRM)
                freeze.hold()
                freeze.take_hold_back()
            if was_stopped:
                poll_until(lambda: is_stopped(process.pid), 5, "the stop to show again")
                os.kill(process.pid, signal.SIGCONT)
            poll_until(lambda: is_untouched(process.pid), 5, "it to go on")
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{int(was_stopped)} 1\n"
        finally:
            process.kill()


@dataclass
class Fake:
    """Brings nothing back, but says what it was told."""

    told: list[str] = field(default_factory=list)
    is_alive: bool = False

    def problems(self, files: Sequence[WantedFile]) -> list[Problem]:
        del files
        return []

    def prepare(self, info: RoundInfo) -> None:
        self.told.append(f"prepare {info.number}")

    def complete(self, info: RoundInfo) -> list[str]:
        del info
        self.told.append("complete")
        return ["7"]

    def before_run(self) -> None:
        self.told.append("before-run")

    def run(self) -> list[int]:
        self.told.append("run")
        return [7]

    def abort(self) -> None:
        self.told.append("abort")

    def is_there(self, processes: Sequence[str]) -> bool:
        return self.is_alive and list(processes) == ["7"]


SESSION = b"s" * 16


@pytest.fixture
def dump_info(tmp_path: Path) -> RoundInfo:
    info = Checkpoint.open(chain_of(tmp_path / "images")).round()
    return replace(info, manifest=replace(info.manifest, kind=RoundKind.DUMP))


def built(directory: Path, fake: Fake, info: RoundInfo, timeout_s: float) -> Takeover:
    takeover = Takeover(directory, fake, timeout_s)
    assert takeover.answer(Offer(), SESSION, 2) == OFFERED
    takeover.round_arrived(info)
    assert isinstance(takeover.answer(Build(), SESSION, 9), Built)
    return takeover


def test_it_runs_at_the_word_and_once(tmp_path: Path, dump_info: RoundInfo) -> None:
    fake = Fake()
    with built(tmp_path, fake, dump_info, 60) as takeover:
        assert takeover.answer(Go(), SESSION, 10).pids == [7]  # type: ignore[union-attr]
    assert fake.told == ["complete", "before-run", "run"]
    fake.told.clear()
    path = tmp_path / RECORD_NAME
    record = json.loads(path.read_text())
    for has_run, is_there in ((True, False), (False, True), (False, False)):  # the next receiver gets the word again
        fake.is_alive = is_there
        path.write_text(json.dumps(record | {"has_run": has_run}))
        with Takeover(tmp_path, fake, 60) as again:
            again.answer(Build(), SESSION, 9)
            answer = again.answer(Go(), SESSION, 10)
            assert isinstance(answer, Running)
            assert answer.is_known == (has_run or is_there)
    assert fake.told == []


def test_the_word_for_what_an_earlier_receiver_had_built(tmp_path: Path, dump_info: RoundInfo) -> None:
    fake = Fake()
    built(tmp_path, fake, dump_info, 60).close()
    with Takeover(tmp_path, fake, 60) as again, pytest.raises(StreamRefused, match="by a receiver that has ended"):
        again.answer(Go(), SESSION, 10)
    assert "run" not in fake.told


def test_the_word_does_not_come_in_time(tmp_path: Path, dump_info: RoundInfo) -> None:
    fake = Fake()
    with built(tmp_path, fake, dump_info, 0) as takeover:
        assert takeover.left_s == 0
        takeover.expire()
        assert fake.told == ["complete", "abort"]
        with pytest.raises(StreamRefused, match="did not come"):
            takeover.answer(Go(), SESSION, 10)
    assert "run" not in fake.told


def test_a_late_word_is_refused_even_if_nobody_looked_at_the_time(tmp_path: Path, dump_info: RoundInfo) -> None:
    fake = Fake()
    with built(tmp_path, fake, dump_info, 0) as takeover, pytest.raises(StreamRefused):
        takeover.answer(Go(), SESSION, 10)
    assert "run" not in fake.told


def test_a_sender_that_goes_away_before_the_word(tmp_path: Path, dump_info: RoundInfo) -> None:
    fake = Fake()
    built(tmp_path, fake, dump_info, 60).close()
    assert fake.told == ["complete", "abort"]


def test_an_answer_that_was_lost_comes_over_the_next_connection(rng: random.Random) -> None:
    with (
        listen("127.0.0.1:0", LinkOptions(timing=HASTY), lambda _: 0) as listener,
        proxied(listener.address.port, rng) as proxy,
    ):
        outgoing = connect(f"tcp://127.0.0.1:{proxy.port}", LinkOptions(timing=HASTY))
        try:
            with listener.accept() as incoming:
                received: list[Buffer | None] = []
                taker = threading.Thread(target=lambda: received.append(incoming.receive()))
                taker.start()
                number = outgoing.send([b"question"])
                taker.join(10)
                assert received == [b"question"]
                proxy.is_silent = True  # it is said, and nobody hears it
                incoming.answer(number, encode_answer(RUNNING))
                assert outgoing.answer_to(number, 0.2) is None
                proxy.cut()
                proxy.is_silent = False
                assert outgoing.answer_to(number, 20) == encode_answer(RUNNING)
                incoming.acknowledge(number)
        finally:
            outgoing.close()


# ---- files ---------------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    from restorer.arrival import Arrival, BeforeResume  # noqa: PLC0415
    from restorer.restore import RestoreOptions  # noqa: PLC0415

    there = tmp_path / "there"
    there.write_bytes(b"x")
    arrival = Arrival(tmp_path, RestoreOptions(), lambda _: None, BeforeResume())
    wanted = [
        WantedFile(path=str(there)),
        WantedFile(path=str(there), size_bytes=5, mtime_ns=1),
        WantedFile(path=str(tmp_path / "missing")),
        WantedFile(path=f"{tmp_path}/../etc/passwd"),
    ]
    found = {one.file: (one.what, one.is_missing) for one in arrival.problems(wanted)}
    assert found == {
        1: ("has another size or time", False),
        2: ("is missing", True),
        3: ("has no plain path", False),
    }


@contextmanager
def reader(directory: Path, *, writes: bool) -> Iterator[int]:
    """A process that has a file of that directory open; its pid."""
    directory.mkdir()
    (directory / "input").write_text("content")
    with (
        (directory / "input").open("r+" if writes else "r") as file,
        subprocess.Popen(
            ["/bin/sleep", "1000"],
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process.pid
        finally:
            process.kill()


def host_without(directory: Path, checkpoint: Path, tmp_path: Path) -> str:
    """A receiver that finds the directory empty, and leaves what it has in the end in `found`."""
    script = tmp_path / "receiver"
    receive = f"{sys.executable} -m cli receive -D {checkpoint} --restore --pid new"
    script.write_text(
        f"mount -t tmpfs none {directory} && {receive}\ncode=$?\nls {directory} >{tmp_path}/found\nexit $code\n"
    )
    return f"exec:unshare -m sh {script}"


@pytest.mark.parametrize("options", [(), ("--copy-files",)])
def test_a_missing_file_is_named_before_the_freeze(tmp_path: Path, checkpoint: Path, options: tuple[str, ...]) -> None:
    directory = tmp_path / "files"
    with reader(directory, writes=bool(options)) as pid:  # what may be written is not copied
        to = host_without(directory, checkpoint, tmp_path)
        done = predump("run", "-t", pid, "--to", to, "--kill", *options, expect=1)
        assert f"{directory}/input is missing" in done.stderr
        assert not (checkpoint / "0002").exists()
        assert is_untouched(pid)
    assert (tmp_path / "found").read_text() == ""


def test_a_missing_file_is_copied(tmp_path: Path, checkpoint: Path) -> None:
    directory = tmp_path / "files"
    with reader(directory, writes=False) as pid:
        to = host_without(directory, checkpoint, tmp_path)
        done = predump("run", "-t", pid, "--to", to, "--kill", "--copy-files", "--json")
        (copy,) = done.result["handover"]["pids"]  # type: ignore[index,misc,call-overload]
        try:
            assert Path(f"/proc/{copy}/fd/0").read_text() == "content"
            assert (tmp_path / "found").read_text() == "input\n"
        finally:
            os.kill(copy, signal.SIGKILL)
