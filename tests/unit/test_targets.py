"""Each target runs clean on its own, answers its commands, and notices what is done to it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.harness import (
    Target,
    is_stopped,
    is_untouched,
    live_tree,
    memory_target,
    page_tables_kb,
    poll_until,
    proc_state,
    stopped,
    tracer_pid,
)
from tests.oracle import PAGE_BYTES, read_maps

pytestmark = pytest.mark.usefixtures("targets")

KINDS = {
    "dense",
    "small",
    "moving",
    "sparse",
    "thp",
    "guarded",
    "relro",
    "none",
    "private-file",
    "shared-file",
    "shared-anonymous",
    "shared-memfd",
    "private-memfd",
    "heap",
    "stack",
}


def areas(target: Target) -> list[dict[str, object]]:
    listed = json.loads(target.command("areas").removeprefix("ok "))
    assert isinstance(listed, list)
    return listed


def poke(pid: int, addr: int, content: bytes) -> None:
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(addr)
        memory.write(content)


def test_memory_changes_in_every_way_and_stays_right(tmp_path: Path) -> None:
    with memory_target(tmp_path) as target:
        for command in ("write 2000 7", "zap 300", "remap", "move", "grow", "protect", "grow"):
            assert target.command(command) == "ok"
        target.command("start 20000")
        for command in ("zap 50", "remap", "move", "grow", "protect", "write 500 9", "check"):
            assert target.command(command).startswith("ok")
        assert int(target.command("stop").split("=")[1]) > 2850
        target.check()


def test_memory_has_every_kind(tmp_path: Path) -> None:
    with memory_target(tmp_path) as target:
        before = areas(target)
        assert {area["name"] for area in before} == KINDS
        mapped = read_maps(target.pid)
        for area in before:
            start, length = area["start"], area["length"]
            assert isinstance(start, int)
            assert isinstance(length, int)
            assert any(one.start_addr <= start < one.end_addr for one in mapped), area
        target.command("grow")
        target.command("move")
        after = areas(target)
        assert len(after) == len(before) + 2
        assert [a["start"] for a in after if a["name"] == "moving"] != [
            a["start"] for a in before if a["name"] == "moving"
        ]
        assert page_tables_kb(target.pid) > 4000, "1000 pages, each with a page table of its own"


@pytest.mark.parametrize("name", ["dense", "sparse", "stack", "none", "private-file", "heap"])
def test_memory_notices_a_changed_byte(tmp_path: Path, name: str) -> None:
    with memory_target(tmp_path) as target:
        start = next(area["start"] for area in areas(target) if area["name"] == name)
        assert isinstance(start, int)
        poke(target.pid, start + 11, b"\x5a\xa5")
        with pytest.raises(AssertionError, match=f"area {name} differs"):
            target.check()
        assert target.wait() == 1


CHURN_OPERATIONS = (
    "write zero read poke pwrite thread discard free remove remap protect lock guard unguard populate "
    "move swap leave huge brk stay fork"
)


def test_churn_does_every_operation_and_stays_right(tmp_path: Path) -> None:
    with Target.spawn("churn", tmp_path / "file") as target:
        for seed in range(10):
            for name in CHURN_OPERATIONS.split():
                target.command(f"do {name} {seed}")
            target.command("check")
        target.command("exec")
        target.command("start 2000 1")
        poll_until(lambda: int(target.command("check").split("=")[1]) > 300, 30, "300 operations")
        target.check()


def test_churn_notices_a_changed_byte(tmp_path: Path) -> None:
    with Target.spawn("churn", tmp_path / "file") as target:
        heap = next(one for one in read_maps(target.pid) if one.path == "[heap]")
        poke(target.pid, heap.end_addr - PAGE_BYTES + 11, b"\x5a\xa5")
        with pytest.raises(AssertionError, match="area heap, page 31 differs"):
            target.command("check")


def test_churn_notices_a_child_that_was_killed(tmp_path: Path) -> None:
    with Target.spawn("churn", tmp_path / "file") as target:
        target.command("do fork 3")
        _, child = live_tree(target.pid)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(AssertionError, match=f"child {child} ended with status 0x9"):
            target.command("end")


def test_memory_refuses_unknown_commands(tmp_path: Path) -> None:
    with memory_target(tmp_path) as target, pytest.raises(AssertionError, match="unknown"):
        target.command("nonsense")


def test_selfcheck_runs_clean() -> None:
    with Target.spawn("selfcheck") as target:
        for _ in range(5):
            answer = target.command("status")
            assert "errors=0 " in answer
        assert "checks=16 " in answer, "root can make an IPC namespace: no check is left out"
        assert target.command("fds") == "ok 0"
        target.command("threads 2")
        assert "errors=0 " in target.command("status")
        target.check()


def test_selfcheck_notices_an_interrupted_call() -> None:
    """SIGSTOP and SIGCONT end epoll_wait with EINTR, as a careless tracer would."""
    with Target.spawn("selfcheck") as target:
        target.command("status")
        with stopped(target.pid):
            pass
        with pytest.raises(AssertionError, match="Interrupted system call"):
            target.command("status")


def test_selfcheck_notices_a_signal_too_many() -> None:
    with Target.spawn("selfcheck") as target:
        target.command("status")
        os.kill(target.pid, signal.SIGRTMIN + 2)
        with pytest.raises(AssertionError, match="sigtimedwait: a signal of another sender"):
            target.command("status")


def test_idle_rewrites_at_its_rate() -> None:
    with Target.spawn("idle", 20, 8, 5000) as target:
        assert len(list(Path(f"/proc/{target.pid}/task").iterdir())) == 22
        poll_until(lambda: int(target.command("check").split("rewritten=")[1]) > 100, 10, "100 pages")
        target.check()


def test_idle_notices_a_changed_byte() -> None:
    with Target.spawn("idle", 1, 1, 0) as target:
        _, start, length = target.command("area").split()
        poke(target.pid, int(start) + int(length) - 1, b"\x00\x01"[:1])
        with pytest.raises(AssertionError, match="page 255 differs"):
            target.check()


def test_idle_without_memory_or_threads() -> None:
    with Target.spawn("idle", 0, 0, 100) as target:
        target.check()


def test_states_as_the_harness_sees_them() -> None:
    with Target.spawn("idle", 3, 1, 0) as target:
        assert is_untouched(target.pid)
        assert tracer_pid(target.pid) == 0
        with stopped(target.pid):
            assert is_stopped(target.pid)
            assert not is_untouched(target.pid)
            assert proc_state(target.pid) == "T"
        poll_until(lambda: is_untouched(target.pid), 10, "the target to go on")
        target.check()


def test_target_is_gone_after_its_block() -> None:
    with (
        pytest.raises(ZeroDivisionError),
        Target.spawn("idle", 1, 1, 0) as target,
        stopped(target.pid),
    ):
        raise ZeroDivisionError
    assert not target.alive()
    assert not Path(f"/proc/{target.pid}").exists()


def test_target_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="No such file or directory"):
        Target.spawn("memory", tmp_path / "missing" / "a", tmp_path / "b")
