"""Threads of a live process that is being changed: should this process die, none of them runs on, but all are stopped.

csrc/guard.c says how. All calls come from the OS thread that stopped them.
"""

from typing import Any

from dumper.kernel.native import checked, ffi, lib
from dumper.kernel.remote import ALL_SIGNALS, RemoteThread
from formats.faults import Point, native_step

STOP_TIMEOUT_NS = 2_000_000_000
GUARD_STEPS = {
    Point.GUARD_LED: lib.PD_GUARD_STEP_LED,
    Point.GUARD_ENTERED: lib.PD_GUARD_STEP_ENTERED,
    Point.GUARD_CALLS: lib.PD_GUARD_STEP_CALLS,
    Point.GUARD_CALLED: lib.PD_GUARD_STEP_CALLED,
}


class GuardedThread(RemoteThread):
    """One of them; a SIGSTOP waits for it already. `ns_pid` and `ns_tid` are its ids as it sees them itself."""

    def __init__(self, pid: int, tid: int, ns_pid: int, ns_tid: int, syscall_addr: int) -> None:
        super().__init__(tid, syscall_addr)
        self._fields = {
            "pid": pid,
            "tid": tid,
            "ns_pid": ns_pid,
            "ns_tid": ns_tid,
            "syscall_addr": syscall_addr,
            "timeout_ns": STOP_TIMEOUT_NS,
        }
        self.is_ready = False
        """Whether it stands where the SIGSTOP is delivered: its registers are not its own any more."""

    def make_ready(self) -> None:
        """Has it wait there, all signals blocked. Raises OSError: ESRCH if it is gone, ETIMEDOUT."""
        if self.is_ready:
            return
        self.set_mask(ALL_SIGNALS)
        checked(lib.pd_guard_ready(ffi.new("struct pd_guarded *", self._fields)))
        self.is_ready = True

    def _run(self, made: Any, n_calls: int) -> int:
        self.make_ready()
        die_at, victim = native_step(GUARD_STEPS)
        thread = ffi.new("struct pd_guarded *", {**self._fields, "die_at": die_at, "victim": victim})
        return checked(lib.pd_guarded_calls(thread, made, n_calls))
