"""Targets to which predump's deaths happen, each with its way of showing that it was not harmed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from formats.check import verify
from formats.checkpoint import Checkpoint
from formats.manifest import RoundKind
from tests.crash.zygote import Zygote
from tests.harness import (
    Predump,
    Target,
    children,
    is_stopped,
    is_untouched,
    memory_target,
    open_descriptors,
    poll_until,
    thread_fields,
)
from tests.oracle import compare
from tests.tally import Count, Tally

HOME_S = 20
"""A target whose tracer was killed comes home by itself, at once; a machine may be busy."""
TREE_CHILDREN = 2
WRITER_PAGES_PER_S = 2000
STAGING = "64M"
"""Enough for each of them, and touched sooner than the usual 256 MiB."""


class Patient:
    """A running target, its checkpoint, and how predump is called for it."""

    def __init__(
        self,
        target: Target,
        checkpoint: Path,
        zygote: Zygote,
        tally: Tally,
        *,
        option: str = "-p",
        check: str = "check",
    ) -> None:
        self.target = target
        self.checkpoint = checkpoint
        self.zygote = zygote
        self.tally = tally
        self._option = option
        self._check = check
        self._descriptors = self._open_descriptors()
        self._children = self._all_children()
        tally.add(Count.TARGETS_HARMED, 0)

    @property
    def pid(self) -> int:
        return self.target.pid

    @property
    def pids(self) -> list[int]:
        """All processes of it, the root first."""
        return [self.pid]

    def words(self, command: str, checkpoint: Path | None = None) -> tuple[object, ...]:
        """The command line of it, such as `dump --kill`, for its own checkpoint or another one."""
        name, *options = command.split()
        if name == "flatten":
            return (name, checkpoint or self.checkpoint, *options)
        where = () if name == "detach" else ("-D", checkpoint or self.checkpoint)
        if name in ("dump", "run") and "--staging" not in options:
            options += ["--staging", STAGING]
        return (name, self._option, self.pid, *where, *options)

    def check_itself(self) -> None:
        """AssertionError unless it finds everything in order."""
        self.target.command(self._check)

    # ---- the checks ----

    def assert_goes_on(self) -> None:
        """It runs, as it was; what is wrong counts as a harmed target."""
        try:
            assert self.target.alive(), "the target has ended"
            poll_until(lambda: all(map(is_untouched, self.pids)), HOME_S, "the target to be untouched")
            poll_until(
                lambda: self._open_descriptors() == self._descriptors, HOME_S, "no descriptor to be left in the target"
            )
            poll_until(lambda: self._all_children() == self._children, HOME_S, "no clone to be left in the target")
            self.check_itself()
        except AssertionError:
            self.tally.add(Count.TARGETS_HARMED)
            raise

    def assert_dumped(self) -> None:
        """It is stopped, and equals the last round, which is whole."""
        assert self.rounds()[-1][1] is RoundKind.DUMP, "it is stopped, and there is no dump of it"
        for pid in self.pids:
            assert is_stopped(pid), f"process {pid} is not stopped: {thread_fields(pid, 'State')}"
            found = compare(pid, self.checkpoint)
            self.tally.compared(found)
            assert not found.mismatches, str(found)
        self.assert_verified()

    def wait_until_stopped(self) -> None:
        """By the signals that are under way."""
        poll_until(lambda: all(map(is_stopped, self.pids)), HOME_S, "the target to stop")

    def assert_verified(self) -> None:
        """The checkpoint is sound, if there is one."""
        if self.rounds():
            report = verify(Checkpoint.open(self.checkpoint))
            assert report.exit_code == 0, report.findings

    def resume(self) -> None:
        """As a user would who finds it stopped."""
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)

    def assert_next_commands_are_right(self) -> None:
        """A round and a dump, on top of whatever there is."""
        self.assert_verified()
        poll_until(self._pre_dump_unless_busy, HOME_S, "a tracer in a process of its own to have given up")
        self.run("dump --leave-stopped")
        self.assert_dumped()
        self.resume()
        self.assert_goes_on()

    def _pre_dump_unless_busy(self) -> bool:
        done = self.run("pre-dump", expect=None)
        is_busy = "another predump is working" in done.stderr
        assert is_busy or done.returncode == 0, str(done)
        return not is_busy

    def run(self, command: str, *, expect: int | None = 0, die_at: str = "") -> Predump:
        """The command to its end, which may be a death."""
        return self.zygote.run(*self.words(command), expect=expect, die_at=die_at)

    def rounds(self) -> list[tuple[int, RoundKind]]:
        """Number and kind of each committed round."""
        if not list(self.checkpoint.glob("*/manifest.json")):
            return []
        checkpoint = Checkpoint.open(self.checkpoint)
        return [(number, checkpoint.round(number).manifest.kind) for number in checkpoint.numbers]

    def files(self) -> dict[Path, bytes]:
        """All files of the committed rounds."""
        found = [path for one in self.checkpoint.glob("*/manifest.json") for path in one.parent.iterdir()]
        return {path: path.read_bytes() for path in found}

    def _all_children(self) -> set[int]:
        return set().union(*map(children, self.pids))

    def _open_descriptors(self) -> dict[str, str]:
        return {path: link for pid in self.pids for path, link in open_descriptors(pid).items()}


class Tree(Patient):
    """Several processes, which write all the time."""

    def __init__(self, target: Target, checkpoint: Path, zygote: Zygote, tally: Tally) -> None:
        self._target = target
        self._pids = list(self._counts(target))
        super().__init__(target, checkpoint, zygote, tally, option="-t")

    @property
    def pids(self) -> list[int]:
        return self._pids

    def check_itself(self) -> None:
        before = self._counts(self.target)

        def go_on() -> bool:
            now = self._counts(self.target)
            return all(now[pid] > before[pid] for pid in before)

        poll_until(go_on, HOME_S, "all processes to go on")

    @staticmethod
    def _counts(target: Target) -> dict[int, int]:
        """How often each process has written."""
        pairs = (word.split(":") for word in target.command("counts").split()[1:])
        return {int(pid): int(count) for pid, count in pairs}


@contextmanager
def patient_of(kind: str, directory: Path, zygote: Zygote, tally: Tally) -> Iterator[Patient]:
    """`kind` is a program of tests/targets with its arguments."""
    name, *arguments = kind.split()
    checkpoint = directory / "checkpoint"
    if name == "memory":
        with memory_target(directory, *arguments) as target:
            target.command(f"start {WRITER_PAGES_PER_S}")
            yield Patient(target, checkpoint, zygote, tally)
    elif name == "tree":
        with Target.spawn(name, TREE_CHILDREN, env={"TREE_FILE": str(directory / "shared-file")}) as target:
            yield Tree(target, checkpoint, zygote, tally)
    else:
        with Target.spawn(name, *arguments) as target:
            yield Patient(target, checkpoint, zygote, tally, check="status" if name == "selfcheck" else "check")
