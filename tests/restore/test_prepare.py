"""Restoring ahead: memory that came with pre-dumps, brought up to date by the dump, is that of the dump."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dumper.proc import GONE_ERRORS
from formats.checkpoint import Checkpoint
from formats.manifest import Vma
from restorer.ahead import Ahead, ahead_options
from restorer.memory import vdso
from restorer.memory.ahead import changes
from restorer.restore import Restoration, RestoreOptions
from tests.alive import Lives
from tests.harness import COMMAND_S, children, is_stopped, poll_until, predump
from tests.restore.comebacks import Mapped, Program, compare, mappings, program


@contextmanager
def made_ahead(*, pid_namespace: bool = True) -> Iterator[Ahead]:
    """In a pid namespace while the process itself is still there."""
    options = ahead_options(same_pids=True, pid_namespace=pid_namespace)
    with Ahead(options, own_session=True, threads=2, tell=[].append) as ahead:
        yield ahead


@contextmanager
def completed(checkpoint: Path, ahead: Ahead, *, pid_namespace: bool = True) -> Iterator[tuple[int, int]]:
    """The process, stopped, and how many pages the dump still had to bring; it ends with the block."""
    options = RestoreOptions(pid_namespace=pid_namespace, own_session=True, stopped=True)
    told: list[str] = []
    with Restoration(Checkpoint.open(checkpoint), None, options, told.append, ahead=ahead) as restoration:
        restoration.build()
        waited_for = restoration.waited_for
        done = restoration.release(time.monotonic_ns())
    assert not [one for one in told if "clocks" in one], "it was looked at them before the dump"
    try:
        poll_until(lambda: is_stopped(done.pids[0]), COMMAND_S, "the process to be stopped")
        yield done.pids[0], done.pages_filled
    finally:
        os.kill(waited_for, signal.SIGKILL)
        os.waitpid(waited_for, 0)


def joined(mapped: list[Mapped]) -> list[Mapped]:
    """Without the borders between equal ones: where memory was moved there are some, which a restore does not make.

    Whether the kernel accounts for memory that is not writable ("ac") depends on when it had pages.
    """
    found: list[Mapped] = []
    for start, end, perms, offset, path, flags in mapped:
        accounted = flags if "w" in perms else flags.replace(" ac", "")
        one = (start, end, perms, offset, path, accounted)
        joins = found and found[-1][1] == one[0] and found[-1][2:] == one[2:] and not one[3]
        found.append((found.pop()[0], *one[1:]) if joins else one)
    return found


@pytest.mark.usefixtures("targets")
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_memory_that_shifts_between_rounds_is_exact_in_the_end(seed: int, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with program(tmp_path / "target", "shifting", seed) as target, made_ahead() as ahead:
        for number in range(1, 5):
            target.command("shift 60")
            predump("pre-dump", "-p", target.pid, "-D", checkpoint)
            assert ahead.prepare(Checkpoint.open(checkpoint), number) > 0
        target.command("shift 60")
        predump("dump", "-p", target.pid, "-D", checkpoint, "--no-pre-dump", "--leave-stopped")
        before = mappings(target.pid)
        with completed(checkpoint, ahead) as (pid, _):
            after = mappings(pid)
            assert joined(after) == joined(before)
            assert len(after) <= len(before)
            compared = compare(pid, checkpoint)
            assert not compared.mismatches, str(compared)
            assert compared.pages_compared > 100


@pytest.mark.usefixtures("targets")
@pytest.mark.parametrize("grows", [False, True], ids=["same", "one more"])
def test_a_tree_whose_shared_memory_changes_between_rounds_is_exact_in_the_end(grows: bool, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with program(tmp_path / "target", "tree", 3) as target:
        for number in range(3):
            predump("pre-dump", "-t", target.pid, "-D", checkpoint)
            if grows and number == 1:
                target.command("spawn")
        predump("dump", "-t", target.pid, "-D", checkpoint, "--no-pre-dump", "--kill")
        target.end()
        pids = [process.pid for process in Checkpoint.open(checkpoint).round().manifest.processes]
        poll_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), COMMAND_S, "all to end")
        with made_ahead(pid_namespace=False) as ahead:
            for number in range(1, 4):
                assert ahead.prepare(Checkpoint.open(checkpoint), number) > 0
            assert ahead.has_family
            with completed(checkpoint, ahead, pid_namespace=False) as (root, _):
                assert root == target.pid
                poll_until(lambda: all(map(is_stopped, pids)), COMMAND_S, "all to be stopped")
                for pid in pids:
                    compared = compare(pid, checkpoint, pid)
                    assert not compared.mismatches, f"{pid}: {compared}"
                    assert compared.pages_compared > 100
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
                before = counts(target)
                poll_until(lambda: all(counts(target)[pid] > before[pid] for pid in pids), COMMAND_S, "all to go on")


def counts(target: Program) -> dict[int, int]:
    """How often each process of a tree has written."""
    pairs = (word.split(":") for word in target.command("counts").split()[1:])
    return {int(pid): int(count) for pid, count in pairs}


@pytest.mark.usefixtures("targets")
def test_only_what_changed_is_left_for_the_dump(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with program(tmp_path / "target", "shifting", 7) as target, made_ahead(pid_namespace=False) as ahead:
        target.command("shift 500")
        predump("pre-dump", "-p", target.pid, "-D", checkpoint)
        predump("dump", "-p", target.pid, "-D", checkpoint, "--no-pre-dump", "--kill")
        target.end()
        ahead_pages = ahead.prepare(Checkpoint.open(checkpoint), 1)
        with completed(checkpoint, ahead, pid_namespace=False) as (pid, pages):
            assert pid == target.pid
            assert ahead_pages > 100
            assert pages < ahead_pages / 4


@pytest.mark.usefixtures("targets")
def test_a_family_that_changed_is_made_anew(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with program(tmp_path / "one", "shifting", 1) as one, made_ahead() as ahead:
        predump("pre-dump", "-p", one.pid, "-D", checkpoint)
        ahead.prepare(Checkpoint.open(checkpoint), 1)
        with program(tmp_path / "other", "shifting", 2) as other:
            other_checkpoint = tmp_path / "other-checkpoint"
            predump("dump", "-p", other.pid, "-D", other_checkpoint, "--leave-stopped")
            with completed(other_checkpoint, ahead) as (pid, _):
                assert not compare(pid, other_checkpoint).mismatches


WITH_A_CHILD = """
import os, signal, time
memory = os.urandom(1 << 22)
child = os.fork()
if not child:
    signal.pause()
