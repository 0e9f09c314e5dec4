"""Processes that come back while their checkpoint arrives: what a receiver asks for (streams.revival)."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dumper.proc import GONE_ERRORS
from dumper.proc.stat import read_stat
from dumper.shellcommand import run_command
from formats.buildid import build_id
from formats.checkpoint import Checkpoint, RoundInfo
from formats.errors import PredumpError
from restorer.ahead import Ahead, ahead_options
from restorer.errors import RestoreFailed
from restorer.events import Restored, Tell
from restorer.restore import Restoration, RestoreOptions
from streams.filecopy import is_plain_path, problem_of
from streams.questions import MAX_PROBLEMS, Problem, WantedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class BeforeResume:
    """A shell command that runs right before the processes do, "" for none; it gets one line of JSON."""

    command: str = ""
    timeout_s: float = 10.0


class Arrival:
    """See streams.revival.Revival. `restored` is what came of it."""

    def __init__(self, path: Path, options: RestoreOptions, tell: Tell, before_resume: BeforeResume) -> None:
        self.restored: Restored | None = None
        self._path = path
        self._options = options
        self._tell = tell
        self._before_resume = before_resume
        self._directory = Path.cwd()
        self._ahead = Ahead(
            ahead_options(same_pids=options.same_pids, pid_namespace=options.pid_namespace),
            own_session=options.own_session,
            threads=options.threads,
            tell=tell,
        )
        self._restoration: Restoration | None = None
        self._images: Checkpoint | None = None
        self._round = 0
        self._started_ns = 0
        self._pids: list[int] = []

    def problems(self, files: Sequence[WantedFile]) -> list[Problem]:
        """See Revival."""
        found = (_problem(number, wanted) for number, wanted in enumerate(files))
        return [one for one in found if one][:MAX_PROBLEMS]

    def prepare(self, info: RoundInfo) -> None:
        """See Revival."""
        self._ahead.prepare(self._images_up_to(info), info.number)

    def complete(self, info: RoundInfo) -> list[str]:
        """See Revival."""
        self._started_ns = time.monotonic_ns()
        self._round = info.number
        images = self._images_up_to(info)
        self._restoration = Restoration(images, info.number, self._options, self._tell, ahead=self._ahead)
        try:
            self._restoration.build()
            self._pids = self._restoration.pids
            return [_identity(pid) for pid in self._pids]
        except BaseException:
            self.abort()
            raise

    def before_run(self) -> None:
        """See Revival."""
        command = self._before_resume.command
        if not command:
            return
        told = {"hook": "before-resume", "round": self._round, "pids": self._pids}
        problem = run_command(command, json.dumps(told) + "\n", self._before_resume.timeout_s, self._directory)
        if problem:
            raise RestoreFailed(
                f"The command to run before the process resumes {problem}: {command}.",
                hint="Nothing was left behind. Mend the command, or leave --exec-before-resume out.",
            )

    def run(self) -> list[int]:
        """See Revival."""
        assert self._restoration
        try:
            self.restored = self._restoration.release(self._started_ns)
        except PredumpError:
            self.abort()
            for pid in self._pids:  # of several, some may have been let go; they are children that nobody waited for
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise
        return self.restored.pids

    def abort(self) -> None:
        """See Revival."""
        self._ahead.close()
        if self._restoration is not None:
            self._restoration.close()
            self._restoration = None

    def _images_up_to(self, info: RoundInfo) -> Checkpoint:
        self._images = self._images or Checkpoint.open(self._path)
        self._images.add(info)
        return self._images

    def is_there(self, processes: Sequence[str]) -> bool:
        """See Revival."""
        return all(_is_there(one) for one in processes)


def _problem(number: int, wanted: WantedFile) -> Problem | None:
    if not is_plain_path(wanted.path):
        return Problem(file=number, what="has no plain path", is_missing=False)
    try:
        fd = os.open(wanted.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return problem_of(number, wanted, "", None)
    except OSError as error:
        return Problem(file=number, what=f"cannot be opened ({error.strerror})", is_missing=False)
    try:
        return problem_of(number, wanted, _build_id(fd) if wanted.build_id else "", os.fstat(fd))
    finally:
        os.close(fd)


def _build_id(fd: int) -> str:
    return build_id(lambda offset_bytes, n_bytes: os.pread(fd, n_bytes, offset_bytes))


def _identity(pid: int) -> str:
    """Of a process, also once its pid was used again."""
    return f"{pid} {read_stat(pid).start_time_ticks}"


def _is_there(identity: str) -> bool:
    pid, _, _ = identity.partition(" ")
    try:
        return pid.isascii() and pid.isdigit() and _identity(int(pid)) == identity and not read_stat(int(pid)).has_ended
    except GONE_ERRORS:
        return False
