"""How long processes take to come back: until all is there, beside CRIU, and until they run when pages come later."""

import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

from benchmarks.bench import FILL_S, MIB, Bench, Command, run
from benchmarks.figures import Figure, spread
from benchmarks.measure import Say, ms
from formats.checkpoint import Checkpoint
from tests.harness import is_alive, poll_until

AS_IT_IS, PACKED = "0", "1"
"""Levels: CRIU does not compress, so that the first is to be compared with it."""
UNPACKING_THREADS = 2  # as restore has by default
IMPORTS = "import cli, display.reporter, formats.checkpoint, restorer.restore, restorer.files.choices"
COPY_PASSES = 5
CRIU_COPIES = 6.2
"""CRIU 4.2 takes 0.56 s for 1 GiB from images that are not compressed where memory is copied at 11 GiB/s."""
FIRST_INSTRUCTION_MS = 50.0
MS_PER_TOUCHED_MIB = 1.0
TOUCHED_MIB = 64
END_S = 10.0
_SHARED = struct.Struct("4Q")  # of wakes.c: ready, go, woken_ns, touched_ns


class Sleeper:
    """A process of wakes.c, captured and gone, that comes back again and again."""

    def __init__(self, bench: Bench, directory: Path, mib: int, touched_mib: int) -> None:
        path = directory / "shared"
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        words = [str(bench.program("wakes")), str(mib), str(touched_mib), str(path)]
        with (directory / "log").open("ab") as log:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        self._process = process
        self.pid = process.pid
        poll_until(lambda: self._read()[0] == 1, FILL_S, "memory to be filled")

    def end(self) -> None:
        """It is gone, and its id is free."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self._process.returncode is None:
            self._process.wait()
        poll_until(lambda: not Path(f"/proc/{self.pid}").exists(), END_S, "its parent to take note of its end")
        self._tell_to_go(0)

    def times_after(self, bring_back: Callable[[], Command]) -> tuple[float, float, float]:
        """How long that takes, and until it runs, and until it has touched its memory; in ms. It has ended again."""
        self._tell_to_go(1)
        start_ns = time.monotonic_ns()
        try:
            done = bring_back()
            poll_until(lambda: self._read()[3] > 0 or not is_alive(self.pid), END_S, "it to go on")
            _, _, woken_ns, touched_ns = self._read()
        finally:
            self.end()
        if not touched_ns:
            raise RuntimeError("a process that was brought back has ended")
        return ms(done.wall_ns), ms(woken_ns - start_ns), ms(touched_ns - start_ns)

    def _tell_to_go(self, go: int) -> None:
        self._shared[: _SHARED.size] = _SHARED.pack(1, go, 0, 0)

    def _read(self) -> tuple[int, ...]:
        return _SHARED.unpack_from(self._shared)


@contextmanager
def _sleeper(bench: Bench, mib: int, touched_mib: int) -> Iterator[tuple[Sleeper, Path]]:
    """One that runs still, and a directory for its images."""
    with bench.directory() as directory:
        sleeper = Sleeper(bench, directory, mib, touched_mib)
        try:
            yield sleeper, directory
        finally:
            sleeper.end()


def restores(bench: Bench, mib: int, size: str, runs: int, say: Say) -> list[Figure]:
    """Until all of the memory is there: predump's images as they are by default and not compressed, and CRIU's."""
    took_ms: dict[str, list[float]] = {level: [] for level in (AS_IT_IS, PACKED)}
    limits_ms: list[float] = []
    unpack_ms: list[float] = []
    limit_name = "CRIU, from images that are not compressed"
    with _sleeper(bench, mib, 0) as (sleeper, directory):
        for level in took_ms:
            say(f"a dump at level {level} to restore")
            _dump(bench, sleeper, directory / level, "--level", level)
        problem = _criu_dump(sleeper, directory / "criu")
        if problem:
            limit_name = f"{CRIU_COPIES} x reading and writing the same memory once"
        sleeper.end()
        for i in range(runs):
            say(f"restore {i + 1} of {runs}")
            for level, taken in took_ms.items():
                taken.append(_times(bench, sleeper, mib, directory / level)[0])
            unpack_ms.append(ms(_unpack_ns(directory / PACKED)))
            if problem:
                limits_ms.append(CRIU_COPIES * ms(_copy_ns(bench, mib)))
            else:
                bench.touch_memory(mib * MIB)
                limits_ms.append(sleeper.times_after(lambda: _criu("restore", "-d", directory / "criu"))[0])
    plain, packed = took_ms[AS_IT_IS], took_ms[PACKED]
    return [
        Figure(
            name=f"{size}: restore, image not compressed",
            unit="ms",
            limit_name=limit_name,
            measured=plain,
            limits=limits_ms,
            note=f"wall time of the command, as CRIU's{problem}",
        ),
        Figure(
            name=f"{size}: restore, image compressed as by default",
            unit="ms",
            limit_name="the same, and unpacking it once by two threads",
            measured=packed,
            limits=[limit + unpacking for limit, unpacking in zip(limits_ms, unpack_ms, strict=True)],
            note=f"wall time of the command; unpacking alone {spread(unpack_ms)} ms",
            details={"unpack_ms": unpack_ms},
        ),
    ]


def lazy_restores(bench: Bench, mib: int, size: str, runs: int, say: Say) -> list[Figure]:
    """Until it runs, and until it has touched some of its memory, which comes when it asks."""
    start_ms: list[float] = []
    woken_ms: list[float] = []
    touched_ms: list[float] = []
    with _sleeper(bench, mib, TOUCHED_MIB) as (sleeper, directory):
        say(f"{size}: a dump to restore lazily")
        _dump(bench, sleeper, directory / "checkpoint")
        sleeper.end()
        for i in range(runs):
            say(f"{size}: lazy restore {i + 1} of {runs}")
            start_ms.append(ms(run(sys.executable, "-c", IMPORTS).wall_ns))
            _, woken, touched = _times(bench, sleeper, mib, directory / "checkpoint", "--lazy")
            woken_ms.append(woken)
            touched_ms.append(touched)
    start = median(start_ms)
    return [
        Figure(
            name=f"{size}: restore --lazy, until {what}",
            unit="ms",
            measured=measured,
            limit_name=f"{limit:.0f} ms, and starting Python with the modules",
            limits=[limit + start] * runs,
        )
        for what, measured, limit in (
            ("its first instruction", woken_ms, FIRST_INSTRUCTION_MS),
            (f"it has touched {TOUCHED_MIB} MiB", touched_ms, FIRST_INSTRUCTION_MS + MS_PER_TOUCHED_MIB * TOUCHED_MIB),
        )
    ]


def _dump(bench: Bench, sleeper: Sleeper, directory: Path, *options: str) -> None:
    bench.predump("dump", "-p", sleeper.pid, "-D", directory, "--no-pre-dump", "--leave-running", *options)


def _times(bench: Bench, sleeper: Sleeper, mib: int, directory: Path, *options: str) -> tuple[float, float, float]:
    bench.touch_memory(mib * MIB)
    return sleeper.times_after(lambda: bench.predump("restore", directory, "--detach", *options))


def _criu_dump(sleeper: Sleeper, directory: Path) -> str:
    """The process into images of CRIU, with which it ends; why that is not possible here, or ""."""
    if shutil.which("criu") is None:
        return "; CRIU is not installed here"
    directory.mkdir()
    try:
        _criu("dump", "-t", str(sleeper.pid), directory)
    except RuntimeError:
        return "; the CRIU that is installed here cannot dump the process"
    return ""


def _criu(command: str, *options: object) -> Command:
    """One of its commands, on the directory that comes last."""
    *words, directory = map(str, options)
    return run("criu", command, *words, "-D", directory, "-o", f"{command}.log")


def _unpack_ns(checkpoint: Path) -> float:
    """All pages of its only process, unpacked and thrown away."""
    info = Checkpoint.open(checkpoint).round()
    (process,) = info.manifest.processes
    with info.pages_of(process).open_frames() as frames, ThreadPoolExecutor(UNPACKING_THREADS) as pool:
        start_ns = time.monotonic_ns()
        for _ in pool.map(lambda index: len(frames.read_frame(index)), range(frames.frame_count)):
            pass
        return time.monotonic_ns() - start_ns


def _copy_ns(bench: Bench, mib: int) -> float:
    done = run(str(bench.program("copies")), str(mib), str(COPY_PASSES))
    return median(map(int, done.stdout.split()))
