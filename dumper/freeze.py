"""Stops every thread of a target and, whatever happens, lets it go on."""

import errno
import time
from types import TracebackType
from typing import Self

from dumper.errors import PermissionDenied, TargetUntraceable
from dumper.kernel.ptrace import StopError, ThreadRegisters, ThreadSet
from dumper.proc.stat import read_stat
from dumper.proc.status import read_status
from dumper.target import Target, gone, not_permitted

STOP_TIMEOUT_NS = 500_000_000
SPARE_THREADS = 1024  # may be born while the others are being stopped


class Freeze:
    """`with Freeze(target): ...`: no thread of the target runs inside.

    All of it must happen in one OS thread (ptrace's rule). If this process is killed meanwhile, the kernel lets the
    target go on.
    """

    def __init__(self, target: Target, *, options: int = 0, timeout_ns: int = STOP_TIMEOUT_NS) -> None:
        self._target = target
        self._threads = ThreadSet(target.pid, target.thread_count() + SPARE_THREADS)
        self._options = options
        self._timeout_ns = timeout_ns
        self._since_ns = 0
        self._frozen_ns = 0

    def __enter__(self) -> Self:
        """Raises TargetGone, PermissionDenied, TargetUntraceable; every thread goes on then."""
        self._since_ns = time.monotonic_ns()
        try:
            self._threads.stop(self._timeout_ns, self._options)
        except StopError as error:
            self.thaw()
            raise self._explain(error) from None
        except BaseException:
            self.thaw()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.thaw()

    def thaw(self) -> None:
        """Lets every thread go on; a second call does nothing."""
        self._threads.resume()
        if self._since_ns:
            self._frozen_ns = time.monotonic_ns() - self._since_ns
            self._since_ns = 0

    @property
    def frozen_ns(self) -> int:
        """From the first thread stopped to the last one resumed, or to now while the target is frozen."""
        return time.monotonic_ns() - self._since_ns if self._since_ns else self._frozen_ns

    @property
    def tids(self) -> list[int]:
        """The stopped threads."""
        return self._threads.stopped_tids()

    def prepare_registers(self, threads: int) -> None:
        """Makes room for the registers of so many threads before the freeze."""
        self._threads.reserve_registers(threads)

    def read_registers(self) -> None:
        """Reads the registers of all threads; `registers` unpacks them later, outside the freeze."""
        self._threads.read_registers()

    def registers(self) -> list[ThreadRegisters]:
        """What `read_registers` read, by thread id."""
        return self._threads.registers()

    def _explain(self, error: StopError) -> Exception:
        pid, tid = self._target.pid, error.tid
        if error.errno == errno.ESRCH:
            return gone(pid)
        if error.errno == errno.EPERM:
            return self._explain_refusal(tid)
        if error.errno == errno.ETIMEDOUT:
            try:
                state = read_stat(pid, tid).state
            except (FileNotFoundError, ProcessLookupError):
                state = "gone"
            return TargetUntraceable(
                f"process {pid} could not be stopped: thread {tid} (state {state}) did not stop within "
                f"{self._timeout_ns / 1e9:g} s",
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
                f"thread {tid} of process {self._target.pid} is already traced by process {tracer_pid}",
                hint="Detach that debugger or tracer first.",
                pid=self._target.pid,
            )
        return not_permitted(self._target.pid, "trace")
