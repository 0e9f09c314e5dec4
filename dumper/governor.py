"""The governor: a small process that limits the CPU time of a target, and sets everything back when predump is gone.

By a cgroup of its own (dumper/cpugroup.py) where one can be had, else by stopping those threads that run, for a part of
each CYCLE_S. Threads that sleep are left alone: they write nothing, and a call that sleeps would start over.

    predump                                 governor
    {"op": "limit", share, cpus}  ---->     `share` of the time, or of `cpus` seconds per second
            <---- {"how"} or {"error"}
    {"op": "lift"}                ---->     no limit; nobody is traced or stopped any more
            <---- {}
    (closed)                      ---->     sets back and ends

In a session of its own, it gets no signal that is meant for predump. Should it be killed itself, the kernel lets go of
what it has stopped, and predump sets the cgroup back (dumper/throttle.py).

It runs as `python -m dumper.governor PID WHOLE SOCKET_FD PIDFD`.
"""

import contextlib
import errno
import json
import select
import signal
import socket
import sys
import time

from dumper.cpugroup import CpuGroup, NoCpuGroupError
from dumper.kernel.ptrace import StopError, ThreadSet, children
from dumper.proc import GONE_ERRORS
from dumper.proc.stat import read_stat
from formats.faults import Point, reached

CYCLE_S = 0.05
LOOK_AGAIN_S = 0.005  # while some are stopped: what runs meanwhile is stopped, too
STOP_TIMEOUT_NS = 5_000_000
CAPACITY = 4096  # threads of one process that run at the same time
MAX_MESSAGE_BYTES = 4096


def family(pid: int, *, whole: bool) -> list[int]:
    """The process and, if `whole`, its descendants as far as they show while they run."""
    found = [pid]
    for parent in found if whole else []:
        try:
            found += children(parent)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise
    return found


class CgroupLimit:
    """Limits by a cgroup."""

    def __init__(self, pid: int, *, whole: bool) -> None:
        """Raises NoCpuGroupError; everything is as before then."""
        self._group = CpuGroup.make(pid)
        reached(Point.GOVERNOR_MADE)
        try:
            self._take_in(pid, whole=whole)
            reached(Point.GOVERNOR_MOVED)
        except BaseException:
            self._group.set_back()
            raise

    def _take_in(self, pid: int, *, whole: bool) -> None:
        """All of them, also those that are born while others are moved: by a parent that is not there yet."""
        inside: set[int] = set()
        while outside := set(family(pid, whole=whole)) - inside:
            for one in outside:
                self._group.take_in(one)
            inside |= outside

    def limit(self, share: float, cpus: float) -> str:
        """Says how. Raises NoCpuGroupError."""
        self._group.limit(share * cpus)
        return f"the cgroup {self._group.path} gives it {share * cpus:.2f} CPUs"

    def lift(self) -> None:
        """No limit any more."""
        self._group.lift()

    def turn(self) -> float | None:
        """Nothing is to be done at any time."""
        return None

    def set_back(self) -> None:
        """Everything is as before."""
        with contextlib.suppress(OSError):  # somebody has removed it
            self.lift()
        reached(Point.GOVERNOR_LIFTED)
        self._group.set_back()


