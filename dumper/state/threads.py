"""What the kernel layer read of a thread, as the record of a dump."""

import struct
from collections.abc import Sequence

from dumper.kernel.state import RawThread
from dumper.proc.status import ThreadStatus
from dumper.state.notes import Notes
from dumper.state.restarted import RESTART_SYSCALL, restarted_call
from dumper.state.unshared import NOT_THE_PROCESS_S
from formats.threadstate import (
    Credentials,
    PendingSignal,
    Restart,
    Rseq,
    Scheduling,
    SignalStack,
    SystemCall,
    Thread,
)

SIGINFO_BYTES = 128
SIGINFO_NUMBER = struct.Struct("<i")
SCHED_ATTR = struct.Struct("<IIQiIQQQ")  # struct sched_attr, its first version: sched_setattr(2)
SECCOMP_MODE_FILTER = 2
ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
RESTARTS = {  # include/linux/errno.h: what the kernel leaves in rax while a call waits to be restarted
    -512: Restart.AGAIN,  # ERESTARTSYS
    -513: Restart.AGAIN,  # ERESTARTNOINTR
    -514: Restart.AGAIN,  # ERESTARTNOHAND
    -516: Restart.REMAINING,  # ERESTART_RESTARTBLOCK
}


class FilterTable:
    """Seccomp filters of all threads, each once."""

    def __init__(self) -> None:
        self.filters: list[bytes] = []
        self._index: dict[bytes, int] = {}

    def index(self, program: bytes) -> int:
        """Where a filter is in `filters`, added if it is new."""
        if program not in self._index:
            self._index[program] = len(self.filters)
            self.filters.append(program)
        return self._index[program]


def pending_signals(queue: Sequence[bytes], pending: int) -> list[PendingSignal]:
    """Those of a queue, in its order, and those in the set `pending` (bit n-1 for signal n) that are in no queue.

    The kernel leaves a signal out of the queue when there is no memory or the limit is reached, and delivers it with
    the siginfo that is made up here: collect_signal in kernel/signal.c.
    """
    found = [PendingSignal(number=SIGINFO_NUMBER.unpack_from(info)[0], siginfo=info) for info in queue]
    queued = {signal.number for signal in found}
    for number in range(1, 65):
        if pending >> (number - 1) & 1 and number not in queued:
            siginfo = SIGINFO_NUMBER.pack(number).ljust(SIGINFO_BYTES, b"\0")
            found.append(PendingSignal(number=number, siginfo=siginfo))
    return found


def credentials(status: ThreadStatus) -> Credentials:
    """Of a thread."""
    inheritable, permitted, effective, bounding, ambient = status.caps
    return Credentials(
        uids=status.uids,
        gids=status.gids,
        groups=status.groups,
        cap_inheritable=inheritable,
        cap_permitted=permitted,
        cap_effective=effective,
        cap_bounding=bounding,
        cap_ambient=ambient,
        no_new_privs=status.no_new_privs,
    )


def _signed(register: int) -> int:
    return register - (1 << 64) if register >> 63 else register


def system_call(raw: RawThread) -> SystemCall | None:
    """The call a thread was stopped in, None if it was in none."""
    registers = raw.general
    number = _signed(registers["orig_rax"])
    if number < 0:
        return None
    if number == RESTART_SYSCALL:
        number = restarted_call(raw.code)
    restart = RESTARTS.get(_signed(registers["rax"]), Restart.FINISHED)
    if raw.restarted_instead_of_eintr:
        restart = Restart.AGAIN_INSTEAD_OF_EINTR
    return SystemCall(number=number, arguments=[registers[name] for name in ARGUMENTS], restart=restart)


def _scheduling(raw: RawThread) -> Scheduling:
    """Raises ValueError if the kernel's answer is too short."""
    if len(raw.sched_attr) < SCHED_ATTR.size:
        raise ValueError(f"sched_attr of {len(raw.sched_attr)} bytes")
    _, policy, flags, nice, priority, runtime_ns, deadline_ns, period_ns = SCHED_ATTR.unpack_from(raw.sched_attr)
    return Scheduling(
        policy=policy,
        flags=flags,
        nice=nice,
        priority=priority,
        runtime_ns=runtime_ns,
        deadline_ns=deadline_ns,
        period_ns=period_ns,
        cpus=list(raw.cpus),
        io_priority=raw.io_priority,
        timer_slack_ns=raw.timer_slack_ns or 0,
    )


def _lacks(raw: RawThread) -> list[str]:
    """What only the thread itself could tell, and did not."""
    answers = {
        "signal stack": raw.signal_stack,
        "clear_child_tid": raw.clear_child_tid_addr,
        "parent death signal": raw.parent_death_signal,
        "timer slack": raw.timer_slack_ns,
    }
    return [what for what, answer in answers.items() if answer is None]


def thread_record(
    raw: RawThread, status: ThreadStatus, of_process: ThreadStatus, filters: FilterTable, notes: Notes
) -> Thread:
    """One thread; what is missing of its seccomp filters and its scheduling, and an umask of its own, are noted."""
    own = credentials(status)
    if status.umask != of_process.umask:
        notes.add(f"umask of thread {raw.tid}", NOT_THE_PROCESS_S)
    if raw.seccomp_filters is None and status.seccomp_mode == SECCOMP_MODE_FILTER:
        notes.add(f"seccomp filters of thread {raw.tid}", "reading them needs CAP_SYS_ADMIN")
    robust_list_addr, robust_list_bytes = raw.robust_list
    return Thread(
        tid=raw.tid,
        name=status.name,
        ns_tids=status.ns_tids,
        registers=raw.general,
        fpregs=raw.fpregs,
        xstate=raw.xstate,
        signal_mask=raw.signal_mask,
        pending=pending_signals(raw.pending, status.pending_signals),
        signal_stack=_signal_stack(raw),
        robust_list_addr=robust_list_addr,
        robust_list_bytes=robust_list_bytes,
        clear_child_tid_addr=raw.clear_child_tid_addr,
        parent_death_signal=raw.parent_death_signal,
        rseq=_rseq(raw),
        scheduling=notes.attempt(f"scheduling of thread {raw.tid}", lambda: _scheduling(raw), None),
        system_call=system_call(raw),
        seccomp_mode=status.seccomp_mode,
        seccomp_filters=[filters.index(program) for program in raw.seccomp_filters or []],
        credentials=own if own != credentials(of_process) else None,
    )


def _signal_stack(raw: RawThread) -> SignalStack | None:
    if raw.signal_stack is None:
        return None
    addr, size_bytes, flags = raw.signal_stack
    return SignalStack(addr=addr, size_bytes=size_bytes, flags=flags)


def _rseq(raw: RawThread) -> Rseq | None:
    if raw.rseq is None:
        return None
    return Rseq(
        addr=raw.rseq.addr,
        size_bytes=raw.rseq.size_bytes,
        signature=raw.rseq.signature,
        flags=raw.rseq.flags,
        section_addr=raw.rseq.section_addr,
        abort_addr=raw.rseq.abort_addr,
    )


def note_silent_threads(raw_threads: Sequence[RawThread], reason: str, notes: Notes) -> None:
    """Notes what threads did not tell of themselves, one note for all that lack the same."""
    silent: dict[str, list[int]] = {}
    for raw in raw_threads:
        if lacks := ", ".join(_lacks(raw)):
            silent.setdefault(lacks, []).append(raw.tid)
    for lacks, tids in silent.items():
        whom = "all threads" if len(tids) == len(raw_threads) else f"threads {', '.join(map(str, tids))}"
        notes.add(f"{lacks} of {whom}", reason)
