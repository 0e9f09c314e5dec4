"""A program of the tests that dies into a dump, and stands still when it has come back, to be looked at."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dumper.proc.maps import parse_line
from dumper.proc.smaps import GUARD_FLAG, parse_smaps_flags, read_smaps
from formats.chain import MemoryView
from formats.checkpoint import Checkpoint
from restorer.restore import Restoration, RestoreOptions
from tests.harness import COMMAND_S, READY_S, TARGETS, is_stopped, poll_until, predump
from tests.oracle import Comparison, compare_view

Mapped = tuple[int, int, str, int, str, str]
"""Start, end, permissions, offset, path and VmFlags."""


class Program:
    """A target whose standard input is a FIFO and whose output is a file, so that both are there when it comes back."""

    def __init__(self, directory: Path, name: str, *args: object) -> None:
        directory.mkdir(exist_ok=True)
        self._output = directory / "output"
        self._input = directory / "input"
        os.mkfifo(self._input)
        self._fd = os.open(self._input, os.O_RDWR | os.O_CLOEXEC)
        with self._output.open("ab") as output:
            words = [str(TARGETS / "bin" / name), *map(str, args)]
            self._process = subprocess.Popen(words, stdin=self._fd, stdout=output, start_new_session=True)
        self.pid = self._process.pid
        self._n_lines = 0
        self._read("ready", READY_S)

    def command(self, line: str) -> str:
        """Send one command, and its answer, which begins with ok."""
        os.write(self._fd, line.encode() + b"\n")
        return self._read("ok", COMMAND_S)

    def end(self) -> None:
        """It has no life any more, and is reaped."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self._process.returncode is None:
            self._process.wait(COMMAND_S)

    def close(self) -> None:
        self.end()
        os.close(self._fd)

    def _read(self, beginning: str, deadline_s: float) -> str:
        def lines() -> list[str]:
            return self._output.read_text().splitlines()[self._n_lines :]

        poll_until(lambda: bool(lines()), deadline_s, f"an answer of process {self.pid}")
        line = lines()[0]
        self._n_lines += 1
        assert line.startswith(beginning), line
        return line


@contextmanager
def program(directory: Path, name: str, *args: object) -> Iterator[Program]:
    """It is gone when the block ends."""
    found = Program(directory, name, *args)
    try:
        yield found
    finally:
        found.close()


def mappings(pid: int) -> list[Mapped]:
    """All of a process, but for the flag of those that merely were next to a guard page."""
    flags = {start: found for start, _, found in parse_smaps_flags(read_smaps(pid))}
    lines = map(parse_line, Path(f"/proc/{pid}/maps").read_bytes().splitlines())
    return [
        (
            line.start_addr,
            line.end_addr,
            line.perms,
            line.offset_bytes,
            line.path,
            " ".join(flag for flag in flags[line.start_addr].split() if flag != GUARD_FLAG),
        )
        for line in lines
    ]


def die(target: Program, checkpoint: Path) -> list[Mapped]:
    """Into a dump; its mappings right before the end."""
    predump("dump", "-p", target.pid, "-D", checkpoint, "--no-pre-dump", "--leave-stopped")
    before = mappings(target.pid)
    target.end()
    return before


@contextmanager
def come_back(checkpoint: Path, *, said: list[str] | None = None) -> Iterator[int]:
    """The pid of the process, which is stopped and ends with the block; `said` takes what came back otherwise."""
    options = RestoreOptions(stopped=True)
    tell = [].append if said is None else said.append
    with Restoration(Checkpoint.open(checkpoint), None, options, tell) as restoration:
        restoration.build()
        (pid,) = restoration.release(time.monotonic_ns()).pids
    try:
        poll_until(lambda: is_stopped(pid), COMMAND_S, f"process {pid} to be stopped")
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def compare(pid: int, checkpoint: Path, image_pid: int | None = None) -> Comparison:
    """Every page of the stopped process against the dump, but for where the kernel tells threads their processor.

    `image_pid`: which process of a tree it is; the root by default.
    """
    with MemoryView(Checkpoint.open(checkpoint), pid=image_pid) as view:
        areas = [thread.rseq for thread in view.process.threads if thread.rseq]
        return compare_view(pid, view, [(area.addr, area.addr + area.size_bytes) for area in areas])
