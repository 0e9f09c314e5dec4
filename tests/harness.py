"""Test targets as context managers, and predump's command line as a function.

Nothing here sleeps for luck: whatever takes time is polled for, with a deadline. A target is killed
by its own pid and reaped when its `with` block ends, whatever happened inside.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import pytest

from tests.schemas import check_event

REPO = Path(__file__).resolve().parent.parent
TARGETS = REPO / "tests" / "targets"
READY_S = 30.0
COMMAND_S = 30.0
PREDUMP_S = 120.0
_POLL_S = 0.002


@contextmanager
def alone(what: str) -> Iterator[None]:
    """The tests of one process at a time are in the block: `make test` runs them in several, on one machine."""
    with (Path(tempfile.gettempdir()) / f"predump-tests-{what}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_targets() -> None:
    """Compile the target programs; what is up to date is left alone."""
    with alone("targets"):
        done = subprocess.run(["make", "-s", "-C", str(TARGETS)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"make -C {TARGETS} failed:\n{done.stdout}{done.stderr}")


def poll_until(predicate: Callable[[], bool], deadline_s: float, what: str) -> None:
    """Return once `predicate` holds; AssertionError naming `what` after `deadline_s` seconds."""
    end = time.monotonic() + deadline_s
    while not predicate():
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s} s in vain for: {what}")
        time.sleep(_POLL_S)


# ---- what /proc says of a process ----


def _status_field(pid: int, name: str) -> str:
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"^{name}:\s*(.*)$", text, re.MULTILINE)
    if match is None:
        raise KeyError(name)
    return match.group(1)


def proc_state(pid: int) -> str:
    """The state letter of the leading thread: R, S, D, T (stopped), t (traced), Z, X."""
    return _status_field(pid, "State")[0]


def tracer_pid(pid: int) -> int:
    """The pid that traces the leading thread, 0 when nobody does."""
    return int(_status_field(pid, "TracerPid"))


def thread_fields(pid: int, name: str) -> dict[int, str]:
    """One field of /proc/PID/task/TID/status for every thread; threads that end are left out."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            text = (task / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        match = re.search(rf"^{name}:\s*(.*)$", text, re.MULTILINE)
        if match is not None:
            found[int(task.name)] = match.group(1)
    return found


def is_stopped(pid: int) -> bool:
    """Whether every thread is stopped by a signal, and none only by a tracer."""
    return all(state[0] == "T" for state in thread_fields(pid, "State").values())


def is_untouched(pid: int) -> bool:
    """Whether no thread of `pid` is traced or stopped."""
    traced = any(tracer != "0" for tracer in thread_fields(pid, "TracerPid").values())
    stopped = any(state[0] in "Tt" for state in thread_fields(pid, "State").values())
    return not traced and not stopped


