"""The commands over pipes, on real targets: what is received is the memory of the target, and it is never harmed."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from formats.check import verify
from formats.checkpoint import Checkpoint
from formats.manifest import RoundKind
from tests.harness import (
    COMMAND_S,
    PREDUMP_S,
    REPO,
    Event,
    Target,
    is_stopped,
    is_untouched,
    memory_target,
    parse_events,
    poll_until,
    predump,
)
from tests.oracle import compare
from tests.stream.recorded import tree_of

pytestmark = pytest.mark.usefixtures("targets")

PREDUMP = (sys.executable, "-m", "cli")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with memory_target(tmp_path) as started:
        yield started


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where it arrives."""
    return tmp_path / "received"


@dataclass(frozen=True)
class Side:
    """One end of a pipeline, with --json: its lines are on standard error."""

    returncode: int
    events: list[Event]

    @property
    def result(self) -> Event:
        return self.events[-1]

    def rounds(self) -> list[Event]:
        return [event for event in self.events if event["type"] == "round"]


def side_of(process: subprocess.Popen[bytes]) -> Side:
    assert process.stderr is not None
    _, stderr = process.communicate(timeout=PREDUMP_S)
    return Side(process.returncode, parse_events(stderr.decode()))


def piped(sender: tuple[object, ...], receiver: tuple[object, ...]) -> tuple[Side, Side]:
    """`predump SENDER | predump RECEIVER`, both with --json."""
    with started(*sender, "--json", stdout=subprocess.PIPE) as sending:
        with started(*receiver, "--json", stdin=sending.stdout) as receiving:
            assert sending.stdout is not None
            sending.stdout.close()
            received = side_of(receiving)
        sending.stdout = None
        return side_of(sending), received


