"""State of a process and its threads that is not memory: compared, and put back by calls that can be undone."""

from __future__ import annotations

import errno
import signal
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

from dumper.kernel.remote import Call, CallFailed, RemoteThread, Sys
from formats.processstate import Disposition, IntervalTimer, PosixTimer, ProcessState
from formats.threadstate import PendingSignal, Restart, SignalStack, Thread
from restorer.memory.boundaries import set_layout
from restorer.rewind.findings import Findings
from restorer.rewind.guarded import GuardedProcess
from restorer.signals import queue_for_process, queue_for_thread, set_dispositions
from restorer.threads import (
    PR_SET_NAME,
    PR_SET_PDEATHSIG,
    SS_DISABLE,
    own_tid,
    registers_of,
    signal_stack_bytes,
)
from restorer.timers import arm_timers, make_timers

T = TypeVar("T")
_Setter = Callable[[GuardedProcess, RemoteThread, Thread], object]

ALL_INTERVAL_TIMERS = range(3)
SIGEV_NONE = 1
MAX_LISTED = 10
ROBUST_LIST_BYTES = 24  # sizeof(struct robust_list_head)
INTERVAL_SIGNALS = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF)
_NR_RESTART_SYSCALL = 219
_TIMEOUT_OFFSET = 64
_SIGSET_BYTES = 8


def compare_threads(now: Sequence[Thread], then: Sequence[Thread], findings: Findings) -> None:
    """The same threads must be there; what of them is left as it is."""
    by_tid = {thread.tid: thread for thread in now}
    tids = set(by_tid)
    if new := sorted(tids - {thread.tid for thread in then}):
        findings.obstacles.append(f"threads {_listed(new)} were not there then")
    if ended := sorted({thread.tid for thread in then} - tids):
        findings.obstacles.append(f"threads {_listed(ended)} have ended since")
    for thread in then:
        one = by_tid.get(thread.tid)
        if one is None:
            continue
        if not thread.registers:
            findings.obstacles.append(f"the registers of thread {thread.tid} are not in the image")
        if _registration(one) != _registration(thread):
            findings.obstacles.append(f"thread {thread.tid} has another rseq area by now")
        changed = {
            "scheduling": one.scheduling != thread.scheduling,
            "credentials": one.credentials != thread.credentials,
            "seccomp filters": (one.seccomp_mode, one.seccomp_filters) != (thread.seccomp_mode, thread.seccomp_filters),
        }
        findings.left += [f"{what} of thread {thread.tid}" for what, differs in changed.items() if differs]


def compare_processes(now: ProcessState, then: ProcessState, findings: Findings) -> None:
    """What of the process's state is left as it is."""
    changed = {
        "credentials": now.credentials != then.credentials,
        "seccomp filters": now.seccomp_filters != then.seccomp_filters,
        "resource limits": now.limits != then.limits,
        "working directory": now.cwd != then.cwd,
        "root directory": now.root != then.root,
        "namespaces": now.namespaces != then.namespaces,
        "cgroups": now.cgroups != then.cgroups,
        "session and process group": now.lineage != then.lineage,
        "file locks": now.locks != then.locks,
        "settings of prctl(2)": now.prctl != then.prctl,
    }
    findings.left += [what for what, differs in changed.items() if differs]


def registers_then(thread: Thread) -> dict[str, int]:
    """With which a thread of a live process goes on; what it was stopped in meanwhile is over."""
    registers = registers_of(thread)
    call = thread.system_call
    if call is not None and call.number == _NR_RESTART_SYSCALL and call.restart is Restart.REMAINING:
        # The kernel would go on with the call that the thread is in now.
        registers["rax"] = -errno.EINTR % (1 << 64)
    return registers


def set_process(process: GuardedProcess, now: ProcessState, then: ProcessState, undo: ExitStack) -> None:
    """Everything but signals that wait, and timers. Raises CallFailed, with what came before to be undone."""
    if now.layout != then.layout:
        _change(undo, lambda state: set_layout(process, state), now, then)
    if now.umask != then.umask:
        _change(undo, lambda state: process.call(Sys.UMASK, state.umask), now, then)
    if now.dispositions != then.dispositions:
        before, after = _dispositions(now.dispositions, then.dispositions)
        _change(undo, lambda wanted: set_dispositions(process, wanted), before, after)


