"""A command of the user's, run to its end or to a deadline. Standard library only, for dumper/hookguard.py."""

import contextlib
import os
import select
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

GRACE_S = 1.0  # after SIGTERM
POLL_S = 0.01
STDERR = 2


def run_command(command: str, text: str, timeout_s: float, directory: Path) -> str:
    """Runs `sh -c COMMAND` in `directory`, with `text` on its standard input and its output on our standard error.

    Returns what went wrong, "" if nothing did. When the time is over, or if this call is interrupted, its whole process
    group gets SIGTERM, and SIGKILL a second later. What it leaves behind when it ends by itself is not touched.
    """
    told_fd = _file_of(text)
    starter = ThreadPoolExecutor(1)  # a signal that interrupted the start would leave nobody who knows the process
    started = starter.submit(
        subprocess.Popen,
        ["/bin/sh", "-c", command],
        cwd=directory,
        stdin=told_fd,
        stdout=STDERR,
        stderr=STDERR,
        start_new_session=True,
    )
    try:
        process = started.result()
    except OSError as error:
        return f"could not be started: {error.strerror}"
    except BaseException:
        _end(started.result())
        raise
    finally:
        starter.shutdown()
        os.close(told_fd)
    try:
        has_ended = _wait(process.pid, timeout_s)
    except BaseException:
        _end(process)
        raise
    if not has_ended:
        _end(process)
        return f"did not end within {timeout_s:g} s, and was ended"
    process.wait()
    if process.returncode < 0:
        return f"was ended by signal {-process.returncode}"
    return f"ended with exit code {process.returncode}" if process.returncode else ""


def _file_of(text: str) -> int:
    """A file of memory, so that nobody waits for who does not read it."""
    fd = os.memfd_create("told", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(text.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _wait(pid: int, timeout_s: float) -> bool:
    """Whether it has ended before the time is over; told at once, since a process may stand still meanwhile."""
    pidfd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))
    finally:
        os.close(pidfd)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nobody else can get the number of the group as long as its leader, ended or not, was not waited for."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and not _has_ended(process.pid):
            time.sleep(POLL_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