def is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended; a zombie has."""
    try:
        return proc_state(pid) not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def live_tree(pid: int) -> list[int]:
    """The process and its descendants, parents first, without those that have ended. Exact while none of them runs."""
    found = [pid] if is_alive(pid) else []
    for parent in found:
        with suppress(FileNotFoundError, ProcessLookupError):  # a process that ends
            for task in Path(f"/proc/{parent}/task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends
                    found += filter(is_alive, map(int, (task / "children").read_text().split()))
    return found


def children(pid: int) -> set[int]:
    """The children of all its threads, also those that have ended and were not waited for."""
    return {int(word) for one in Path(f"/proc/{pid}/task").iterdir() for word in (one / "children").read_text().split()}


def page_tables_kb(pid: int) -> int:
    """VmPTE: what the page tables of `pid` take, in kB."""
    return int(_status_field(pid, "VmPTE").split()[0])


def tracked_vmas(pid: int) -> int:
    """VMAs with the flag `uw`: registered for write-protection by a userfaultfd."""
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    return sum(line.startswith("VmFlags:") and " uw" in line for line in lines)


def keeper_pids(pid: int) -> list[int]:
    """The predump keepers (`python -m dumper.keeper PID ...`) that track process `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"dumper.keeper" in words:
            after = words[words.index(b"dumper.keeper") + 1 :]
            if after[:1] == [str(pid).encode()]:
                found.append(int(entry.name))
    return found


def _end_keepers(pid: int) -> None:
    for keeper in keeper_pids(pid):
        with suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGKILL)


def open_descriptors(pid: int) -> dict[str, str]:
    """What the process has open, by the path of each descriptor in /proc."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed just now
            found[str(entry)] = str(entry.readlink())
    return found


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """All threads of `pid` stopped by SIGSTOP inside the block, running again after it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        poll_until(lambda: is_stopped(pid), COMMAND_S, f"process {pid} to stop")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# ---- targets ----


class Target:
    """A running target program; use as a context manager."""

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._process = process
        self._log = log
        self._unread = b""
        self._seen: list[str] = []
        self.ready = ""
        """The `ready ...` line."""

    @classmethod
    def spawn(
        cls, program: str, *args: object, namespaces: tuple[str, ...] = (), env: Mapping[str, str] | None = None
    ) -> Target:
        """Start tests/targets/bin/PROGRAM (or a program given by its path) and wait for `ready`.

        `namespaces` are options of unshare(1) for namespaces of its own; `env` is added to the environment.
        """
        path = Path(program) if "/" in program else TARGETS / "bin" / program
        log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in __exit__
        process = subprocess.Popen(
            [*(("unshare", *namespaces) if namespaces else ()), str(path), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **(env or {})},
            bufsize=0,
        )
        target = cls(process, log)
        try:
            target.ready = target._read_line(READY_S)
            if not target.ready.startswith("ready"):
                raise target._error("said something other than ready")
        except BaseException:
            target.__exit__(None, None, None)
            raise
        return target

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._process.kill()  # by pid, and only while it is ours: Popen knows when it was reaped
        self._process.wait(COMMAND_S)
        _end_keepers(self.pid)  # by themselves they end as well, which has a test of its own
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_closed_its_output(self) -> bool:
        """Whether nobody has the writing end of its standard output any more."""
        output = select.poll()
        output.register(self._process.stdout or -1, select.POLLIN)
        return bool(output.poll(0)) and bool(output.poll(0)[0][1] & select.POLLHUP)

    def alive(self) -> bool:
        """Whether the process has not ended (a stopped one is alive)."""
        return self._process.poll() is None

    def wait(self, deadline_s: float = COMMAND_S) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            raise self._error(f"did not end within {deadline_s} s") from error

    def command(self, line: str, deadline_s: float = COMMAND_S) -> str:
        """Send one command, return the one-line answer; AssertionError unless it begins with ok."""
        self.send(line)
        return self.answer(line, deadline_s)

    def send(self, line: str) -> None:
        """Send one command without waiting for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
        except BrokenPipeError as error:
            raise self._error(f"was gone at '{line}'") from error

    def answer(self, line: str, deadline_s: float = COMMAND_S) -> str:
        """The answer to the command `line` that was sent; AssertionError unless it begins with ok."""
        answer = self._read_line(deadline_s)
        if not answer.startswith("ok"):
            raise self._error(f"answered '{line}' with '{answer}'")
        return answer

    def check(self) -> None:
        """Quit the target; AssertionError unless its own last check found nothing wrong."""
        self.command("quit")
        code = self.wait()
        if code != 0:
            raise self._error(f"ended with exit code {code}")

    def _read_line(self, deadline_s: float) -> str:
        assert self._process.stdout is not None
        end = time.monotonic() + deadline_s
        fd = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise self._error(f"was silent for {deadline_s} s")
                block = os.read(fd, 1 << 16)
                if not block:
                    raise self._error("closed its output")
                self._unread += block
        line, self._unread = self._unread.split(b"\n", 1)
        self._seen.append(line.decode(errors="replace"))
        return self._seen[-1]

    def _error(self, what: str) -> AssertionError:
        self._log.seek(0)
        log = self._log.read().decode(errors="replace")
        lines = "\n".join(line[:300] for line in self._seen[-20:])
        name = f"target {self._process.args!r} (pid {self.pid})"
        return AssertionError(f"{name} {what}\nstdout:\n{lines}\nstderr:\n{log}")


@contextmanager
def memory_target(directory: Path, *extras: str) -> Iterator[Target]:
    """The `memory` target with its two files in `directory`."""
    files = directory / "private-file", directory / "shared-file"
    with Target.spawn("memory", *files, *extras) as target:
        yield target


# ---- the command line ----

Event = dict[str, object]


@dataclass(frozen=True)
class Predump:
    """One finished run of the command line; `events` only with --json."""

    args: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    events: list[Event]

    @property
    def result(self) -> Event:
        """The last event: of type result or error."""
        return self.events[-1]

    def rounds(self) -> list[Event]:
        """The events of type round."""
        return [event for event in self.events if event["type"] == "round"]

    def __str__(self) -> str:
        command = " ".join(self.args)
        return f"predump {command}\nexit {self.returncode}\n{self.stdout}\n{self.stderr}"


def number(event: Mapping[str, object], name: str) -> int:
    """A numeric field of an event; AssertionError when it is missing or no whole number."""
    value = event.get(name)
    assert isinstance(value, int), f"{name} is {value!r} in {event}"
    return value


def parse_events(stdout: str) -> list[Event]:
    """The JSON Lines of --json; AssertionError when they break the contract."""
    events = []
    for line in stdout.splitlines():
        try:
            event = json.loads(line)
        except ValueError as error:
            raise AssertionError(f"not a line of JSON on stdout: {line!r}") from error
        assert isinstance(event, dict), f"not an object on stdout: {line!r}"
        assert "type" in event, f"an event without type: {line!r}"
        check_event(event)
        events.append(event)
    kinds = [event["type"] for event in events]
    assert kinds, "no event on stdout"
    assert kinds[-1] in ("result", "error"), f"the last event is a {kinds[-1]}"
    assert not {"result", "error"} & set(kinds[:-1]), f"events after the end: {kinds}"
    return events


def predump(
    *args: object,
    check: bool = True,
    expect: int = 0,
    prefix: tuple[str, ...] = (sys.executable,),
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Predump:
    """Run `predump ARGS` to its end; with `check`, AssertionError unless it exits with `expect`.

    `prefix` is what runs `-m cli`: an interpreter, or a program such as setpriv in front of one.
    """
    words = tuple(map(str, args))
    try:
        done = subprocess.run(
            [*prefix, "-m", "cli", *words],
            cwd=REPO,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PREDUMP_S,
            pass_fds=pass_fds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(
            f"predump {' '.join(words)}: no end within {PREDUMP_S} s "
            f"(or something it started holds its output open)\n{error.stdout!r}\n{error.stderr!r}"
        ) from error
    result = Predump(words, done.returncode, done.stdout, done.stderr, [])
    if check:
        assert done.returncode == expect, f"exit code {expect} was expected\n{result}"
        assert "Traceback" not in done.stderr, str(result)
    if "--json" in words:
        try:
            result.events.extend(parse_events(done.stdout))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{result}") from error
    return result


class RunningPredump:
    """`predump ARGS --json` under way: told what it says so far, and ended when the test wants it."""

    def __init__(self, args: tuple[str, ...], process: subprocess.Popen[bytes], directory: Path) -> None:
        self.args = args
        self.process = process
        self._directory = directory

    @classmethod
    @contextmanager
    def start(cls, *args: object) -> Iterator[RunningPredump]:
        """Start it; killed by its own pid and reaped when the block ends."""
        words = (*map(str, args), "--json")
        with tempfile.TemporaryDirectory(prefix="predump-test-") as name:
            directory = Path(name)
            with (directory / "stdout").open("wb") as out, (directory / "stderr").open("wb") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", "cli", *words],
                    cwd=REPO,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=errors,
                )
            try:
                yield cls(words, process, directory)
            finally:
                process.kill()
                process.wait(COMMAND_S)

    def said(self) -> list[Event]:
        """The events so far."""
        lines = (self._directory / "stdout").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for(self, kind: str, deadline_s: float = COMMAND_S) -> None:
        """Until an event of this type was there, or the command ended."""
        poll_until(
            lambda: any(event["type"] == kind for event in self.said()) or self.process.poll() is not None,
            deadline_s,
            f"an event of type {kind}",
        )

    def ends_within(self, seconds: float) -> bool:
        """Wait so long for the end; whether it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def finish(self, deadline_s: float = PREDUMP_S) -> Predump:
        """Wait for the end and return what was said; one that was not killed must have ended by the contract."""
        assert self.ends_within(deadline_s), f"predump {' '.join(self.args)}: no end within {deadline_s} s"
        code = self.process.returncode
        stdout, stderr = ((self._directory / name).read_text() for name in ("stdout", "stderr"))
        done = Predump(self.args, code, stdout, stderr, [])
        assert "Traceback" not in stderr, str(done)
        if code >= 0:
            done.events.extend(parse_events(stdout))
        return done


NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def unprivileged_python() -> tuple[tuple[str, ...], dict[str, str]]:
    """How to run predump as nobody: an interpreter that nobody may execute, and its paths."""
    if shutil.which("setpriv") is None or os.geteuid() != 0:
        pytest.skip("needs root and setpriv")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    env = {"PYTHONPATH": f"{REPO}:{sysconfig.get_path('purelib')}", "PYTHONDONTWRITEBYTECODE": "1"}
    for python in (f"/usr/bin/{version}", sys.executable):
        prefix = (*NOBODY, python)
        probe = [*prefix, "-c", "import cli, dumper.kernel, zstandard"]
        environment = {**os.environ, **env}
        try:
            done = subprocess.run(probe, cwd=REPO, env=environment, capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return prefix, env
    pytest.skip("user 65534 may not execute a Python, or not read the code")


# ---- file systems and what a target has done ----


def wait_for_rewritten_pages(target: Target, n_pages: int) -> None:
    def rewritten() -> int:
        return int(target.command("check").split("rewritten=")[1])

    start = rewritten()
    poll_until(lambda: rewritten() >= start + n_pages, 30, f"{n_pages} pages to be rewritten")