def _set_name(process: GuardedProcess, remote: RemoteThread, thread: Thread) -> None:
    remote.call(Sys.PRCTL, PR_SET_NAME, process.put(thread.name.encode("utf-8", "surrogateescape") + b"\0"))


def _set_robust_list(_process: GuardedProcess, remote: RemoteThread, thread: Thread) -> None:
    remote.call(Sys.SET_ROBUST_LIST, thread.robust_list_addr, thread.robust_list_bytes or ROBUST_LIST_BYTES)


def _set_clear_child_tid(_process: GuardedProcess, remote: RemoteThread, thread: Thread) -> None:
    remote.call(Sys.SET_TID_ADDRESS, thread.clear_child_tid_addr or 0)


def _set_death_signal(_process: GuardedProcess, remote: RemoteThread, thread: Thread) -> None:
    remote.call(Sys.PRCTL, PR_SET_PDEATHSIG, thread.parent_death_signal or 0)


def _set_signal_stack(process: GuardedProcess, remote: RemoteThread, thread: Thread) -> None:
    stack = thread.signal_stack or SignalStack(addr=0, size_bytes=0, flags=SS_DISABLE)
    remote.call(Sys.SIGALTSTACK, process.put(signal_stack_bytes(stack)), 0)


_THREAD_SETTERS: dict[str, _Setter] = {
    "name": _set_name,
    "robust_list_addr": _set_robust_list,
    "clear_child_tid_addr": _set_clear_child_tid,
    "parent_death_signal": _set_death_signal,
    "signal_stack": _set_signal_stack,
}
"""By the field of a thread that each of them sets."""


def set_threads(process: GuardedProcess, now: Sequence[Thread], then: Sequence[Thread], undo: ExitStack) -> None:
    """What only the thread itself can set. Raises CallFailed, with what came before to be undone."""
    by_tid = {thread.tid: thread for thread in now}
    for thread in then:
        one, remote = by_tid[thread.tid], process.threads[thread.tid]
        for name, setter in _THREAD_SETTERS.items():
            if getattr(one, name) != getattr(thread, name):

                def set_to(wanted: Thread, setter: _Setter = setter, remote: RemoteThread = remote) -> None:
                    setter(process, remote, wanted)

                _change(undo, set_to, one, thread)


def set_signals_and_timers(
    process: GuardedProcess,
    states: tuple[ProcessState, ProcessState],
    threads: tuple[Sequence[Thread], Sequence[Thread]],
    undo: ExitStack,
) -> None:
    """Signals that wait, and timers, which may make some; each now and then. Raises CallFailed."""
    now, then = states
    timers = now.posix_timers, now.interval_timers
    if any(timers):
        undo.callback(arm_timers, process, now.posix_timers, _all_intervals(now.interval_timers))
        arm_timers(process, [replace(timer, remaining_ns=0) for timer in now.posix_timers], _all_intervals(()))
        _take_ticks(process, now)
    waiting = (now.pending, _by_thread(threads[0])), (then.pending, _by_thread(threads[1]))
    if waiting[0] != waiting[1]:
        own_pid = now.lineage.ns_pids[-1] if now.lineage.ns_pids else process.target.pid
        own_tids = {thread.tid: own_tid(thread) for thread in threads[0]}
        undo.callback(_replace_pending, process, own_pid, own_tids, waiting[1], waiting[0])
        _replace_pending(process, own_pid, own_tids, *waiting)
    _set_posix_timers(process, now.posix_timers, then.posix_timers, undo)
    if any(timers) or then.interval_timers:
        arm_timers(process, (), _all_intervals(then.interval_timers))


_Waiting = tuple[Sequence[PendingSignal], dict[int, Sequence[PendingSignal]]]
"""Signals that wait for the process, and for each thread."""


def _by_thread(threads: Sequence[Thread]) -> dict[int, Sequence[PendingSignal]]:
    return {thread.tid: thread.pending for thread in threads}


