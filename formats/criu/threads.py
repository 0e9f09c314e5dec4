"""Threads in CRIU's words: core-TID.img."""

from __future__ import annotations

import os
import struct
from typing import Literal

from formats import xstate
from formats.criu.images_pb2 import (
    Core,
    Credentials,
    Disposition,
    ExtendedState,
    FloatingPoint,
    IntervalTimer,
    Limit,
    Limits,
    PendingSignal,
    PosixTimer,
    ProcessCore,
    Registers,
    Rseq,
    SharedIds,
    SignalQueue,
    SignalStack,
    ThreadCore,
    Timers,
    X86Thread,
)
from formats.criu.values import Machine, TaskState
from formats.manifest import Process
from formats.processstate import IntervalTimer as IntervalTimerRecord
from formats.processstate import ProcessState
from formats.threadstate import Credentials as CredentialsRecord
from formats.threadstate import PendingSignal as PendingRecord
from formats.threadstate import Thread
from formats.xstate import Feature

_LAST_SIGNAL = 64
_UNCATCHABLE = (9, 19)  # SIGKILL, SIGSTOP
_FXSAVE = struct.Struct("<HHHHQQII32I64I")  # arch/x86/include/asm/user_64.h: user_fpregs_struct
_NS = 10**9
_US = 10**6

# What the kernel leaves in rax of a thread that was stopped in a system call: include/linux/errno.h. It would act on
# that when the thread returns to its program; CRIU's restorer returns another way, so it is done beforehand.
_RESTARTS = {-512, -513, -514}  # ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND: the call is made once more
_RESTART_BLOCK = -516
_EINTR = -4
_SYSCALL_BYTES = 2

_REGISTERS = frozenset(Registers.DESCRIPTOR.fields_by_name) - {"mode"}
_NATIVE, _COMPAT = 1, 2  # of registers
_CS_32 = 0x23  # __USER32_CS of arch/x86/include/asm/segment.h


def core_of_thread(process: Process, thread: Thread, ids: SharedIds, seccomp_filter: int | None) -> Core:
    """A thread; with that whose tid is the pid comes the process. `seccomp_filter` is the index of its newest filter.

    Raises ValueError for values that the messages have no room for.
    """
    core = Core(machine=Machine.X86_64, thread=_thread_core(process.state, thread, seccomp_filter))
    if has_registers(thread):
        core.x86.CopyFrom(_x86_thread(thread))
    if thread.tid == process.pid:
        core.ids.CopyFrom(ids)
        core.process.CopyFrom(_process_core(process, thread))
    return core


def has_registers(thread: Thread) -> bool:
    """Whether the round has all that a thread needs to go on."""
    return thread.registers.keys() >= _REGISTERS


def core_of_zombie(process: Process, exit_code: int) -> Core:
    """A process that has ended and waits for its parent."""
    core = ProcessCore(
        state=TaskState.DEAD, exit_code=exit_code, personality=0, flags=0, signal_mask=0, name=os.fsencode(process.name)
    )
    return Core(machine=Machine.X86_64, process=core)


def _process_core(process: Process, leader: Thread) -> ProcessCore:
    core = ProcessCore(
        state=TaskState.ALIVE,
        exit_code=0,
        personality=0,
        flags=0,
        signal_mask=leader.signal_mask,
        name=os.fsencode(leader.name),
    )
    state = process.state
    if state is None:
        return core
    core.personality = state.personality
    core.timers.CopyFrom(_timers(state))
    core.limits.CopyFrom(Limits(limits=_limits(state)))
    core.pending.CopyFrom(_queue(state.pending))
    core.oom_score_adj = state.oom_score_adj
    core.dispositions.extend(_dispositions(state))
    core.child_subreaper = bool(state.prctl.get("child_subreaper", 0))
    return core


def _timers(state: ProcessState) -> Timers:
    by_which = {timer.which: timer for timer in state.interval_timers}
    return Timers(
        real=_interval_timer(by_which.get(0)),
        virtual=_interval_timer(by_which.get(1)),
        profiling=_interval_timer(by_which.get(2)),
        posix=[
            PosixTimer(
                id=timer.id,
                clock=timer.clock,
                signal=timer.signal,
                notify=timer.notify,
                value=timer.value,
                overruns=timer.overruns,
                interval_s=timer.interval_ns // _NS,
                interval_ns=timer.interval_ns % _NS,
                remaining_s=timer.remaining_ns // _NS,
                remaining_ns=timer.remaining_ns % _NS,
                tid=timer.tid,
            )
            for timer in state.posix_timers
        ],
    )


def _interval_timer(timer: IntervalTimerRecord | None) -> IntervalTimer:
    interval_us, remaining_us = (timer.interval_us, timer.remaining_us) if timer else (0, 0)
    return IntervalTimer(
        interval_s=interval_us // _US,
        interval_us=interval_us % _US,
        remaining_s=remaining_us // _US,
        remaining_us=remaining_us % _US,
    )


def _limits(state: ProcessState) -> list[Limit]:
    """By number from 0 on, up to the first that is not known: their place in the list says which they are."""
    by_resource = {limit.resource: limit for limit in state.limits}
    limits: list[Limit] = []
    while (limit := by_resource.get(len(limits))) is not None:
        limits.append(Limit(soft=limit.soft, hard=limit.hard))
    return limits


