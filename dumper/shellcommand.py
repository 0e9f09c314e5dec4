"""A command of the user's, run to its end or to a deadline. Standard library only, for dumper/hookguard.py."""

import contextlib
import os
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
    starter = ThreadPoolExecutor(1)  # a signal that interrupted the start would leave nobody who knows the process
    started = starter.submit(
        subprocess.Popen,
        ["/bin/sh", "-c", command],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=STDERR,
        stderr=STDERR,
        start_new_session=True,
    )
    try:
        process = started.result()
        process.communicate(text.encode(), timeout_s)
    except OSError as error:
        return f"could not be started: {error.strerror}"
    except subprocess.TimeoutExpired:
        _end(process)
        return f"did not end within {timeout_s:g} s, and was ended"
    except BaseException:
        _end(started.result())
        raise
    finally:
        starter.shutdown()
    if process.returncode < 0:
        return f"was ended by signal {-process.returncode}"
    return f"ended with exit code {process.returncode}" if process.returncode else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nobody else can get the number of the group as long as its leader, ended or not, was not waited for."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and not _has_ended(process.pid):
            time.sleep(POLL_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
