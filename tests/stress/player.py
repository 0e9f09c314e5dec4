"""Plays a sequence: tells the target what to do, runs the commands, and compares."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from dumper import session as engine
from dumper.convergence import Policy
from dumper.dump import AfterDump
from dumper.rounds import Options
from dumper.session import Session
from formats.chain import MemoryView
from formats.check import verify
from formats.checkpoint import Checkpoint
from formats.errors import NotACheckpoint, ParentMissing
from formats.flatten import FlattenOptions
from formats.replacing import flatten_in_place
from formats.rounddirs import list_round_paths
from tests.harness import (
    Target,
    is_alive,
    is_stopped,
    is_untouched,
    keeper_pids,
    live_tree,
    poll_until,
    predump,
)
from tests.oracle import compare_view
from tests.stress.sequences import MIB, Command, How, Mishap, Sequence, Told
from tests.tally import Count, Tally

NOT_CONVERGED = 3
POLICY = Policy(max_freeze_ns=10**10, max_rounds=3, timeout_ns=10**11)


def _options(command: Command) -> tuple[str, int, bool]:
    """What a session is opened with."""
    return command.checkpoint, command.staging_mib, command.keeps


class Harmed(AssertionError):
    """The target is not as it would be without predump."""


class Player:
    """A target, its checkpoints, and the session that is kept open from one command to the next; a context manager."""

    def __init__(self, sequence: Sequence, target: Target, directory: Path, tally: Tally) -> None:
        self._sequence = sequence
        self._target = target
        self._directory = directory
        self._tally = tally
        self._kept: Session | None = None
        self._kept_for: Command | None = None

    def __enter__(self) -> Player:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._let_go()

    def play(self) -> None:
        """All steps; the target must be clean and free in the end. Raises AssertionError, PredumpError."""
        for step in self._sequence.steps:
            if isinstance(step, Told):
                self._tell(step.line)
            elif isinstance(step, Mishap):
                self._let_go()
                self._meddle(step)
            else:
                self._run(step)
        self._tell("stop")
        self._count_operations()
        self._let_go()
        poll_until(lambda: not keeper_pids(self._target.pid), 10, "the keeper to end")
        self._expect_unharmed(self._target.check)

    def _tell(self, line: str) -> None:
        if line == "exec":
            self._count_operations()
        self._expect_unharmed(lambda: self._target.command(line))

    def _count_operations(self) -> None:
        said: list[str] = []
        self._expect_unharmed(lambda: said.append(self._target.command("check")))
        self._tally.add(Count.OPERATIONS, int(said[0].removeprefix("ok done=")))

    def _expect_unharmed(self, action: Callable[[], object]) -> None:
        try:
            action()
        except AssertionError as error:
            raise Harmed(str(error)) from error

    def _meddle(self, mishap: Mishap) -> None:
        one, other = self._directory / "one", self._directory / "other"
        if mishap is Mishap.LOST:
            for path in list_round_paths(one)[-1:]:
                shutil.rmtree(path)
        elif one.exists() and mishap is Mishap.COPIED:
            shutil.rmtree(other, ignore_errors=True)
            shutil.copytree(one, other)
        elif one.exists() and other.exists():
            between = one.rename(self._directory / "between")
            other.rename(one)
            between.rename(other)

    # ---- commands --------------------------------------------------------------------------------------------------

    def _run(self, command: Command) -> None:
        if command.name == "flatten":
            self._let_go()
            self._flatten(self._directory / command.checkpoint)
        elif command.how is How.CLI:
            self._let_go()
            self._run_cli(command)
        elif command.name == "detach":
            self._let_go()
            engine.detach(self._target.pid)
        else:
            self._run_in_session(command)
        if command.compares:
            self._compare(command)
        else:
            self._expect_all_untouched(live_tree(self._target.pid))

    def _flatten(self, checkpoint: Path) -> None:
        """In place, with a round kept as it is; a checkpoint that lacks a round cannot be flattened."""
        with suppress(NotACheckpoint, ParentMissing):
            flatten_in_place(checkpoint, None, 1, FlattenOptions(), lambda _done, _total: None)

    def _run_cli(self, command: Command) -> None:
        words: list[object] = [command.name, "-t" if self._sequence.tree else "-p", self._target.pid]
        if command.name != "detach":
            words += ["-D", self._directory / command.checkpoint, "--staging", f"{command.staging_mib}M"]
        if command.name == "dump" and not command.pre_dump:
            words.append("--no-pre-dump")
        if command.name == "run":
            words += ["--max-freeze", "10s", "--max-rounds", POLICY.max_rounds]
        if command.compares:
            words.append("--leave-stopped")
        if command.keeps and command.name in ("dump", "run"):
            words.append("--keep-tracking")
        done = predump(*words, check=False)
        allowed = (0, NOT_CONVERGED) if command.name == "run" else (0,)
        assert done.returncode in allowed, str(done)

    def _run_in_session(self, command: Command) -> None:
        same = self._kept_for is not None and _options(self._kept_for) == _options(command)
        if not same or command.how is How.SESSION:
            self._let_go()
        session = self._kept or self._open(command)
        after = AfterDump.LEAVE_STOPPED if command.compares else AfterDump.LEAVE_RUNNING
        if command.name == "pre-dump":
            session.pre_dump()
        elif command.name == "dump":
            session.dump(after, pre_dump=command.pre_dump)
        else:
            session.run(POLICY, after, 0)
        goes_on = command.name == "pre-dump" or command.keeps
        if not goes_on or command.how is How.SESSION:
            self._let_go()

    def _open(self, command: Command) -> Session:
        options = Options(staging_bytes=command.staging_mib * MIB, keep_tracking=command.keeps)
        directory = self._directory / command.checkpoint
        self._kept = Session(self._target.pid, directory, options, lambda _: None, tree=self._sequence.tree)
        self._kept_for = command
        return self._kept

    def _let_go(self) -> None:
        kept, self._kept, self._kept_for = self._kept, None, None
        if kept:
            kept.close()

    # ---- what must hold --------------------------------------------------------------------------------------------

    def _compare(self, command: Command) -> None:
        """Every process that was captured equals what the last round says of it."""
        pids = live_tree(self._target.pid) if self._sequence.tree else [self._target.pid]
        checkpoint = Checkpoint.open(self._directory / command.checkpoint)
        with ExitStack() as stack:
            for pid in pids:
                stack.callback(os.kill, pid, signal.SIGCONT)
            assert sorted(p.pid for p in checkpoint.round().manifest.processes if not p.zombie) == sorted(pids)
            for pid in pids:
                assert is_stopped(pid), f"--leave-stopped leaves process {pid} stopped"
                assert " uw" not in Path(f"/proc/{pid}/smaps").read_text(), f"process {pid} is under write-protection"
                with MemoryView(checkpoint, None, pid) as view:
                    found = compare_view(pid, view)
                self._tally.compared(found)
                assert not found.mismatches, f"process {pid}: {found}"
                assert found.pages_compared > 1000
            report = verify(checkpoint)
            assert report.exit_code == 0, report.findings
        self._expect_all_untouched(pids)
        self._tell("check")

    def _expect_all_untouched(self, pids: list[int]) -> None:
        def untouched(pid: int) -> bool:
            try:
                return not is_alive(pid) or is_untouched(pid)
            except (FileNotFoundError, ProcessLookupError):
                return True  # a child ended

        what = f"all of {pids} to be untouched"
        self._expect_unharmed(lambda: poll_until(lambda: all(map(untouched, pids)), 10, what))
