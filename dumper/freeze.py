"""Stops every thread of a process, or of a whole tree of them, and, whatever happens, lets them go on."""

import errno
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from dumper.errors import PermissionDenied, TargetGone, TargetUntraceable
from dumper.kernel.ptrace import StopError, ThreadSet, children
from dumper.proc import GONE_ERRORS
from dumper.proc.stat import read_stat
from dumper.proc.status import read_status
from dumper.target import Target, gone, not_permitted
from formats.faults import Point, reached

STOP_TIMEOUT_NS = 1_000_000_000  # for each process: on a busy host a thread waits long until it runs, and can stop
TREE_TIMEOUT_NS = 1_000_000_000  # for all of them: a tree that forks faster than it can be stopped is given up
MAX_PASSES = 100
SPARE_THREADS = 1024  # may be born while the others are being stopped


class StoppedProcess:
    """One process of a freeze: its `threads` stand still."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.threads = ThreadSet(target.pid, target.thread_count() + SPARE_THREADS)

    def stop(self, timeout_ns: int, options: int, optional: int) -> None:
        """Raises TargetGone, PermissionDenied, TargetUntraceable; what was stopped until then stays so.

        `options` are of ptrace(2); those in `optional` as well, but left out if the kernel refuses them.
        """
        try:
            self.threads.stop(timeout_ns, options | optional)
        except StopError as error:
            if not optional or error.errno not in (errno.EINVAL, errno.EPERM):
                raise self._explain(error, timeout_ns) from None
            self.threads.resume()
            self.threads = ThreadSet(self.target.pid, self.target.thread_count() + SPARE_THREADS)
            self.stop(timeout_ns, options, 0)

    def _explain(self, error: StopError, timeout_ns: int) -> Exception:
        pid, tid = self.target.pid, error.tid
        if error.errno == errno.ESRCH:
            return gone(pid)
        if error.errno == errno.EPERM:
            return self._explain_refusal(tid)
        if error.errno == errno.ETIMEDOUT:
            try:
                state = read_stat(pid, tid).state
            except GONE_ERRORS:
                state = "gone"
            return TargetUntraceable(
                f"process {pid} could not be stopped: thread {tid} (state {state}) did not stop within "
                f"{timeout_ns / 1e9:g} s",
                hint="It waits inside the kernel (a vfork child, a slow disk) or makes threads too fast: try again.",
                pid=pid,
                tid=tid,
            )
        return TargetUntraceable(
            f"process {pid} could not be stopped: thread {tid}: {error.strerror}",
            hint="Try again.",
            pid=pid,
        )

    def _explain_refusal(self, tid: int) -> PermissionDenied | TargetUntraceable:
        try:
            tracer_pid = read_status(tid).tracer_pid
        except OSError:
            tracer_pid = 0
        if tracer_pid:
            return TargetUntraceable(
                f"thread {tid} of process {self.target.pid} is already traced by process {tracer_pid}",
                hint="Detach that debugger or tracer first.",
                pid=self.target.pid,
            )
        return not_permitted(self.target.pid, "trace")


class Freeze:
    """`with Freeze(target): ...`: no thread of the target runs inside.

    With `descendants`, no thread of its descendants either: they are looked for until no new one turns up, and
    `descendants(pid)` says which Target stands for each (None to leave it out). `processes` are those that stand still,
    parents before their children; `zombies` are pids of children that have ended and wait to be reaped. `options` and
    `optional` are options of ptrace(2); the latter are left out where the kernel refuses them.

    All of it must happen in one OS thread (ptrace's rule). If this process is killed meanwhile, the kernel lets the
    targets go on.
    """

    def __init__(
        self,
        target: Target,
        *,
        descendants: Callable[[int], Target | None] | None = None,
        options: int = 0,
        optional: int = 0,
        timeout_ns: int = STOP_TIMEOUT_NS,
    ) -> None:
        self._root = target
        self._descendants = descendants
        self._options = options
        self._optional = optional
        self._timeout_ns = timeout_ns
        self._since_ns = 0
        self._frozen_ns = 0
        self.stop_ns = 0
        self.resume_ns = 0
        self.processes: list[StoppedProcess] = []
        self.zombies: list[int] = []

    def __enter__(self) -> Self:
        """Raises TargetGone, PermissionDenied, TargetUntraceable; every thread goes on then."""
        self._since_ns = time.monotonic_ns()
        try:
            self._stop(self._root)
            if self._descendants:
                self._stop_descendants(self._descendants)
        except BaseException:
            self.thaw()
            raise
        self.stop_ns = time.monotonic_ns() - self._since_ns
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.thaw()

    def thaw(self) -> None:
        """Lets every thread go on, children before their parents; a second call does nothing."""
        since_ns = time.monotonic_ns()
        for process in reversed(self.processes):
            process.threads.resume()
        if self._since_ns:
            now_ns = time.monotonic_ns()
            self.resume_ns = now_ns - since_ns
            self._frozen_ns = now_ns - self._since_ns
            self._since_ns = 0

    def hold(self) -> None:
        """From now on they stay stopped (SIGSTOP) when the freeze ends, however it ends."""
        for process in self.processes:
            process.threads.send_stop()

    def take_hold_back(self) -> None:
        """They go on when the freeze ends, as if there had been no `hold`."""
        for process in self.processes:
            process.threads.take_stop_back()

    @property
    def frozen_ns(self) -> int:
        """From the first thread stopped to the last one resumed, or to now while something is frozen."""
        return time.monotonic_ns() - self._since_ns if self._since_ns else self._frozen_ns

    @property
    def tids(self) -> list[int]:
        """The stopped threads of the root."""
        return self.processes[0].threads.stopped_tids()

    def _stop(self, target: Target) -> None:
        process = StoppedProcess(target)
        self.processes.append(process)  # before the stop: what it stopped of a process is resumed whatever happens
        process.stop(self._timeout_ns, self._options, self._optional)
        reached(Point.STOPPED)

    def _stop_descendants(self, target_of: Callable[[int], Target | None]) -> None:
        """Passes over all children lists until none brings a new process.

        A process that stands still has no new children but those that it inherits from one that ended meanwhile.
        """
        deadline_ns = self._since_ns + TREE_TIMEOUT_NS
        seen: set[int] = set()
        for _ in range(MAX_PASSES):
            new = [pid for pid in self._children() if pid not in seen]
            if not new:
                return
            for pid in new:
                seen.add(pid)
                self._stop_child(pid, target_of)
                if time.monotonic_ns() > deadline_ns:
                    break
        raise TargetUntraceable(
            f"the tree of process {self._root.pid} could not be stopped: it makes new processes faster than "
            f"they can be stopped ({len(seen)} within {TREE_TIMEOUT_NS / 1e9:g} s)",
            hint="Everything goes on untouched. Try again when it makes fewer processes.",
            pid=self._root.pid,
        )

    def _children(self) -> list[int]:
        """Children of all stopped processes."""
        found: list[int] = []
        for process in self.processes:
            try:
                found += children(process.target.pid)
            except ProcessLookupError:
                continue  # killed in the freeze
        return found

    def _stop_child(self, pid: int, target_of: Callable[[int], Target | None]) -> None:
        try:
            target = target_of(pid)
            if target is not None:
                self._stop(target)
        except (TargetGone, *GONE_ERRORS):
            if self.processes[-1].target.pid == pid:
                self.processes.pop().threads.resume()
            if _is_zombie(pid):
                self.zombies.append(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return read_stat(pid).has_ended
    except GONE_ERRORS:
        return False
