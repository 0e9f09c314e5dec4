"""The recipes of docs/pipelines.md on real targets, each run as it stands there but for the words in `put_in`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from formats.chain import Checkpoint
from formats.manifest import RoundKind
from tests.docs.pages import Shell, blocks, put_in
from tests.harness import (
    COMMAND_S,
    PREDUMP_S,
    is_stopped,
    is_untouched,
    live_tree,
    poll_until,
    predump,
    stopped,
    tracked_vmas,
)
from tests.netns import Link
from tests.oracle import compare
from tests.redisserver import ask, client, info, needs_redis, redis_server

BLOCKS = blocks("pipelines.md")
KEPT = 1
FEW = {"--keep 10": f"--keep {KEPT}"}
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")

PROGRAM = "table = {}\nprint('ready', flush=True)\nwhile True: table[len(table) % 20000] = bytearray(500)"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Where recipes run; `ssh HOST COMMAND ...` does as ssh(1) does, on this host."""
    shell = Shell(tmp_path)
    shell.add("ssh", '[ "$1" = backup.example.org ] || exit 255\nshift\nexec sh -c "$*"\n')
    return shell


@contextmanager
def database(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """redis-server with some data and a small load."""
    with redis_server(directory, 8) as (server, port), client(port):
        yield server


@pytest.fixture
def python() -> Iterator[subprocess.Popen[bytes]]:
    """CPython that keeps writing."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


@contextmanager
def started(shell: Shell, block: str, *prefix: str) -> Iterator[subprocess.Popen[str]]:
    """A recipe under way, and ended if it has not ended by itself."""
    with shell.start(block, *prefix) as process:
        try:
            yield process
        finally:
            process.kill()


def last_round(checkpoint: Path) -> int:
    return max((int(path.parent.name) for path in checkpoint.glob("[0-9]*/manifest.json")), default=0)


def check_equal(pid: int, checkpoint: Path) -> None:
    """A checkpoint that is whole, whose last round is a dump, equal to the stopped process page by page."""
    predump("verify", checkpoint)
    assert Checkpoint.open(checkpoint).round().manifest.kind is RoundKind.DUMP
    found = compare(pid, checkpoint)
    assert found.pages_compared
    assert not found.mismatches, str(found)


def test_every_recipe_is_run() -> None:
    text = Path(__file__).read_text()
    assert [name for name in BLOCKS if f'BLOCKS["{name}"]' not in text] == []


@contextmanager
def paused(loop: subprocess.Popen[str]) -> Iterator[None]:
    """A loop between two commands."""
    os.kill(loop.pid, signal.SIGSTOP)
    try:
        poll_until(lambda: live_tree(loop.pid) == [loop.pid], PREDUMP_S, "the command that is under way to end")
        yield
    finally:
        os.kill(loop.pid, signal.SIGCONT)


def end_with_target(loop: subprocess.Popen[str], target: subprocess.Popen[bytes]) -> None:
    target.kill()
    target.wait()
    assert loop.wait(PREDUMP_S) == 10


@needs_redis
def test_a_checkpoint_every_minute(shell: Shell, checkpoint: Path) -> None:
    with database(shell.directory) as server:
        words = {"4711": server.pid, "/var/tmp/ck": checkpoint, "sleep 60": "sleep 0.01", **FEW}
        with started(shell, put_in(BLOCKS["every-minute"], words)) as loop:
            poll_until(lambda: last_round(checkpoint) > KEPT + 2, PREDUMP_S, "more rounds than are kept")
            with stopped(server.pid):
                seen = last_round(checkpoint)
                poll_until(lambda: last_round(checkpoint) > seen + 1, PREDUMP_S, "a dump of what stands still")
                with paused(loop):
                    check_equal(server.pid, checkpoint)
                    check_rounds(checkpoint, RoundKind.DUMP)
            end_with_target(loop, server)


def test_rounds_without_a_freeze_every_minute(shell: Shell, checkpoint: Path, python: subprocess.Popen[bytes]) -> None:
    words = {"4711": python.pid, "/var/tmp/ck": checkpoint, "sleep 60": "sleep 0.01", **FEW}
    with started(shell, put_in(BLOCKS["pre-dumps"], words)) as loop:
        poll_until(lambda: last_round(checkpoint) > KEPT + 2, PREDUMP_S, "more rounds than are kept")
        with paused(loop), stopped(python.pid):
            check_rounds(checkpoint, RoundKind.PRE_DUMP)
            dumped = predump("dump", "-t", python.pid, "-D", checkpoint, "--json").result
            assert not dumped["full"]
            check_equal(python.pid, checkpoint)
        end_with_target(loop, python)


def check_rounds(checkpoint: Path, kind: RoundKind) -> None:
    """One round for all that came before, and those that are kept; the last one may be still to be flattened."""
    rounds = list(Checkpoint.open(checkpoint).rounds)
    assert len(rounds) in (KEPT + 1, KEPT + 2)
    assert {info.manifest.kind for info in rounds} == {kind}
    assert [info.manifest.full for info in rounds] == [True] + [False] * (len(rounds) - 1)


@needs_jq
def test_look_first_then_decide(shell: Shell, checkpoint: Path, python: subprocess.Popen[bytes]) -> None:
    words = {"4711": python.pid, "/var/tmp/ck": checkpoint, "10s": "1s", "20ms": "10s"}
    said = shell.run(put_in(BLOCKS["decide"], words))
    assert "the predicted freeze fits" in said.splitlines()[0], said
    predump("verify", checkpoint)
    shutil.rmtree(checkpoint)

    shell.run(put_in(BLOCKS["decide"], words | {"20ms": "1us"}))
    assert not checkpoint.exists(), "what would be frozen for longer than planned is not dumped"
    assert is_untouched(python.pid)
    assert not tracked_vmas(python.pid)


@pytest.mark.parametrize(("max_freeze", "rounds", "said"), [("10s", 30, "dumped"), ("1us", 3, "called off")])
def test_within_a_budget(
    shell: Shell, checkpoint: Path, python: subprocess.Popen[bytes], max_freeze: str, rounds: int, said: str
) -> None:
    words = {"4711": python.pid, "/var/tmp/ck": checkpoint}
    words |= {"--max-freeze 20ms": f"--max-freeze {max_freeze}", "--max-rounds 30": f"--max-rounds {rounds}"}
    words |= {"--interval 1s": "--interval 0.01s"}
    assert said in shell.run(put_in(BLOCKS["budget"], words))
    assert is_untouched(python.pid)
    assert not tracked_vmas(python.pid)
    kind = RoundKind.DUMP if said == "dumped" else RoundKind.PRE_DUMP
    assert Checkpoint.open(checkpoint).round().manifest.kind is kind


@needs_redis
@needs_jq
def test_with_a_database_that_holds_its_breath(shell: Shell, checkpoint: Path) -> None:
    with redis_server(shell.directory, 8) as (server, port), client(port):
        words = {"4711": server.pid, "/var/tmp/ck": checkpoint, "6379": port}
        shell.run(put_in(BLOCKS["hooks"], words))
        (line,) = (shell.directory / "dumps.jsonl").read_text().splitlines()
        kept = json.loads(line)
        manifest = Checkpoint.open(checkpoint).round().manifest
        assert kept == {"round": 2, "frozen_ns": manifest.stats.frozen_ns, "stored_bytes": manifest.stats.stored_bytes}
        assert ask(port, b"SET", b"afterwards", b"1") == b"+OK"
        for command, calls in (("pause", 1), ("unpause", 1)):
            assert f"cmdstat_client|{command}:calls={calls}," in info(port, "commandstats")


@needs_redis
def test_to_another_host_by_ssh(shell: Shell, checkpoint: Path) -> None:
    with database(shell.directory) as server:
        shell.run(put_in(BLOCKS["ssh"], {"4711": server.pid, "/var/tmp/ck": checkpoint}))
        assert is_stopped(server.pid)
        check_equal(server.pid, checkpoint)

        again = shell.directory / "again"
        words = {"send /var/tmp/ck": f"send {checkpoint}", "-D /var/tmp/ck": f"-D {again}"}
        shell.run(put_in(BLOCKS["send"], words))
        check_equal(server.pid, again)


def test_to_another_host_by_ssh_and_killed_there(
    shell: Shell, checkpoint: Path, python: subprocess.Popen[bytes]
) -> None:
    words = {"4711": python.pid, "/var/tmp/ck": checkpoint, "20ms": "10s"}
    shell.run(put_in(BLOCKS["ssh-kill"], words))
    assert python.wait(COMMAND_S) == -signal.SIGKILL
    predump("verify", checkpoint)
    assert Checkpoint.open(checkpoint).round().manifest.kind is RoundKind.DUMP


def test_the_process_is_not_killed_if_the_other_host_cannot_be_reached(
    shell: Shell, checkpoint: Path, python: subprocess.Popen[bytes]
) -> None:
    words = {"4711": python.pid, "/var/tmp/ck": checkpoint, "backup.example.org": "elsewhere.example.org"}
    shell.run(put_in(BLOCKS["ssh-kill"], words), expect=1)
    assert is_untouched(python.pid)
    assert not tracked_vmas(python.pid)


@needs_redis
def test_to_another_host_over_tls(shell: Shell, checkpoint: Path, hosts: Link) -> None:
    left, right = (tuple(host.words()) for host in hosts.hosts)
    shell.run(put_in(BLOCKS["tls-keys"], {"backup.example.org": hosts.right.address}), *left)
    with (
        database(shell.directory) as server,
        started(shell, put_in(BLOCKS["tls-receive"], {"/var/tmp/ck": checkpoint}), *right) as receiver,
    ):
        assert receiver.stderr
        assert receiver.stderr.readline().startswith("Listening"), "predump says so when it is ready"
        words = {"4711": server.pid, "backup.example.org": hosts.right.address, "20ms": "10s"}
        words |= {"--kill": "--leave-stopped"}  # to compare it with
        shell.run(put_in(BLOCKS["tls-run"], words), *left)
        assert receiver.wait(COMMAND_S) == 0
        check_equal(server.pid, checkpoint)


def test_a_systemd_unit(shell: Shell, python: subprocess.Popen[bytes]) -> None:
    place = shell.directory / "rounds"
    script = shell.add("predump-checkpoint", put_in(BLOCKS["predump-checkpoint"], {"/var/lib/predump": place, **FEW}))
    place.mkdir()
    answers = f"MainPID) echo {python.pid} ;; InvocationID) echo 5ca1ab1e ;;"
    shell.add(
        "systemctl", f'[ "$1 $2 $4 $5" = "show --property --value app.service" ] || exit 9\ncase $3 in {answers} esac\n'
    )
    service = put_in(BLOCKS["predump@.service"], {"/usr/local/sbin/predump-checkpoint": script})
    (start,) = (line.removeprefix("ExecStart=") for line in service.splitlines() if line.startswith("ExecStart="))
    for _ in range(KEPT + 2):
        shell.run(put_in(start, {"%i": "app"}))
    check_rounds(place / "app.service-5ca1ab1e", RoundKind.DUMP)
    predump("verify", place / "app.service-5ca1ab1e")

    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: the units are not verified")
    (shell.directory / "app.service").write_text("[Service]\nExecStart=/bin/true\n")
    (shell.directory / "predump@.service").write_text(service)
    (shell.directory / "predump@.timer").write_text(BLOCKS["predump@.timer"])
    units = [str(shell.directory / f"predump@app.{kind}") for kind in ("service", "timer")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_events_in_a_script(shell: Shell, checkpoint: Path, python: subprocess.Popen[bytes]) -> None:
    script = shell.directory / "events.py"
    script.write_text(put_in(BLOCKS["events"], {"4711": python.pid, "/var/tmp/ck": checkpoint}))
    said = shell.run(f"{sys.executable} {script}").splitlines()
    assert said[0].startswith("round 1: "), said
    assert any(line.startswith("a freeze would take ") for line in said), said
    assert said[-1].startswith("frozen for "), said

    said = shell.run(f"{sys.executable} {script}").splitlines()
    assert said[-1].startswith("frozen for "), said
    python.kill()
    python.wait()
    (line,) = shell.run(f"{sys.executable} {script}").splitlines()
    assert str(python.pid) in line, line