def _dispositions(state: ProcessState) -> list[Disposition]:
    """One for each signal, but for those that have none: their place in the list says which they are."""
    by_number = {item.number: item for item in state.dispositions}
    dispositions = []
    for number in range(1, _LAST_SIGNAL + 1):
        item = by_number.get(number)
        if number in _UNCATCHABLE:
            continue
        dispositions.append(
            Disposition(handler_addr=0, flags=0, restorer_addr=0, mask=0)
            if item is None
            else Disposition(
                handler_addr=item.handler_addr, flags=item.flags, restorer_addr=item.restorer_addr, mask=item.mask
            )
        )
    return dispositions


def _queue(pending: list[PendingRecord]) -> SignalQueue:
    return SignalQueue(signals=[PendingSignal(siginfo=signal.siginfo) for signal in pending])


def _thread_core(state: ProcessState | None, thread: Thread, seccomp_filter: int | None) -> ThreadCore:
    core = ThreadCore(
        robust_list_addr=thread.robust_list_addr,
        robust_list_bytes=thread.robust_list_bytes,
        name=os.fsencode(thread.name),
    )
    if state is None:
        return core
    core.signal_mask = thread.signal_mask
    core.pending.CopyFrom(_queue(thread.pending))
    core.credentials.CopyFrom(_credentials(thread.credentials or state.credentials, state))
    if thread.scheduling is not None:
        core.nice = thread.scheduling.nice
        core.policy = thread.scheduling.policy
        core.priority = thread.scheduling.priority
    if thread.signal_stack is not None:
        stack = thread.signal_stack
        core.signal_stack.CopyFrom(SignalStack(addr=stack.addr, size_bytes=stack.size_bytes, flags=stack.flags))
    if thread.parent_death_signal is not None:
        core.parent_death_signal = thread.parent_death_signal
    if thread.seccomp_mode:
        core.seccomp_mode = thread.seccomp_mode
    if seccomp_filter is not None:
        core.seccomp_filter = seccomp_filter
    if thread.rseq is not None:
        rseq = thread.rseq
        core.rseq.CopyFrom(Rseq(addr=rseq.addr, size_bytes=rseq.size_bytes, signature=rseq.signature))
        if rseq.section_addr and not rseq.abort_addr:
            core.rseq.section_addr = rseq.section_addr
    return core


def _credentials(credentials: CredentialsRecord, state: ProcessState) -> Credentials:
    uids, gids = credentials.uids, credentials.gids
    return Credentials(
        uid=uids[0],
        gid=gids[0],
        effective_uid=uids[1],
        effective_gid=gids[1],
        saved_uid=uids[2],
        saved_gid=gids[2],
        filesystem_uid=uids[3],
        filesystem_gid=gids[3],
        cap_inheritable=_words(credentials.cap_inheritable),
        cap_permitted=_words(credentials.cap_permitted),
        cap_effective=_words(credentials.cap_effective),
        cap_bounding=_words(credentials.cap_bounding),
        securebits=state.prctl.get("securebits", 0),
        groups=credentials.groups,
    )


def _words(mask: int) -> tuple[int, int]:
    return mask & 0xFFFFFFFF, mask >> 32


def _x86_thread(thread: Thread) -> X86Thread:
    return X86Thread(
        clear_child_tid_addr=thread.clear_child_tid_addr or 0,
        registers=Registers(**_registers(thread), mode=_COMPAT if thread.registers["cs"] == _CS_32 else _NATIVE),
        floating_point=_floating_point(thread),
    )


def _registers(thread: Thread) -> dict[str, int]:
    """With what the kernel would do before the thread goes on: start an interrupted system call over, or let it fail.

    And in a critical section of rseq(2): go on where that is given up.
    """
    registers = {name: thread.registers[name] for name in _REGISTERS}
    result = registers["rax"] - (1 << 64) if registers["rax"] >> 63 else registers["rax"]
    if not registers["orig_rax"] >> 63:  # negative: it was in no system call
        if result in _RESTARTS:
            registers["rax"] = registers["orig_rax"]
            registers["rip"] -= _SYSCALL_BYTES
        elif result == _RESTART_BLOCK:
            registers["rax"] = _EINTR % (1 << 64)
    if thread.rseq is not None and thread.rseq.abort_addr:
        registers["rip"] = thread.rseq.abort_addr
    return registers


def _floating_point(thread: Thread) -> FloatingPoint:
    values = _FXSAVE.unpack_from(thread.fpregs.ljust(_FXSAVE.size, b"\0"))
    cwd, swd, ftw, fop, rip, rdp, mxcsr, mxcr_mask, *spaces = values
    result = FloatingPoint(
        cwd=cwd,
        swd=swd,
        ftw=ftw,
        fop=fop,
        rip=rip,
        rdp=rdp,
        mxcsr=mxcsr,
        mxcr_mask=mxcr_mask,
        st_space=spaces[:32],
        xmm_space=spaces[32:],
    )
    known = xstate.components(thread.xstate)
    if known is not None:
        result.xsave.CopyFrom(_extended_state(known))
    return result


def _extended_state(known: xstate.Components) -> ExtendedState:
    def words(feature: Feature, code: Literal["I", "Q"]) -> list[int]:
        return list(memoryview(known.content.get(feature, b"")).cast(code))

    return ExtendedState(
        xstate_bv=known.used,
        ymm_high=words(Feature.AVX, "I"),
        bound_registers=words(Feature.BNDREGS, "Q"),
        bound_config=words(Feature.BNDCFG, "Q"),
        opmask=words(Feature.OPMASK, "Q"),
        zmm_high=words(Feature.ZMM_HIGH, "Q"),
        zmm_16=words(Feature.ZMM_16, "Q"),
        pkru=words(Feature.PKRU, "I"),
    )
