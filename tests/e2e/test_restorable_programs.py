"""What a dump of a real process says about whether it comes back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.harness import Target, is_untouched, predump
from tests.redisserver import redis_server

PYTHON = """
import os, sys, threading
sys.path
null, log = open(os.devnull), open(sys.argv[1], "a")
reader, writer = os.pipe()
threading.Thread(target=os.read, args=(reader, 1), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


def dumped(pid: int, checkpoint: Path) -> dict[str, object]:
    """The result of a dump, which says the same as `inspect` of it."""
    result = predump("dump", "-t", pid, "-D", checkpoint, "--no-pre-dump", "--json").events[-1]
    inspected = predump("inspect", checkpoint, "--json").events[-1]
    assert {name: inspected[name] for name in ("restorable", "obstacles")} == {
        name: result[name] for name in ("restorable", "obstacles")
    }
    return result


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("secret", "memfd_secret"),
        ("aio", "asynchronous I/O"),
        ("uring", "io_uring"),
        ("private-anonymous", ""),
        ("guarded", ""),
        ("shared-memfd", ""),
    ],
)
def test_memory(kind: str, reason: str, tmp_path: Path) -> None:
    with Target.spawn("kinds", kind, tmp_path / "file") as target:
        result = dumped(target.pid, tmp_path / "checkpoint")
    obstacles = result["obstacles"]
    assert isinstance(obstacles, list)
    assert result["restorable"] is (reason == "")
    assert all(item["pid"] == target.pid for item in obstacles)
    assert reason in " ".join(item["reason"] for item in obstacles)


def test_a_thread_without_its_leader(tmp_path: Path) -> None:
    with Target.spawn("special", "leaderless") as target:
        done = predump("dump", "-p", target.pid, "-D", tmp_path / "checkpoint", "--no-pre-dump")
    assert f"Not restorable: process {target.pid} (predump inspect --show restore)." in done.stdout
    shown = predump("inspect", tmp_path / "checkpoint", "--show", "restore").stdout
    assert "its main thread has ended" in shown


@pytest.mark.parametrize("kind", ["memory", "descriptors", "directories", "handlers"])
def test_a_child_that_shares_what_only_threads_usually_share(kind: str, tmp_path: Path) -> None:
    with Target.spawn("sharing", kind) as target:
        child = int(target.ready.split()[1])
        result = dumped(target.pid, tmp_path / "checkpoint")
        tried = predump("restore", tmp_path / "checkpoint", "--pid", "new", check=False)
        assert is_untouched(target.pid)
    obstacles = {(item["pid"], item["what"]): item["reason"] for item in result["obstacles"]}
    expected = {"memory", "handlers"} if kind == "handlers" else {kind}
    assert set(obstacles) == {(child, f"shared {what}") for what in expected}
    assert all(f"process {target.pid} has the same" in reason for reason in obstacles.values())
    assert tried.returncode != 0
    assert f"shared {kind}: process {target.pid} has the same" in tried.stderr


def test_memory_that_two_processes_share_cannot_be_tracked(tmp_path: Path) -> None:
    with Target.spawn("sharing", "memory") as target:
        tried = predump("pre-dump", "-t", target.pid, "-D", tmp_path / "checkpoint", check=False)
    assert tried.returncode == 13
    assert "CLONE_VM" in tried.stderr


def test_a_pid_namespace_inside_of_the_tree(tmp_path: Path) -> None:
    with Target.spawn("sharing", "ids") as target:
        child = int(target.ready.split()[1])
        result = dumped(target.pid, tmp_path / "checkpoint")
    (obstacle,) = result["obstacles"]
    assert obstacle["what"] == f"process {child}"
    assert "pid namespace" in obstacle["reason"]


def test_python_with_threads_and_files(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PYTHON)
    with Target.spawn(sys.executable, program, tmp_path / "log") as target:
        done = predump("dump", "-p", target.pid, "-D", tmp_path / "checkpoint", "--no-pre-dump")
    assert "\nRestorable" in done.stdout
    # Its standard input and output are pipes to this test.
    assert "its other end is not in the dump" in predump("inspect", tmp_path / "checkpoint", "--show", "restore").stdout


def test_redis(tmp_path: Path) -> None:
    with redis_server(tmp_path, 100) as (process, _):
        result = dumped(process.pid, tmp_path / "checkpoint")
    assert result["restorable"], result["obstacles"]
