"""The undertaker: a small process that outlives predump, and has clones reaped that it left behind.

A clone that ends is a zombie of the process that it was made of, until that waits for it. Predump sees to that; should
it be killed, the kernel ends the clone, and the undertaker does the rest. It runs as `python -m dumper.undertaker`, in
a session of its own, and reads lines from predump:

    PID CHILD NS_CHILD      there is a clone (written by the native library)
    buried CHILD            and it is gone

At the end of the input it buries those that are left, and ends.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from dumper.snapshot import bury
from formats import faults
from formats.closing import Closing

PATIENCE_S = 600.0  # a process may be under a debugger, or asleep in the kernel
END_S = 1.0
READY = b"ready\n"


class Undertaker(Closing):
    """The process, as seen by predump. `fd`: where clones are announced."""

    def __init__(self) -> None:
        """Starts it; it takes some tenths of a second until it is `ready`."""
        self._process = subprocess.Popen(
            [sys.executable, "-E", "-m", "dumper.undertaker"],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name != faults.VARIABLE},  # it outlives us
            bufsize=0,
        )
        self.fd = self._input.fileno()

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def wait_ready(self) -> bool:
        """Waits until no signal to our session can reach it; False if it could not be started."""
        assert self._process.stdout is not None
        return self._process.stdout.readline() == READY

    def forget(self, child: int) -> None:
        """That a clone was reaped."""
        os.write(self.fd, f"buried {child}\n".encode())

    def close(self) -> None:
        """Lets it end; it stays where something is left to do."""
        assert self._process.stdout is not None
        self._input.close()
        self._process.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)


def main() -> None:
    """Entry point of the process."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    os.write(sys.stdout.fileno(), READY)
    clones: dict[int, tuple[int, int]] = {}
    for line in sys.stdin:
        first, *rest = line.split()
        if first == "buried":
            clones.pop(int(rest[0]), None)
        else:
            child, ns_pid = map(int, rest)
            clones[child] = int(first), ns_pid
    for child, (pid, ns_pid) in clones.items():
        bury(pid, child, ns_pid, PATIENCE_S)


if __name__ == "__main__":
    main()