print(child, flush=True)
os.waitpid(child, 0)
print("ended", flush=True)
while True:
    time.sleep(60)
"""


def test_memory_is_kept_when_a_process_has_ended(lives: Lives, tmp_path: Path) -> None:
    checkpoint, log = tmp_path / "checkpoint", tmp_path / "log"
    pid = lives.start(sys.executable, "-c", WITH_A_CHILD, log=log, cwd=tmp_path)
    with made_ahead() as ahead:
        poll_until(lambda: log.read_text().endswith("\n"), COMMAND_S, "a child")
        predump("pre-dump", "-t", pid, "-D", checkpoint)
        ahead_pages = ahead.prepare(Checkpoint.open(checkpoint), 1)
        os.kill(int(log.read_text()), signal.SIGKILL)
        poll_until(lambda: "ended" in log.read_text(), COMMAND_S, "its end")
        predump("dump", "-t", pid, "-D", checkpoint, "--no-pre-dump", "--leave-stopped")
        with completed(checkpoint, ahead) as (here, pages):
            assert 0 < pages < ahead_pages / 4
            assert not children(here)
            status = Path(f"/proc/{here}/status").read_text()
            assert {line for line in status.splitlines() if "Pnd" in line} == {
                f"{name}:\t{0:016x}" for name in ("SigPnd", "ShdPnd")
            }
            assert not compare(here, checkpoint).mismatches


@pytest.mark.usefixtures("targets")
def test_what_nobody_takes_over_is_gone(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with program(tmp_path / "target", "shifting", 1) as target:
        predump("pre-dump", "-p", target.pid, "-D", checkpoint)
        before = own_children()
        with made_ahead() as ahead:
            ahead.prepare(Checkpoint.open(checkpoint), 1)
            assert own_children() > before
        assert own_children() == before


def own_children() -> set[int]:
    """Of this process, ended ones too."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= set(map(int, (task / "children").read_text().split()))
        except GONE_ERRORS:
            continue
    return found


