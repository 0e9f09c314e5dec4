"""Limits the CPU time of a target that writes faster than rounds can follow, and sets everything back whatever happens.

The work is done by a governor (dumper/governor.py), which sets back when predump ends, however it ends. If the governor
is killed, predump does it.
"""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dumper import cpugroup
from dumper.governor import MAX_MESSAGE_BYTES, family
from dumper.proc import GONE_ERRORS
from dumper.proc.stat import read_stat
from dumper.target import Target
from formats.closing import Closing
from formats.errors import PredumpError
from formats.faults import Point, reached

STEPS = (0.8, 0.6, 0.4, 0.2, 0.1, 0.05)
MEASURED_S = 0.2  # at least, to know how much it ran without a limit
LEAST_CPUS = 0.05
ANSWER_S = 15.0  # what it may take to move many processes
END_S = 2 * cpugroup.EMPTY_DEADLINE_S
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ThrottleError(PredumpError):
    """The target cannot be limited; it runs without a limit."""


class Throttle(Closing):
    """`with Throttle(target, whole=False) as throttle: for share in throttle.steps: throttle.limit(share)`.

    With `whole`, all its descendants are limited with it; children that are born under a limit always are. Nothing of
    the target is touched before the first `limit`, and `close` leaves it as it was. `steps` are shares that make sense,
    in order; `share` is the one that holds now, 1 for no limit.

    Limited in one way, the target cannot be traced by predump; in the other, it may be long in coming to a stop. So
    whoever traces it does so within `lifted`, or after `lift`.
    """

    steps = STEPS

    def __init__(self, target: Target, *, whole: bool) -> None:
        self._target = target
        self._whole = whole
        self._since_s = time.monotonic()
        self._ticks = self._cpu_ticks()
        self._cpus = 0.0
        self._homes = cpugroup.homes(target.pid)
        self._governor: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self.share = 1.0

    def limit(self, share: float) -> str:
        """Lets it run for this share of the time that it ran without a limit; says how that is done.

        Raises ThrottleError; there is no limit then.
        """
        if self._connection is None:
            self._cpus = self._measure()
            self._connection = self._start()
        try:
            answer = self._ask(self._connection, {"op": "limit", "share": share, "cpus": self._cpus})
        except OSError as error:
            self.close()
            raise self._error("its governor was ended" if isinstance(error, ConnectionError) else str(error)) from None
        if "error" in answer:
            self.close()
            raise self._error(answer["error"])
        self.share = share
        reached(Point.THROTTLED)
        return answer["how"]

    def lift(self) -> None:
        """Takes the limit away, at once; it is traced by nobody any more. What stays is a cgroup without a limit."""
        if self._connection is None or self.share >= 1:
            return
        self.share = 1.0
        try:
            done = "error" not in self._ask(self._connection, {"op": "lift"})
        except OSError:
            done = False
        if not done:
            self.close()

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """No limit inside; the same as before after it. Raises ThrottleError."""
        share = self.share
        self.lift()
        try:
            yield
        finally:
            if share < 1:
                self.limit(share)

    def close(self) -> None:
        """Sets everything back."""
        self.share = 1.0
        if self._connection:
            self._connection.close()
            self._connection = None
        if self._governor:
            try:
                self._governor.wait(END_S)
            except subprocess.TimeoutExpired:  # whatever it has stopped goes on when it ends
                self._governor.kill()
                self._governor.wait()
            self._governor = None
            with contextlib.suppress(OSError):
                cpugroup.set_back_left(self._homes)
            reached(Point.UNTHROTTLED)

    # ---- the governor ------------------------------------------------------------------------------------------

    def _start(self) -> socket.socket:
        with contextlib.suppress(OSError):
            cpugroup.set_back_left(self._homes)  # of a predump that was killed with its governor
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_S)
        words = (self._target.pid, int(self._whole), theirs.fileno(), self._target.pidfd)
        with theirs:
            try:
                self._governor = subprocess.Popen(
                    [sys.executable, "-m", "dumper.governor", *map(str, words)],
                    cwd=Path(__file__).parent.parent,
                    pass_fds=words[2:],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise self._error(f"its governor could not be started: {error.strerror}") from None
        return ours

    def _ask(self, connection: socket.socket, request: dict[str, object]) -> dict[str, str]:
        """Raises OSError if it is gone or does not answer."""
        connection.send(json.dumps(request).encode())
        message = connection.recv(MAX_MESSAGE_BYTES)
        if not message:
            raise ConnectionResetError(errno.ECONNRESET, "the governor has ended")
        return dict(json.loads(message))

    def _error(self, reason: str) -> ThrottleError:
        return ThrottleError(
            f"process {self._target.pid} cannot be throttled: {reason}",
            hint="Run predump as root, or choose another way with --on-no-converge.",
            pid=self._target.pid,
        )

    # ---- how much it runs --------------------------------------------------------------------------------------

    def _measure(self) -> float:
        """CPU seconds per second since the beginning."""
        time.sleep(max(0.0, self._since_s + MEASURED_S - time.monotonic()))
        ran_s = max(0, self._cpu_ticks() - self._ticks) / TICKS_PER_S
        return max(LEAST_CPUS, ran_s / (time.monotonic() - self._since_s))

    def _cpu_ticks(self) -> int:
        found = 0
        for pid in family(self._target.pid, whole=self._whole):
            with contextlib.suppress(*GONE_ERRORS):
                found += read_stat(pid).cpu_ticks
        return found