@contextmanager
def started(
    *words: object, stdin: object = subprocess.DEVNULL, stdout: object = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """`predump WORDS`, killed by its own pid when the block ends."""
    process = subprocess.Popen(
        [*PREDUMP, *map(str, words)],
        cwd=REPO,
        stdin=stdin,  # type: ignore[arg-type]
        stdout=stdout,  # type: ignore[arg-type]
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(COMMAND_S)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def receiving(directory: Path, *options: str) -> str:
    """For --to: a receiver of our own."""
    return f"exec:{shlex.join([*PREDUMP, 'receive', '-D', str(directory), *options])}"


def assert_received(pid: int, directory: Path) -> None:
    """All rounds verify, and the last one is the memory of the stopped target."""
    checkpoint = Checkpoint.open(directory)
    assert checkpoint.round().manifest.kind is RoundKind.DUMP
    assert verify(checkpoint).findings == []
    found = compare(pid, directory)
    assert found.mismatches == [], str(found)
    assert found.pages_compared > 1000


def test_a_run_through_a_pipe_is_the_memory_of_the_target(target: Target, directory: Path) -> None:
    words = ("run", "-t", target.pid, "--to", "-", "--leave-stopped", "--max-rounds", 4)
    sent, received = piped(words, ("receive", "-D", directory))
    assert (sent.returncode, received.returncode) == (0, 0)
    assert is_stopped(target.pid)
    assert_received(target.pid, directory)
    assert [event["round"] for event in received.rounds()] == [event["round"] for event in sent.rounds()]
    assert received.result["rounds"] == len(sent.rounds())
    assert "checkpoint" not in sent.result
    assert sent.result["to"] == "-"
    assert received.result["checkpoint"] == str(directory)


def test_the_target_is_killed_once_the_receiver_has_the_dump(target: Target, directory: Path) -> None:
    done = predump(
        "run", "-p", target.pid, "--to", receiving(directory), "--kill", "--max-rounds", 2, expect=None, check=False
    )
    assert done.returncode in {0, 3}, str(done)
    assert target.wait() == -signal.SIGKILL
    checkpoint = Checkpoint.open(directory)
    assert checkpoint.round().manifest.kind is RoundKind.DUMP
    assert verify(checkpoint).findings == []


def test_kill_needs_a_way_back(target: Target) -> None:
    with started("run", "-p", target.pid, "--to", "-", "--kill", "--json", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""
        side = side_of(process)
    assert side.returncode == 2
    assert "exec:" in str(side.result["hint"])
    assert is_untouched(target.pid)
    assert [event["type"] for event in side.events] == ["error"]


def test_the_target_is_not_killed_where_the_receiver_refuses_the_dump(target: Target, directory: Path) -> None:
    words = ("dump", "-p", target.pid, "--to", receiving(directory, "--max-bytes", "100k"), "--kill", "--json")
    done = predump(*words, expect=1)
    assert "refuses" in str(done.result["message"])
    assert "--max-bytes" in str(done.result["hint"])
    assert is_untouched(target.pid)
    target.command("write 500 3")


def test_the_target_is_not_killed_where_the_receiver_dies_before_the_commit(target: Target, directory: Path) -> None:
    """It dies when all of the dump is written, at the last moment before it would be durable."""
    command = shlex.join([*PREDUMP, "receive", "-D", str(directory)])
    words = ("dump", "-p", target.pid, "--to", f"exec:env PREDUMP_DIE_AT=manifest-written:2 {command}", "--kill")
    done = predump(*words, expect=1)
    assert "has ended" in done.stderr
    assert is_untouched(target.pid)
    target.command("write 500 3")
    assert Checkpoint.open(directory).numbers == [1]


def test_stdout_into_nothing_that_reads(target: Target) -> None:
    """Whoever read the stream is gone: an error, and the target runs on."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with started("run", "-p", target.pid, "--to", "-", "--json", stdout=writer) as process:
            side = side_of(process)
    finally:
        os.close(writer)
    assert side.returncode == 1
    assert "has ended" in str(side.result["message"])
    assert is_untouched(target.pid)
    target.command("write 500 3")


def test_a_command_that_is_none(target: Target) -> None:
    done = predump("run", "-p", target.pid, "--to", "exec:/nowhere/at-all", expect=2)
    assert "/nowhere/at-all" in done.stderr
    assert is_untouched(target.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_nobody_reads(target: Target, number: signal.Signals) -> None:
    """The pipe is full and stays so: the command still ends when it is told to."""
    reader, writer = os.pipe()
    try:
        with started("run", "-p", target.pid, "--to", "-", "--json", stdout=writer) as process:
            poll_until(lambda: is_full(writer), 20, "the pipe to be full")
            process.send_signal(number)
            side = side_of(process)
    finally:
        os.close(reader)
        os.close(writer)
    assert side.returncode == 130
    assert is_untouched(target.pid)
    target.command("write 500 3")


def is_full(fd: int) -> bool:
    """Whether a pipe takes no page more."""
    return not select.select([], [fd], [], 0)[1]


def test_the_receiver_says_no_when_its_sender_is_killed(target: Target, directory: Path) -> None:
    """It removes the round that was not complete, and says so; those before are whole."""
    with started("run", "-p", target.pid, "--to", "-", "--interval", "600", stdout=subprocess.PIPE) as sender:
        with started("receive", "-D", directory, "--json", stdin=sender.stdout) as process:
            poll_until((directory / "0001" / "manifest.json").exists, 20, "the first round to be there")
            sender.kill()
            sender.wait()
            assert sender.stdout is not None
            sender.stdout.close()
            side = side_of(process)
        sender.stdout = None
    assert side.returncode == 1
    assert "ended before the stream was complete" in str(side.result["message"])
    assert Checkpoint.open(directory).numbers == [1]
    assert verify(Checkpoint.open(directory)).findings == []
    assert is_untouched(target.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_receiver_that_is_interrupted_leaves_whole_rounds(
    target: Target, directory: Path, number: signal.Signals
) -> None:
    """Its sender notices, and lets go of the target."""
    words = ("run", "-p", target.pid, "--to", "-", "--interval", "1", "--max-freeze", "1us", "--timeout", "600")
    with started(*words, "--json", stdout=subprocess.PIPE) as sender:
        with started("receive", "-D", directory, "--json", stdin=sender.stdout) as process:
            assert sender.stdout is not None
            sender.stdout.close()
            poll_until((directory / "0002").exists, 60, "the second round to begin: the first is complete")
            process.send_signal(number)
            side = side_of(process)
        sender.stdout = None
        sent = side_of(sender)
    assert side.returncode == 130
    assert sent.returncode == 1
    assert Checkpoint.open(directory).numbers[0] == 1
    assert verify(Checkpoint.open(directory)).findings == []
    assert is_untouched(target.pid)
    target.command("write 500 3")


def test_stdin_that_is_no_stream(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"no stream " * 100)
    with file.open("rb") as stdin, started("receive", "-D", directory, "--json", stdin=stdin) as process:
        side = side_of(process)
    assert side.returncode == 20
    assert list(directory.iterdir()) == []


def test_a_stream_may_rest_in_a_file(target: Target, tmp_path: Path, directory: Path) -> None:
    file = tmp_path / "stream"
    with (
        file.open("wb") as out,
        started("dump", "-p", target.pid, "--to", "-", "--leave-stopped", stdout=out) as process,
    ):
        assert process.wait(PREDUMP_S) == 0
    with file.open("rb") as stdin, started("receive", "-D", directory, stdin=stdin) as process:
        assert process.wait(PREDUMP_S) == 0
    assert_received(target.pid, directory)


# ---- send ----


def test_a_checkpoint_is_sent_as_it_is(target: Target, tmp_path: Path, directory: Path) -> None:
    sent = tmp_path / "sent"
    predump("pre-dump", "-p", target.pid, "-D", sent)
    target.command("write 500 3")
    predump("pre-dump", "-p", target.pid, "-D", sent)
    one, other = piped(("send", sent), ("receive", "-D", directory))
    assert (one.returncode, other.returncode) == (0, 0)
    assert tree_of(directory) == tree_of(sent)
    predump("dump", "-p", target.pid, "-D", sent, "--leave-stopped")
    one, other = piped(("send", sent, "--from", 3), ("receive", "-D", directory))
    assert one.result["rounds"] == other.result["rounds"] == 1
    assert tree_of(directory) == tree_of(sent)
    assert_received(target.pid, directory)


def test_rounds_that_are_added_are_sent_as_they_come(target: Target, tmp_path: Path, directory: Path) -> None:
    sent = tmp_path / "sent"
    predump("pre-dump", "-p", target.pid, "-D", sent)
    with started("send", sent, "--follow", "--to", receiving(directory), "--json", stdout=subprocess.PIPE) as process:
        poll_until((directory / "0001" / "manifest.json").exists, 20, "the first round to be there")
        predump("pre-dump", "-p", target.pid, "-D", sent)
        predump("dump", "-p", target.pid, "-D", sent)
        stdout, _ = process.communicate(timeout=PREDUMP_S)
    assert process.returncode == 0
    assert [json.loads(line).get("round") for line in stdout.splitlines()] == [1, 2, 3, None]
    assert tree_of(directory) == tree_of(sent)


def test_what_is_damaged_is_not_sent(target: Target, tmp_path: Path, directory: Path) -> None:
    sent = tmp_path / "sent"
    predump("pre-dump", "-p", target.pid, "-D", sent)
    pages = sent / "0001" / f"pages-{target.pid}.zst"
    data = bytearray(pages.read_bytes())
    data[len(data) // 2] ^= 1
    pages.write_bytes(data)
    one, other = piped(("send", sent), ("receive", "-D", directory))
    assert (one.returncode, other.returncode) == (20, 1)
    assert str(pages) in str(one.result["message"])
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("words", [("--from", "7"), ("--to", "nowhere")])
def test_wrong_use_of_send(target: Target, tmp_path: Path, words: tuple[str, ...]) -> None:
    sent = tmp_path / "sent"
    predump("pre-dump", "-p", target.pid, "-D", sent)
    done = predump("send", sent, *words, expect=2)
    assert words[1] in done.stderr


@pytest.mark.parametrize("words", [(), ("--to", "-", "-D", "somewhere")])
def test_one_place_must_be_named(words: tuple[str, ...]) -> None:
    done = predump("run", "-p", os.getpid(), *words, expect=2)
    assert "-D DIR or --to" in done.stderr
    with suppress(FileNotFoundError):
        (REPO / "somewhere").rmdir()
        raise AssertionError("a directory was made")


# ---- targets with a seccomp filter: a child takes their dump, and sends it through its parent ----


@pytest.mark.parametrize("mode", ["seccomp-errno", "seccomp-kill"])
def test_a_target_with_a_filter_is_sent_by_a_child(mode: str, directory: Path) -> None:
    with Target.spawn("special", mode) as target:
        sent, received = piped(("run", "-p", target.pid, "--to", "-", "--leave-stopped"), ("receive", "-D", directory))
        assert (sent.returncode, received.returncode) == (0, 0), sent.result
        checkpoint = Checkpoint.open(directory)
        assert checkpoint.round().manifest.kind is RoundKind.DUMP
        assert verify(checkpoint).findings == []
        assert compare(target.pid, directory).mismatches == []


def test_a_target_with_a_filter_is_killed_when_its_dump_has_arrived(directory: Path) -> None:
    with Target.spawn("special", "seccomp-errno") as target:
        predump("dump", "-p", target.pid, "--to", receiving(directory), "--kill")
        assert target.wait() == -signal.SIGKILL
    assert Checkpoint.open(directory).round().manifest.kind is RoundKind.DUMP


def test_a_target_with_a_filter_is_not_killed_where_the_receiver_refuses(directory: Path) -> None:
    with Target.spawn("special", "seccomp-errno") as target:
        words = ("dump", "-p", target.pid, "--to", receiving(directory, "--max-bytes", "4k"), "--kill", "--json")
        done = predump(*words, "--no-pre-dump", expect=1)
        assert "refuses" in str(done.result["message"])
        assert is_untouched(target.pid)


# ---- over a link: the receiver is killed, and started again ----


@contextmanager
def listening(directory: Path, port: int = 0, die_at: str = "") -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`predump receive --listen` on loopback, and its port."""
    process = subprocess.Popen(
        [*PREDUMP, "receive", "-D", str(directory), "--listen", f"127.0.0.1:{port}", "--json"],
        cwd=REPO,
        env={**os.environ, "PREDUMP_DIE_AT": die_at},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        yield process, int(json.loads(process.stdout.readline())["port"])
    finally:
        process.kill()
        process.wait(COMMAND_S)
        process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.parametrize("die_at", ["received:5", "acknowledged:7", "manifest-written", "renewed:2"])
def test_a_receiver_that_is_killed_and_started_again_has_it_all(target: Target, directory: Path, die_at: str) -> None:
    """The run notices an outage, and no more."""
    words = ("run", "-p", target.pid, "--leave-stopped", "--max-rounds", 2)
    with (
        listening(directory, die_at=die_at) as (first, port),
        started(*words, "--to", f"tcp://127.0.0.1:{port}", "--json", stdout=subprocess.PIPE) as process,
    ):
        assert first.wait(COMMAND_S) == -signal.SIGKILL
        with listening(directory, port) as (second, _):
            stdout, _ = process.communicate(timeout=PREDUMP_S)
            assert second.wait(COMMAND_S) == 0
    events = parse_events(stdout.decode())
    assert process.returncode in {0, 3}, events[-1]
    rounds = [event for event in events if event["type"] == "round"]
    assert [event["full"] for event in rounds] == [True, *[False] * (len(rounds) - 1)], "no round was begun anew"
    assert_received(target.pid, directory)
    assert not (directory / "receive.journal").exists()


def test_a_target_with_a_filter_goes_over_a_link(directory: Path) -> None:
    """The threads and connections of the link are not there in the child."""
    with Target.spawn("special", "seccomp-kill") as target, listening(directory) as (receiver, port):
        predump("run", "-p", target.pid, "--to", f"tcp://127.0.0.1:{port}", "--leave-stopped", "--max-freeze", "10s")
        assert receiver.wait(COMMAND_S) == 0
        assert verify(Checkpoint.open(directory)).findings == []
        assert compare(target.pid, directory).mismatches == []