def vma(start: int, end: int, perms: str = "rw-p", flags: str = "rd wr ac", **rest: object) -> Vma:
    fields = {"offset_bytes": 0, "device": "00:00", "inode": 0, "path": "", "kind": "anon", "tracked": True, **rest}
    return Vma(start_addr=start << 12, end_addr=end << 12, perms=perms, flags=flags, **fields)  # type: ignore[arg-type]


def test_what_is_kept_of_mappings() -> None:
    def ranges(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(start >> 12, end >> 12) for start, end in pairs]

    def found(there: list[Vma], wanted: list[Vma]) -> tuple[list[tuple[int, int]], ...]:
        result = changes(there, wanted)
        made = [(one.start_addr, one.end_addr) for one in result.made]
        return ranges([one[:2] for one in result.kept]), ranges(result.dropped), ranges(made)

    assert found([vma(1, 3)], [vma(1, 3)]) == ([(1, 3)], [], [])
    assert found([vma(1, 3)], [vma(2, 5)]) == ([(2, 3)], [(1, 2)], [(3, 5)])
    assert found([vma(1, 3)], [vma(1, 3, "r--p", "rd ac")]) == ([], [(1, 3)], [(1, 3)])
    assert found([vma(1, 3), vma(4, 5)], [vma(1, 5)]) == ([], [(1, 3), (4, 5)], [(1, 5)])
    assert found([vma(1, 9)], [vma(1, 2), vma(4, 6)]) == ([(1, 2), (4, 6)], [(2, 4), (6, 9)], [])
    of_file = {"inode": 7, "path": "/lib", "kind": "file"}
    moved = [vma(3, 5, offset_bytes=2 << 12, **of_file)]
    assert found([vma(1, 5, offset_bytes=0, **of_file)], moved) == ([(3, 5)], [(1, 3)], [])
    assert found([vma(1, 5, offset_bytes=4096, **of_file)], moved) == ([], [(1, 5)], [(3, 5)])


@pytest.mark.usefixtures("targets")
@pytest.mark.parametrize("is_ahead", [True, False])
def test_code_of_another_kernel_stays_where_it_was(
    is_ahead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of this kernel's that were mapped ahead make room for it."""
    monkeypatch.setattr(vdso, "is_same", lambda _old, _new: False)
    checkpoint = tmp_path / "checkpoint"
    with program(tmp_path / "target", "shifting", 3) as target, made_ahead() as ahead:
        predump("pre-dump", "-p", target.pid, "-D", checkpoint)
        if is_ahead:
            assert ahead.prepare(Checkpoint.open(checkpoint), 1) > 0
        predump("dump", "-p", target.pid, "-D", checkpoint, "--no-pre-dump", "--leave-stopped")
        (old,) = [one for one in mappings(target.pid) if one[4] == "[vdso]"]
        with completed(checkpoint, ahead) as (pid, _):
            after = mappings(pid)
            (new,) = [one for one in after if one[4] == "[vdso]"]
            assert new[:2] != old[:2]
            assert [one[4] for one in after if one[:3] == old[:3]] == [""]
