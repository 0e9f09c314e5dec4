"""Timers of a process that is being made: timer_create(2), setitimer(2)."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence

from dumper.kernel.remote import Call, Sys
from formats.processstate import IntervalTimer, PosixTimer
from restorer.caller import Caller

PR_TIMER_CREATE_RESTORE_IDS = 77  # since 6.15: include/uapi/linux/prctl.h
SIGEV_THREAD_ID = 4
ITIMER_REAL = 0
CLOCK_MONOTONIC_COARSE = 6  # its resolution is a tick
_NS = 1_000_000_000
_US = 1_000_000
_ID_OFFSET = 128


def make_timers(caller: Caller, timers: Sequence[PosixTimer], tids: Mapping[int, int]) -> None:
    """Timers with their ids, not armed yet; `tids` has the new id of each thread. Raises CallFailed."""
    if not timers:
        return
    caller.call(Sys.PRCTL, PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0)
    for timer in timers:
        tid = tids.get(timer.tid, timer.tid) if timer.notify & SIGEV_THREAD_ID else 0
        event = struct.pack("Qiii44x", timer.value, timer.signal, timer.notify, tid)  # struct sigevent
        id_addr = caller.put(struct.pack("i", timer.id), _ID_OFFSET)
        caller.call(Sys.TIMER_CREATE, timer.clock, caller.put(event), id_addr)
    caller.call(Sys.PRCTL, PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0)


def arm_timers(caller: Caller, timers: Sequence[PosixTimer], intervals: Sequence[IntervalTimer]) -> None:
    """Let them run with the time that they had left, those that had any: as late as can be. Raises CallFailed."""
    calls = []
    settings = b""
    addr = caller.scratch_addr
    for timer in timers:
        calls.append(Call(Sys.TIMER_SETTIME, (timer.id, 0, addr + len(settings), 0)))
        settings += struct.pack("4q", *divmod(timer.interval_ns, _NS), *divmod(timer.remaining_ns, _NS))
    for interval in intervals:
        calls.append(Call(Sys.SETITIMER, (interval.which, addr + len(settings), 0)))
        settings += struct.pack("4q", *divmod(interval.interval_us, _US), *divmod(_to_set_us(interval), _US))
    caller.put(settings)
    caller.calls(calls)


def _to_set_us(timer: IntervalTimer) -> int:
    """What to ask for: to a timer of CPU time the kernel adds one of its ticks (kernel/time/itimer.c)."""
    if timer.which == ITIMER_REAL or timer.remaining_us == 0:
        return timer.remaining_us
    tick_us = round(time.clock_getres(CLOCK_MONOTONIC_COARSE) * _US)
    return max(1, timer.remaining_us - tick_us)
