"""Threads of a process that is being made, and what is each one's own."""

from __future__ import annotations

import struct
from typing import Final

from dumper.kernel.remote import Call, CallFailed, RemoteThread, Sys
from formats.threadstate import Restart, Scheduling, SignalStack, Thread
from restorer.shell import Shell

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_TIMERSLACK = 1, 15, 29
SS_ONSTACK, SS_DISABLE = 1, 2
IOPRIO_WHO_PROCESS = 1
PRIO_PROCESS = 0
SCHED_DEADLINE: Final = 6
TIMER_ABSTIME = 1
_NR_NANOSLEEP, _NR_RESTART_SYSCALL, _NR_CLOCK_NANOSLEEP = 35, 219, 230
_ERESTARTNOHAND = -514 & (1 << 64) - 1
_ARGUMENT_OFFSET = 512


def own_tid(thread: Thread) -> int:
    """The id that the thread has for itself."""
    return thread.ns_tids[-1] if thread.ns_tids else thread.tid


def set_thread(shell: Shell, thread: Thread) -> list[str]:
    """What is the thread's own but registers and credentials; what the caller may not set, as words.

    Raises CallFailed, ProcessLookupError.
    """
    remote = shell.threads[thread.tid]
    refused: list[str] = []
    calls = [Call(Sys.PRCTL, (PR_SET_NAME, shell.put(thread.name.encode("utf-8", "surrogateescape") + b"\0")))]
    if thread.clear_child_tid_addr is not None:
        calls.append(Call(Sys.SET_TID_ADDRESS, (thread.clear_child_tid_addr,)))
    if thread.robust_list_addr:
        calls.append(Call(Sys.SET_ROBUST_LIST, (thread.robust_list_addr, thread.robust_list_bytes)))
    if thread.rseq is not None:
        calls.append(Call(Sys.RSEQ, (thread.rseq.addr, thread.rseq.size_bytes, 0, thread.rseq.signature)))
    if thread.signal_stack is not None:
        calls.append(Call(Sys.SIGALTSTACK, (shell.put(signal_stack_bytes(thread.signal_stack), _ARGUMENT_OFFSET), 0)))
    remote.calls(calls)
    if thread.scheduling is not None:
        refused += _set_scheduling(shell, remote, thread, thread.scheduling)
    return refused


def renumber(shell: Shell, thread: Thread) -> None:
    """A thread with a new id: glibc keeps the id where the kernel is to clear it when the thread ends. Raises OSError.

    That is where pthread_kill(3) and locks with owners look for it; ids in locks that are held stay what they were.
    """
    if thread.clear_child_tid_addr and shell.get(thread.clear_child_tid_addr, 4) == struct.pack("i", own_tid(thread)):
        shell.write(thread.clear_child_tid_addr, struct.pack("i", shell.own_tids[thread.tid]))


def set_parent_death_signal(shell: Shell, thread: Thread, *, is_orphan: bool) -> None:
    """Also where it is none: until here the process was to end with us. Raises CallFailed.

    After the credentials: a change of these clears it. An orphan goes without (`formats.restorable` says so): we
    are its parent until we end, and it would end with us.
    """
    signal = thread.parent_death_signal or 0
    shell.threads[thread.tid].call(Sys.PRCTL, PR_SET_PDEATHSIG, 0 if is_orphan else signal)


def registers_of(thread: Thread) -> dict[str, int]:
    """The registers with which the thread goes on in a process that knows nothing of a call that was interrupted.

    What remained of its time is where the call was told to put it, if anywhere: restart_syscall(2) finds nothing, and
    fails with EINTR.
    """
    registers = dict(thread.registers)
    call = thread.system_call
    if thread.rseq is not None and thread.rseq.abort_addr:
        registers["rip"] = thread.rseq.abort_addr
    if call is None:
        return registers
    if call.restart is Restart.AGAIN_INSTEAD_OF_EINTR:
        registers["rax"] = _ERESTARTNOHAND
    elif call.restart is Restart.REMAINING and call.number != _NR_RESTART_SYSCALL:
        registers["rax"] = _ERESTARTNOHAND
        registers["orig_rax"] = call.number
        if call.number == _NR_NANOSLEEP and registers["rsi"]:
            registers["rdi"] = registers["rsi"]
        elif call.number == _NR_CLOCK_NANOSLEEP and registers["r10"] and not registers["rsi"] & TIMER_ABSTIME:
            registers["rdx"] = registers["r10"]
    return registers


def let_registers_be(shell: Shell, thread: Thread) -> None:
    """Registers and signal mask as they were: the thread makes no more calls. Raises OSError."""
    remote = shell.threads[thread.tid]
    remote.set_registers(registers_of(thread), thread.xstate, thread.fpregs)
    remote.set_mask(thread.signal_mask)


def signal_stack_bytes(stack: SignalStack) -> bytes:
    """stack_t, without what only the kernel sets."""
    flags = stack.flags & ~SS_ONSTACK
    if flags & SS_DISABLE:
        return struct.pack("QIxxxxQ", 0, SS_DISABLE, 0)
    return struct.pack(
        "QixxxxQ", stack.addr, flags & 0xFFFFFFFF if flags < 1 << 31 else flags - (1 << 32), stack.size_bytes
    )


def _set_scheduling(shell: Shell, remote: RemoteThread, thread: Thread, wanted: Scheduling) -> list[str]:
    # struct sched_attr: include/uapi/linux/sched/types.h
    attributes = struct.pack(
        "IIQiIQQQ",
        48,
        wanted.policy,
        wanted.flags,
        wanted.nice,
        wanted.priority,
        wanted.runtime_ns,
        wanted.deadline_ns,
        wanted.period_ns,
    )
    n_words = max(wanted.cpus, default=0) // 64 + 1
    mask = sum(1 << cpu for cpu in wanted.cpus).to_bytes(n_words * 8, "little")
    attributes_addr = shell.put(attributes)
    mask_addr = shell.put(mask, _ARGUMENT_OFFSET)
    refused = []
    settings = [
        ("CPU affinity", Call(Sys.SCHED_SETAFFINITY, (0, len(mask), mask_addr))),
        ("scheduling policy", Call(Sys.SCHED_SETATTR, (0, attributes_addr, 0))),
        ("nice value", Call(Sys.SETPRIORITY, (PRIO_PROCESS, 0, wanted.nice))),  # the policy takes it for some only
        ("I/O priority", Call(Sys.IOPRIO_SET, (IOPRIO_WHO_PROCESS, 0, wanted.io_priority))),
        ("timer slack", Call(Sys.PRCTL, (PR_SET_TIMERSLACK, wanted.timer_slack_ns))),
    ]
    for what, call in settings:
        try:
            remote.calls([call])
        except CallFailed as error:
            refused.append(f"{what} of thread {thread.tid} ({error.strerror})")
    return refused
