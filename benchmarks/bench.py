"""What the measurements need: programs, a target, commands with their costs, gcore, a place on tmpfs."""

import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self

from tests.harness import Event, Target, build_targets, parse_events

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
TMPFS = Path("/dev/shm")
COMMAND_S = 600.0
FILL_S = 300.0
WATCH_INTERVAL_S = 0.0005
MIB = 1 << 20
IMPORTS = "import cli, display.progress, dumper.session"


@dataclass(frozen=True, slots=True)
class Command:
    """A command that ended well: its output, wall time and peak resident memory (VmHWM)."""

    stdout: str
    wall_ns: int
    max_rss_bytes: int

    @property
    def round(self) -> Event:
        """The event of its last round."""
        return [event for event in parse_events(self.stdout) if event["type"] == "round"][-1]


@dataclass(frozen=True, slots=True)
class Floor:
    """The median pass of floor.c."""

    total_ns: float
    stop_ns: float
    scan_ns: float


@dataclass(frozen=True, slots=True)
class Gcore:
    """gdb's gcore: its wall time, how long it kept the target stopped, and the size of the core file."""

    wall_ns: int
    stopped_ns: int
    core_bytes: int


class StopWatcher:
    """Sees from outside how long a process is in state 't' (stopped by a tracer), from first to last sight.

    It looks every half millisecond or so: the time is short by two looks at most.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stop-watcher")
        self._first_ns = self._last_ns = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    @property
    def stopped_ns(self) -> int:
        """Valid after the `with` block."""
        return self._last_ns - self._first_ns

    def _watch(self) -> None:
        fd = os.open(f"/proc/{self._pid}/task/{self._pid}/stat", os.O_RDONLY)
        try:
            while not self._end.wait(WATCH_INTERVAL_S):
                if os.pread(fd, 256, 0).rpartition(b")")[2].split()[0] == b"t":
                    self._last_ns = time.monotonic_ns()
                    self._first_ns = self._first_ns or self._last_ns
        except ProcessLookupError:
            pass  # the target has ended: whoever waits for it will say so
        finally:
            os.close(fd)


class Bench:
    """Compiled programs and a directory on tmpfs; both are gone after the `with` block."""

    def __init__(self) -> None:
        self.has_gcore = shutil.which("gcore") is not None

    def __enter__(self) -> Self:
        self._scratch = Path(tempfile.mkdtemp(prefix="predump-bench-", dir=TMPFS))
        try:
            for name in ("target", "floor", "clone", "state", "loop", "redisload", "wakes", "copies"):
                self._compile(name)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _compile(self, name: str) -> None:
        command = ["cc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", str(self._scratch / name)]
        subprocess.run([*command, str(HERE / f"{name}.c"), "-lpthread"], check=True)

    # ---- places --------------------------------------------------------------------------------

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """A new directory on tmpfs, removed afterwards."""
        path = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            yield path
        finally:
            shutil.rmtree(path)

    def touch_memory(self, size_bytes: int) -> None:
        """Has the host back the memory that is needed next: the first touch of long-free memory is slow."""
        block = bytes(4 * MIB)
        path = self._scratch / "touched"
        try:
            with path.open("wb", buffering=0) as file:
                for _ in range(0, size_bytes, len(block)):
                    file.write(block)
        finally:
            path.unlink(missing_ok=True)

    @staticmethod
    def lacks_memory_for(mib: int) -> str:
        """Why a target of that size cannot be measured here, or "": it, its core and its image must fit."""
        needed_mib = 2.5 * mib + 1024
        with Path("/proc/meminfo").open() as lines:
            available = next(line for line in lines if line.startswith("MemAvailable:"))
        free_mib = min(int(available.split()[1]) >> 10, shutil.disk_usage(TMPFS).free // MIB)
        if free_mib >= needed_mib:
            return ""
        return f"needs {needed_mib:.0f} MiB of free memory in {TMPFS}, there are {free_mib}"

    # ---- programs ------------------------------------------------------------------------------

    @contextmanager
    def target(self, mib: int) -> Iterator[Target]:
        """A target with so much heap-like memory, its writer idle."""
        with Target.spawn(str(self._scratch / "target"), mib) as target:
            target.command("fill", FILL_S)
            yield target

    def state_target(self, threads: int, descriptors: int) -> Target:
        """A process at rest with so many of them."""
        return Target.spawn(str(self._scratch / "state"), threads, descriptors)

    def loop(self, mib: int, hot_mib: int) -> Target:
        """A process of so many MiB that does nothing but write to a part of them."""
        return Target.spawn(str(self._scratch / "loop"), mib, hot_mib)

    @contextmanager
    def idle_tree(self, processes: int, mib: int) -> Iterator[Target]:
        """A tree of so many processes of so many MiB of private memory each, of which none writes."""
        build_targets()
        with Target.spawn("tree", processes - 1, mib * 256, env={"TREE_IDLE": "1"}) as target:
            yield target

    def program(self, name: str) -> Path:
        """One of the programs of this directory."""
        return self._scratch / name

    def predump(self, *args: object, codes: Sequence[int] = (0,), streams: bool = False) -> Command:
        """`predump ARGS`. Raises RuntimeError as `run`."""
        return run(sys.executable, "-m", "cli", *map(str, args), codes=codes, streams=streams)

    def start_s(self) -> float:
        """How long it takes to start Python with the modules that a command on a process needs."""
        return run(sys.executable, "-c", IMPORTS).wall_ns / 1e9

    def floor(self, pid: int, passes: int) -> Floor:
        """The least that a freeze with one scan of the memory can take on this machine, now."""
        done = run(str(self._scratch / "floor"), str(pid), str(passes))
        rows = sorted([int(word) for word in line.split()] for line in done.stdout.splitlines())
        total_ns, stop_ns, scan_ns = rows[len(rows) // 2]
        return Floor(total_ns, stop_ns, scan_ns)

    def clone_ns(self, pid: int, passes: int) -> float:
        """The least that a freeze with a clone can take on this machine, now: the median pass of clone.c."""
        done = run(str(self._scratch / "clone"), str(pid), str(passes))
        return median(int(line.split()[0]) for line in done.stdout.splitlines())

    def gcore(self, pid: int, directory: Path) -> Gcore:
        """gdb's gcore of the process into the directory; the core is removed again."""
        core = directory / f"core.{pid}"
        try:
            with StopWatcher(pid) as watcher:
                done = run("gcore", "-o", str(directory / "core"), str(pid))
            return Gcore(done.wall_ns, watcher.stopped_ns, core.stat().st_size)
        finally:
            core.unlink(missing_ok=True)


def run(*words: str, codes: Sequence[int] = (0,), streams: bool = False) -> Command:
    """Runs a program to its end. With `streams`, standard output goes to /dev/null, and standard error is its output.

    Raises RuntimeError with its output unless it exits in time with one of `codes`.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start_ns = time.monotonic_ns()
        places = (subprocess.DEVNULL, out) if streams else (out, err)
        process = subprocess.Popen(words, cwd=REPO, stdin=subprocess.DEVNULL, stdout=places[0], stderr=places[1])
        try:
            status, max_rss_kib = wait(process)
            wall_ns = time.monotonic_ns() - start_ns
        except BaseException:
            process.kill()
            process.wait()
            raise
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read(), err.read()
    if status not in codes:
        raise RuntimeError(f"{' '.join(words)}: exit code {status}\n{stdout}{stderr}")
    return Command(stdout, wall_ns, max_rss_kib * 1024)


def wait(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Exit code and ru_maxrss in KiB: getrusage(2)."""
    pidfd = os.pidfd_open(process.pid)
    try:
        if not select.select([pidfd], [], [], COMMAND_S)[0]:
            raise RuntimeError(f"{process.args!r}: no end within {COMMAND_S} s")
    finally:
        os.close(pidfd)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss
