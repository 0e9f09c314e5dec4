"""A thousand rounds on one target: nothing piles up, in the target, in the keeper, or in predump."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from dumper.dump import AfterDump
from dumper.rounds import Options
from dumper.session import Session
from formats.check import verify
from formats.checkpoint import Checkpoint
from tests.harness import Target, is_alive, is_stopped, is_untouched, keeper_pids, poll_until, predump
from tests.oracle import compare
from tests.tally import Count, Tally

pytestmark = pytest.mark.usefixtures("targets")

IN_ONE_SESSION, IN_SESSIONS, ON_COMMAND_LINE = 700, 297, 3
WARM_UP = 100
"""Rounds after which nothing may grow any more."""
OPTIONS = Options(staging_bytes=16 << 20, compress_threads=1)
OPERATIONS = ("write", "zero", "read", "discard", "thread", "populate")
"""Those that leave the mappings as they are."""
RESIDENT_GROWTH_KB, DATA_GROWTH_KB = 4 << 10, 32 << 10
"""In 600 rounds, or 200 sessions."""


@dataclass(frozen=True)
class Usage:
    """What a process has."""

    fds: int
    threads: int
    vmas: int
    data_kb: int
    resident_kb: int
    page_tables_kb: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        process = Path(f"/proc/{pid}")
        status = (process / "status").read_text()
        kb = {name: int(number) for name, number in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE)}
        return cls(
            fds=len(list((process / "fd").iterdir())),
            threads=len(list((process / "task").iterdir())),
            vmas=len((process / "maps").read_text().splitlines()),
            data_kb=kb["VmData"],
            resident_kb=kb["VmRSS"],
            page_tables_kb=kb["VmPTE"],
        )

    def expect_no_more_than(self, before: Usage, who: str) -> None:
        """As many descriptors and threads; memory with a margin."""
        change = f"{who}: {before} became {self}"
        assert (self.fds, self.threads) == (before.fds, before.threads), change
        assert self.vmas <= before.vmas + 16, change
        assert self.data_kb <= before.data_kb + DATA_GROWTH_KB, change
        assert self.resident_kb <= before.resident_kb + RESIDENT_GROWTH_KB, change
        assert self.page_tables_kb <= before.page_tables_kb + 256, change


class Watch:
    """The three processes: predump (this one), its only keeper, and the target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.take()

    def take(self) -> None:
        """Remembers what each has."""
        self._usage = self._now()

    def _now(self) -> dict[str, Usage]:
        gc.collect()  # sessions that were closed
        ctypes.CDLL(None).malloc_trim(0)  # malloc(3) keeps what was freed for later
        pids = {"predump": os.getpid(), "target": self._target.pid}
        pids |= {f"keeper {pid}": pid for pid in keeper_pids(self._target.pid)}
        assert len(pids) == 3, f"one keeper: {pids}"
        return {who: Usage.of(pid) for who, pid in pids.items()}

    def expect_no_growth(self) -> None:
        """Since `take`; the keeper is still the same."""
        now = self._now()
        assert now.keys() == self._usage.keys()
        for who, usage in now.items():
            usage.expect_no_more_than(self._usage[who], who)


def live_children() -> set[int]:
    """Of this process."""
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in map(int, (task / "children").read_text().split()) if is_alive(pid)}


@pytest.fixture
def fast_directory() -> Iterator[Path]:
    """In memory, where a thousand rounds need not wait for a disk."""
    with TemporaryDirectory(prefix="predump-test-", dir="/dev/shm") as name:
        yield Path(name)


def test_a_thousand_rounds(fast_directory: Path, tmp_path: Path, tally: Tally) -> None:
    random = Random(1)
    checkpoint = fast_directory / "checkpoint"
    children_before = live_children()
    with Target.spawn("churn", tmp_path / "file") as target:

        def change() -> None:
            for _ in range(2):
                target.command(f"do {random.choice(OPERATIONS)} {random.randrange(1 << 32)}")

        def session() -> Session:
            return Session(target.pid, checkpoint, OPTIONS, lambda _: None)

        before, own_before = Usage.of(target.pid), Usage.of(os.getpid())
        with session() as one:
            for number in range(IN_ONE_SESSION):
                change()
                one.pre_dump()
                if number == WARM_UP:
                    watch = Watch(target)
            watch.expect_no_growth()
        for number in range(IN_SESSIONS):
            change()
            with session() as one:
                one.pre_dump()
            if number == WARM_UP:
                watch.take()
        watch.expect_no_growth()
        for _ in range(ON_COMMAND_LINE):
            change()
            predump("pre-dump", "-p", target.pid, "-D", checkpoint)
        watch.expect_no_growth()
        assert live_children() - children_before == {target.pid, *keeper_pids(target.pid)}

        with session() as one:
            finished = one.dump(AfterDump.LEAVE_STOPPED, pre_dump=True)
        assert finished.round == IN_ONE_SESSION + IN_SESSIONS + ON_COMMAND_LINE + 1
        assert finished.pages_parent > 0
        tally.add(Count.ROUNDS_IN_A_ROW, finished.round)
        assert is_stopped(target.pid)
        found = compare(target.pid, checkpoint)
        tally.compared(found)
        assert not found.mismatches, str(found)
        assert verify(Checkpoint.open(checkpoint)).findings == []

        os.kill(target.pid, signal.SIGCONT)
        poll_until(lambda: is_untouched(target.pid) and not keeper_pids(target.pid), 10, "predump to have left")
        Usage.of(target.pid).expect_no_more_than(before, "target")
        own = Usage.of(os.getpid())
        assert (own.fds, own.threads) == (own_before.fds, own_before.threads)
        assert live_children() - children_before == {target.pid}
        target.check()
