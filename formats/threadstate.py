"""What a dump says of a thread. Addresses are of the target; each record names what a restore makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSignal:
    """A signal that waits to be delivered, with its siginfo_t (128 bytes): rt_tgsigqueueinfo(2) queues it again."""

    number: int
    siginfo: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalStack:
    """The alternate signal stack, as sigaltstack(2) tells it and takes it back; `flags` are SS_*."""

    addr: int
    size_bytes: int
    flags: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rseq:
    """The registration of rseq(2). `section_addr` is the rseq_cs descriptor it pointed at, 0 for none.

    `abort_addr` is where the thread must go on if it was stopped inside that section, 0 if it was not.
    """

    addr: int
    size_bytes: int
    signature: int
    flags: int
    section_addr: int = 0
    abort_addr: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """As sched_setattr(2), sched_setaffinity(2), ioprio_set(2) and PR_SET_TIMERSLACK take it."""

    policy: int
    flags: int
    nice: int
    priority: int
    runtime_ns: int
    deadline_ns: int
    period_ns: int
    cpus: list[int]
    io_priority: int
    timer_slack_ns: int


class Restart(StrEnum):
    """How a system call that the stop interrupted goes on."""

    FINISHED = "finished"
    """Its result is in rax."""
    AGAIN = "again"
    """ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND: made once more with the same arguments."""
    REMAINING = "remaining"
    """ERESTART_RESTARTBLOCK: goes on with the time that is left, which only the kernel knows (nanosleep's `rem`)."""
    AGAIN_INSTEAD_OF_EINTR = "again-instead-of-eintr"
    """The kernel would have let it fail with EINTR; predump had it start over, with its whole timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemCall:
    """The system call the thread was stopped in: its number and its six arguments, as in the registers.

    One with time left that was interrupted before has number 219 in its registers, restart_syscall(2), and here its own
    where the code tells it.
    """

    number: int
    arguments: list[int]
    restart: Restart


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """User and group ids (real, effective, saved, file system), groups, and capability sets as bit masks."""

    uids: list[int]
    gids: list[int]
    groups: list[int]
    cap_inheritable: int
    cap_permitted: int
    cap_effective: int
    cap_bounding: int
    cap_ambient: int
    no_new_privs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread. In a pre-dump round, which takes no state, there is nothing but `tid` and `name`.

    registers: user_regs_struct by name; fpregs, xstate: NT_PRFPREG and NT_X86_XSTATE as ptrace gives them.
    None stands for what could not be captured, or, for `rseq` and `system_call`, for what there was none of.
    `credentials` is None where they are those of the process. `seccomp_filters` are indexes into the process's
    `seccomp_filters`, oldest first.
    """

    tid: int
    name: str
    ns_tids: list[int] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)
    fpregs: bytes = b""
    xstate: bytes = b""
    signal_mask: int = 0
    pending: list[PendingSignal] = field(default_factory=list)
    signal_stack: SignalStack | None = None
    robust_list_addr: int = 0
    robust_list_bytes: int = 0
    clear_child_tid_addr: int | None = None
    parent_death_signal: int | None = None
    rseq: Rseq | None = None
    scheduling: Scheduling | None = None
    system_call: SystemCall | None = None
    seccomp_mode: int = 0
    seccomp_filters: list[int] = field(default_factory=list)
    credentials: Credentials | None = None
