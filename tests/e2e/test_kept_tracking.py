"""Dump after dump of a process that stays tracked: each is whole, and holds only what was written since the last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dumper.dump import AfterDump
from dumper.rounds import Options
from dumper.session import Session
from formats.chain import MemoryView
from formats.check import verify
from formats.checkpoint import Checkpoint
from formats.layout import PAGE_BYTES
from tests.harness import (
    Predump,
    Target,
    is_untouched,
    keeper_pids,
    live_tree,
    memory_target,
    number,
    poll_until,
    predump,
    stopped,
)
from tests.oracle import compare
from tests.tally import Tally

pytestmark = pytest.mark.usefixtures("targets")

USAGE = 2
UNAVOIDABLE_PAGES = 80
"""Written though the target does nothing: stacks, which the queries write to, and pages that go without tracking."""
STAGING = "32M"


def dump(target_pid: int, checkpoint: Path, *words: object, tree: bool = False) -> Predump:
    """One more dump of it."""
    options = ("-t" if tree else "-p", target_pid, "-D", checkpoint, "--staging", STAGING)
    return predump("dump", *options, "--keep-tracking", "--json", *words)


def assert_equal(pids: list[int], checkpoint: Path, tally: Tally, round_number: int | None = None) -> None:
    """The processes stand still, as they did in the dump."""
    for pid in pids:
        found = compare(pid, checkpoint, round_number)
        tally.compared(found)
        assert not found.mismatches, f"process {pid}: {found}"


def assert_sound(checkpoint: Path) -> None:
    report = verify(Checkpoint.open(checkpoint))
    assert report.exit_code == 0, report.findings


CHANGES = ("write 300 7", "zap 200", "remap", "move", "protect", "grow", "write 100 8")


def test_each_dump_equals_the_memory_whatever_was_done_in_between(
    tmp_path: Path, checkpoint: Path, tally: Tally
) -> None:
    with memory_target(tmp_path) as target:
        dump(target.pid, checkpoint)
        for change in CHANGES:
            target.command(change)
            with stopped(target.pid):
                done = dump(target.pid, checkpoint)
                assert_equal([target.pid], checkpoint, tally)
            assert done.result["full"] is False
        assert_sound(checkpoint)
        target.check()


@pytest.mark.parametrize("freeze_by", [pytest.param("copy", marks=pytest.mark.thorough), "clone"])
def test_a_target_that_writes_all_the_time(freeze_by: str, tmp_path: Path, checkpoint: Path, tally: Tally) -> None:
    with memory_target(tmp_path) as target:
        target.command("start 3000")
        for _ in range(3):
            with stopped(target.pid):
                done = dump(target.pid, checkpoint, "--freeze-by", freeze_by)
                assert done.result["freeze_by"] == freeze_by
                assert_equal([target.pid], checkpoint, tally)
        for _ in range(2):
            dump(target.pid, checkpoint)  # it runs on meanwhile
        target.command("check")
        predump("dump", "-p", target.pid, "-D", checkpoint, "--leave-stopped")
        assert_equal([target.pid], checkpoint, tally)
        os.kill(target.pid, signal.SIGCONT)
        poll_until(lambda: is_untouched(target.pid), 10, "it to go on")
        assert not keeper_pids(target.pid)
        assert_sound(checkpoint)
        target.check()


def test_a_dump_costs_what_was_written(checkpoint: Path) -> None:
    with Target.spawn("idle", 1, 64, 0) as target:
        first = dump(target.pid, checkpoint)
        assert number(first.result, "pages_present") > 64 << 8
        for _ in range(3):
            done = dump(target.pid, checkpoint)
            assert len(done.rounds()) == 1
            assert done.result["full"] is False
            assert number(done.result, "pages_data") < UNAVOIDABLE_PAGES, str(done)
        core = checkpoint.parent / "core"
        predump("export", checkpoint, "--to", "core", "--round", Checkpoint.open(checkpoint).numbers[-2], "-o", core)
        assert core.stat().st_size > 64 << 20


def test_each_of_them_can_be_read_later(checkpoint: Path) -> None:
    """What the process held at each dump, though it has changed since."""
    program = (
        "import sys, mmap, ctypes\n"
        "area = mmap.mmap(-1, 1 << 22, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "area[:] = b'0' * len(area)\n"
        "print('ready', ctypes.addressof(ctypes.c_char.from_buffer(area)), flush=True)\n"
        "for line in sys.stdin:\n"
        "    page, text = line.split()\n"
        "    area[int(page) * 4096 : int(page) * 4096 + 4096] = text.encode() * 4096\n"
        "    print('ok', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            addr = int(process.stdout.readline().split()[1])
            pages = [b"0"] * 1024
            history: list[tuple[int, list[bytes]]] = []
            for n in range(5):
                for page in (n, 100, 1000 - n):
                    text = "abcde"[n]
                    process.stdin.write(f"{page} {text}\n")
                    process.stdin.flush()
                    assert process.stdout.readline() == "ok\n"
                    pages[page] = text.encode()
                done = dump(process.pid, checkpoint)
                history.append((number(done.result, "round"), list(pages)))
            for round_number, held in history:
                with MemoryView(Checkpoint.open(checkpoint), round_number) as view:
                    content = view.read(addr, len(held) * PAGE_BYTES)
                assert content == b"".join(text * PAGE_BYTES for text in held)
        finally:
            process.kill()
            for keeper in keeper_pids(process.pid):
                os.kill(keeper, signal.SIGKILL)


def test_a_tree_with_processes_that_come_and_go(tmp_path: Path, checkpoint: Path, tally: Tally) -> None:
    with Target.spawn("churn", tmp_path / "file") as target:
        for seed in range(3):
            for operation in ("fork", "write", "discard", "stay", "move", "remap"):
                target.command(f"do {operation} {seed}")
            pids = live_tree(target.pid)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                dump(target.pid, checkpoint, tree=True)
                assert_equal(pids, checkpoint, tally)
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
        assert_sound(checkpoint)
        target.command("end")


def test_a_process_with_a_filter(checkpoint: Path) -> None:
    """Its dump is taken by a child of predump: what is tracked goes on all the same."""
    with Target.spawn("special", "seccomp-kill") as target:
        for n in range(3):
            done = dump(target.pid, checkpoint)
            assert n == 0 or done.result["full"] is False, str(done)
        assert_sound(checkpoint)
        target.command("check")


@pytest.mark.parametrize("program", ["memory", "special"])
def test_in_one_session(program: str, tmp_path: Path, checkpoint: Path, tally: Tally) -> None:
    options = Options(staging_bytes=32 << 20, keep_tracking=True)
    arguments = (tmp_path / "private", tmp_path / "shared") if program == "memory" else ("seccomp-errno",)
    with Target.spawn(program, *arguments) as target:
        with Session(target.pid, checkpoint, options, lambda _event: None) as session:
            for n in range(4):
                if program == "memory":
                    target.command(f"write 200 {n}")
                with stopped(target.pid):
                    finished = session.dump(AfterDump.LEAVE_RUNNING, pre_dump=n == 2)
                    assert_equal([target.pid], checkpoint, tally)
                assert finished.full is (n == 0)
                session.pre_dump()
        assert len(keeper_pids(target.pid)) == 1
        assert dump(target.pid, checkpoint).result["full"] is False
        assert_sound(checkpoint)


def test_a_run_goes_on_as_well(tmp_path: Path, checkpoint: Path) -> None:
    with memory_target(tmp_path) as target:
        words = ("-p", target.pid, "-D", checkpoint, "--keep-tracking", "--json", "--max-freeze", "10s")
        predump("run", *words)
        assert len(keeper_pids(target.pid)) == 1
        again = predump("run", *words)
        assert all(event["full"] is False for event in again.rounds())
        assert predump("pre-dump", "-p", target.pid, "-D", checkpoint, "--json").result["full"] is False
        predump("detach", "-p", target.pid)
        assert not keeper_pids(target.pid)
        assert_sound(checkpoint)


def test_pages_left_for_the_freeze_are_in_the_dump_that_others_build_on(
    tmp_path: Path, checkpoint: Path, tally: Tally
) -> None:
    """Meanwhile the keeper vouches for nothing; it does again after the dump."""
    with memory_target(tmp_path) as target:
        target.command("start 5000")
        words = ("--keep-tracking", "--json", "--max-freeze", "0ms", "--max-rounds", "6", "--defer-hot")
        done = predump("run", "-p", target.pid, "-D", checkpoint, *words, "--interval", "50ms", check=False)
        assert done.returncode in (0, 3), str(done)
        with stopped(target.pid):
            assert dump(target.pid, checkpoint).result["full"] is False
            assert_equal([target.pid], checkpoint, tally)


def test_rounds_before_are_flattened_now_and_then(tmp_path: Path, checkpoint: Path, tally: Tally) -> None:
    with memory_target(tmp_path) as target:
        for n in range(4):
            target.command(f"write 100 {n}")
            with stopped(target.pid):
                done = dump(target.pid, checkpoint)
                assert n == 0 or done.result["full"] is False
                if n % 2:
                    predump("flatten", checkpoint, "--drop", "--keep", n % 3)
                    assert len(Checkpoint.open(checkpoint).numbers) == n % 3 + 1
                assert_equal([target.pid], checkpoint, tally)
        assert_sound(checkpoint)


def test_when_the_tracking_is_lost_everything_is_taken_again(tmp_path: Path, checkpoint: Path) -> None:
    with memory_target(tmp_path) as target:
        dump(target.pid, checkpoint)
        (keeper,) = keeper_pids(target.pid)
        os.kill(keeper, signal.SIGKILL)
        poll_until(lambda: not keeper_pids(target.pid), 10, "the keeper to end")
        done = dump(target.pid, checkpoint)
        assert done.rounds()[0]["full"] is True
        assert "after the last dump" in str(done.rounds()[0]["full_reason"])


@pytest.mark.parametrize("words", [("--kill",), ("--leave-stopped",)])
def test_it_needs_a_target_that_runs_on(words: tuple[str, ...], checkpoint: Path) -> None:
    with Target.spawn("idle", 1, 1, 0) as target:
        for command in ("dump", "run"):
            done = predump(command, "-p", target.pid, "-D", checkpoint, "--keep-tracking", *words, check=False)
            assert done.returncode == USAGE
            assert f"--keep-tracking and {words[0]} exclude each other" in done.stderr
        assert is_untouched(target.pid)
        assert not checkpoint.exists()


def test_a_stream_is_no_place_to_go_on_from() -> None:
    with Target.spawn("idle", 1, 1, 0) as target:
        done = predump("dump", "-p", target.pid, "--to", "exec:cat", "--keep-tracking", check=False)
        assert done.returncode == USAGE, str(done)
        assert "--keep-tracking" in done.stderr