def _replace_pending(
    process: GuardedProcess, own_pid: int, own_tids: dict[int, int], gone: _Waiting, wanted: _Waiting
) -> None:
    """Takes those away that waited, and no others that may have come since; queues those that are wanted."""
    for tid, pending in gone[1].items():
        for one in pending:
            _take(process, process.threads[tid], 1 << (one.number - 1))
    leader = process.threads[next(iter(own_tids))]
    for one in gone[0]:
        _take(process, leader, 1 << (one.number - 1))
    for tid, pending in wanted[1].items():
        queue_for_thread(process, process.threads[tid], own_pid, own_tids[tid], pending)
    queue_for_process(process, own_pid, wanted[0])


def _take_ticks(process: GuardedProcess, now: ProcessState) -> None:
    """What its timers, which stand still now, have sent since it was looked at."""
    signals = {timer.signal for timer in now.posix_timers if timer.signal}
    signals |= {INTERVAL_SIGNALS[timer.which] for timer in now.interval_timers}
    known = {one.number for one in now.pending}
    for number in signals - known:
        for remote in process.threads.values():
            while _take(process, remote, 1 << (number - 1)):
                pass


def _take(process: GuardedProcess, remote: RemoteThread, signals: int) -> bool:
    """Takes a signal of a set that waits for a thread or for the process; False if there is none."""
    set_addr = process.put(struct.pack("Q", signals))
    timeout_addr = process.put(struct.pack("2q", 0, 0), _TIMEOUT_OFFSET)
    try:
        remote.call(Sys.RT_SIGTIMEDWAIT, set_addr, 0, timeout_addr, _SIGSET_BYTES)
    except CallFailed as error:
        if error.errno != errno.EAGAIN:
            raise
        return False
    return True


def _set_posix_timers(
    process: GuardedProcess, now: Sequence[PosixTimer], then: Sequence[PosixTimer], undo: ExitStack
) -> None:
    """Those that are the same timers run on with the time that they had left; others are deleted, and made."""
    same = {_definition(timer) for timer in now} & {_definition(timer) for timer in then}
    new, gone = ([timer for timer in timers if _definition(timer) not in same] for timers in (now, then))

    def set_to(deleted: Sequence[PosixTimer], made: Sequence[PosixTimer], armed: Sequence[PosixTimer]) -> None:
        process.calls([Call(Sys.TIMER_DELETE, (timer.id,)) for timer in deleted])
        make_timers(process, made, {})
        arm_timers(process, armed, ())

    if now or then:
        undo.callback(set_to, gone, new, now)
        set_to(new, gone, then)


def _definition(timer: PosixTimer) -> tuple[int, ...]:
    # One that sends nothing tells of its time even when it is disarmed: common_timer_get in kernel/time/posix-timers.c
    is_fresh = timer.notify == SIGEV_NONE and not timer.remaining_ns
    return timer.id, timer.clock, timer.signal, timer.value, timer.notify, timer.tid, is_fresh


def _all_intervals(timers: Sequence[IntervalTimer]) -> list[IntervalTimer]:
    """With those that do not run."""
    known = {timer.which: timer for timer in timers}
    none = [IntervalTimer(which=which, interval_us=0, remaining_us=0) for which in ALL_INTERVAL_TIMERS]
    return [known.get(timer.which, timer) for timer in none]


def _dispositions(
    now: Sequence[Disposition], then: Sequence[Disposition]
) -> tuple[list[Disposition], list[Disposition]]:
    """Those of all signals that differ, also where they are at their default."""
    before, after = ({one.number: one for one in dispositions} for dispositions in (now, then))
    changed = sorted(number for number in before.keys() | after.keys() if before.get(number) != after.get(number))
    return [before.get(number) or _default(number) for number in changed], [
        after.get(number) or _default(number) for number in changed
    ]


def _default(number: int) -> Disposition:
    return Disposition(number=number, handler_addr=0, flags=0, restorer_addr=0, mask=0)


def _registration(thread: Thread) -> tuple[int, ...] | None:
    return (thread.rseq.addr, thread.rseq.size_bytes, thread.rseq.signature) if thread.rseq else None


def _listed(tids: Sequence[int]) -> str:
    return ", ".join(map(str, tids[:MAX_LISTED])) + (" and others" if len(tids) > MAX_LISTED else "")


def _change(undo: ExitStack, set_to: Callable[[T], object], now: T, then: T) -> None:
    undo.callback(set_to, now)
    set_to(then)
