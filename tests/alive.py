"""Processes that die into checkpoints and come back, and targets that say whether they are the same as before."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.harness import COMMAND_S, READY_S, TARGETS, Predump, children, is_alive, live_tree, poll_until, predump

_PR_SET_CHILD_SUBREAPER = 36


TRIES = 3


class Lives:
    """What is started and restored in the `with` block ends with it, by its pid and with its descendants.

    In the block orphans become our children: who has died is reaped at once, and the pid is free for a restore.
    """

    def __init__(self) -> None:
        self._roots: dict[int, subprocess.Popen[bytes] | None] = {}
        self._others: set[int] = set()

    def __enter__(self) -> Lives:
        self._others = children(os.getpid())
        _adopt_orphans(True)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            for pid in self._roots:
                self.end(pid)
        finally:
            _adopt_orphans(False)

    def start(self, *words: object, log: Path, cwd: Path | None = None) -> int:
        """A process in a session of its own, whose descriptors are files; its pid."""
        with log.open("ab") as output:
            return self.start_with(words, stdin=subprocess.DEVNULL, output=output.fileno(), cwd=cwd)

    def start_with(
        self, words: Sequence[object], *, stdin: int, output: int, cwd: Path | None = None, fds: Sequence[int] = ()
    ) -> int:
        """The same, with these descriptors of ours."""
        process = subprocess.Popen(
            list(map(str, words)),
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=cwd,
            pass_fds=fds,
        )
        self._roots[process.pid] = process
        return process.pid

    def dump(self, pid: int, checkpoint: Path, *options: object) -> Predump:
        """The process and its descendants into a dump, and then they are gone."""
        before = live_tree(pid)
        for tries_left in reversed(range(TRIES)):
            done = predump("dump", "-t", pid, "-D", checkpoint, "--kill", *options, check=False)
            if done.returncode == 0:
                break
            # So many threads spin that one did not get to its stop in time: it goes on untouched.
            assert tries_left, str(done)
            assert "did not stop within" in done.stderr, str(done)
        self._await_end(before)
        self._roots.pop(pid)
        return done

    def restore(
        self,
        checkpoint: Path,
        *options: object,
        fds: Sequence[int] = (),
        prefix: Sequence[str] = (sys.executable,),
        env: Mapping[str, str] | None = None,
    ) -> list[int]:
        """Bring them back; their pids, the root's first. `fds`: of ours, that predump has, too."""
        words = ("restore", checkpoint, "--detach", "--json", *options)
        done = predump(*words, pass_fds=fds, prefix=prefix, env=env)
        pids = done.result["pids"]
        assert isinstance(pids, list), str(done)
        self._roots[pids[0]] = None
        return [int(pid) for pid in pids]

    def end(self, pid: int) -> None:
        """Kill it and its descendants, and wait until they are gone."""
        for _ in range(10):  # it may make new ones meanwhile
            found = live_tree(pid)
            for one in found:
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            self._await_end(found or [pid])
            if not found:
                return

    def _await_end(self, pids: Sequence[int]) -> None:
        def are_gone() -> bool:
            self._reap()
            return not any(Path(f"/proc/{pid}").exists() for pid in pids)

        poll_until(are_gone, COMMAND_S, f"processes {pids} to end")

    def _reap(self) -> None:
        """All of our children that have ended, but for those of others."""
        for process in filter(None, self._roots.values()):
            process.poll()
        for pid in children(os.getpid()) - self._others:
            if not is_alive(pid):
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG | 0x40000000)  # __WALL


class Alive:
    """A target of tests/targets/alive.h in a directory of its own."""

    def __init__(self, lives: Lives, directory: Path, program: str, *parts: str) -> None:
        """Start it and wait until its parts are set up: those named, or all."""
        self.directory = directory
        self._lives = lives
        self._n_questions = 0
        directory.mkdir(mode=0o777)
        directory.chmod(0o777)
        self.pid = lives.start(TARGETS / "bin" / program, directory, *parts, log=directory / "log")
        self.parts = self._read("ready", READY_S).split()

    def check(self, part: str = "") -> dict[str, str]:
        """What is wrong, by part; empty if nothing is. Of one part only, if it is named."""
        found: dict[str, str] = {}
        for line in self._ask(f"check {part}".rstrip()).splitlines():
            part, _, what = line.partition(": ")
            found[part] = f"{found[part]}\n{what}" if part in found else what
        return found

    def spoil(self, part: str) -> None:
        """Let something that the part checks be wrong."""
        self._ask(f"spoil {part}")

    def die(self, checkpoint: Path, *options: object) -> None:
        """Into a dump."""
        self._lives.dump(self.pid, checkpoint, *options)

    def come_back(self, checkpoint: Path, *options: object) -> list[int]:
        """Out of the dump; the pids."""
        return self._lives.restore(checkpoint, *options)

    def _ask(self, question: str) -> str:
        number = self._n_questions
        self._n_questions += 1
        draft = self.directory / ".question"
        draft.write_text(question)
        draft.rename(self.directory / f"ask-{number}")
        return self._read(f"answer-{number}", COMMAND_S)

    def _read(self, name: str, deadline_s: float) -> str:
        path = self.directory / name

        def is_there() -> bool:
            return path.exists() or not is_alive(self.pid)

        poll_until(is_there, deadline_s, f"{name} of process {self.pid}, which says {self._said()}")
        assert path.exists(), f"process {self.pid} has ended without {name}, and said {self._said()}"
        return path.read_text()

    def _said(self) -> str:
        return (self.directory / "log").read_text(errors="replace")


def _adopt_orphans(adopts: bool) -> None:
    prctl: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_CHILD_SUBREAPER, int(adopts), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_CHILD_SUBREAPER")