class StopLimit:
    """Limits by stopping what runs, again and again."""

    def __init__(self, pid: int, reason: str, *, whole: bool) -> None:
        self._pid = pid
        self._whole = whole
        self._reason = reason
        self._share = 1.0
        self._is_refused = False
        self._stopped: dict[tuple[int, int], ThreadSet] = {}  # by pid and start time
        self._resumes_at = 0.0
        self._stops_at = 0.0

    def limit(self, share: float, _cpus: float) -> str:
        """Says how. Raises PermissionError if it may not be stopped."""
        self._share = share
        self._begin_stop()
        if self._is_refused:
            self.set_back()
            raise PermissionError(errno.EPERM, f"it may not be stopped, and no cgroup can be had ({self._reason})")
        return f"it is stopped for {1 - share:.0%} of the time, since no cgroup can be had ({self._reason})"

    def turn(self) -> float | None:
        """Does what is due; when it is to be called again, in seconds from now."""
        now = time.monotonic()
        if self._share >= 1:
            return None if self._resume() else LOOK_AGAIN_S
        if self._stopped and now >= self._resumes_at:
            if not self._resume():
                return LOOK_AGAIN_S
        elif self._stopped:
            self._stop_running()
            return min(LOOK_AGAIN_S, max(0.0, self._resumes_at - now))
        elif now >= self._stops_at:
            self._begin_stop()
        return max(0.0, (self._resumes_at if self._stopped else self._stops_at) - time.monotonic())

    def lift(self) -> None:
        """No limit any more. Raises TimeoutError if a thread is on its way into a stop, which ends at once then."""
        self._share = 1.0
        if not self._resume():
            raise TimeoutError(errno.ETIMEDOUT, "a thread waits inside the kernel")

    def set_back(self) -> None:
        """Everything is as before, at the latest when this process ends."""
        self._share = 1.0
        self._resume()

    def _begin_stop(self) -> None:
        now = time.monotonic()
        self._resumes_at = now + (1 - self._share) * CYCLE_S
        self._stops_at = now + CYCLE_S
        self._stop_running()

    def _stop_running(self) -> None:
        for pid in family(self._pid, whole=self._whole):
            try:
                threads = self._stopped.setdefault((pid, read_stat(pid).start_time_ticks), ThreadSet(pid, CAPACITY))
                threads.stop_running(STOP_TIMEOUT_NS)
            except GONE_ERRORS:
                continue
            except StopError as error:  # one that is too late is not waited for, another one traced by somebody else
                self._is_refused = pid == self._pid and error.errno == errno.EPERM
        reached(Point.GOVERNOR_STOPPED)

    def _resume(self) -> bool:
        """Lets all go on; False if some could not be let go of yet."""
        self._stopped = {key: threads for key, threads in self._stopped.items() if not threads.resume()}
        return not self._stopped


class Governor:
    """Serves one predump, until that or the target ends."""

    def __init__(self, pid: int, *, whole: bool) -> None:
        self._pid = pid
        self._whole = whole
        self._limit: CgroupLimit | StopLimit | None = None

    def run(self, predump: socket.socket, pidfd: int) -> None:
        """Returns when everything is set back."""
        waiting = select.poll()
        waiting.register(predump, select.POLLIN)
        waiting.register(pidfd, select.POLLIN)
        try:
            while True:
                pause_s = self._limit.turn() if self._limit else None
                ready = [fd for fd, _ in waiting.poll(None if pause_s is None else pause_s * 1000)]
                if pidfd in ready:  # the target has ended; its children may be in the cgroup
                    self._set_back()
                    waiting.unregister(pidfd)
                if predump.fileno() in ready:
                    message = predump.recv(MAX_MESSAGE_BYTES)
                    if not message:
                        return
                    predump.send(json.dumps(self._answer(json.loads(message))).encode())
        finally:
            self._set_back()

    def _answer(self, request: dict[str, object]) -> dict[str, str]:
        try:
            if request["op"] == "limit":
                return {"how": self._govern(float(str(request["share"])), float(str(request["cpus"])))}
            if self._limit:
                self._limit.lift()
        except OSError as error:
            return {"error": error.strerror or str(error)}
        return {}

    def _govern(self, share: float, cpus: float) -> str:
        try:
            if self._limit is None:
                self._limit = CgroupLimit(self._pid, whole=self._whole)
            return self._limit.limit(share, cpus)
        except NoCpuGroupError as error:
            self._set_back()
            self._limit = StopLimit(self._pid, str(error), whole=self._whole)
            return self._limit.limit(share, cpus)

    def _set_back(self) -> None:
        limit, self._limit = self._limit, None
        if limit:
            limit.set_back()


def main() -> None:
    """Entry point of the process."""
    pid, whole, socket_fd, pidfd = (int(argument) for argument in sys.argv[1:5])
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # it ends with predump
    with socket.socket(fileno=socket_fd) as predump, contextlib.suppress(ConnectionError):
        Governor(pid, whole=bool(whole)).run(predump, pidfd)


if __name__ == "__main__":
    main()
