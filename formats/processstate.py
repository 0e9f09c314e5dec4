"""What a dump says of a process beside its memory, its threads and its open files."""

from __future__ import annotations

from dataclasses import dataclass, field

from formats.threadstate import Credentials, PendingSignal


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a process is to others; ids are as predump sees them, but for those with `ns_`.

    Those are from the outermost pid namespace that predump sees to the process's own. `terminal` is the device number
    of the controlling terminal, 0 for none. `exit_signal` is what the parent gets when the process ends.
    """

    process_group: int
    session: int
    terminal: int
    exit_signal: int
    ns_pids: list[int]
    ns_process_groups: list[int]
    ns_sessions: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Zombie:
    """What is left of a process that has ended and waits for its parent; `exit_code` is the status of wait(2)."""

    exit_code: int
    lineage: Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLayout:
    """The boundaries in the kernel's mm_struct, as PR_SET_MM_MAP takes them; addresses."""

    start_code_addr: int
    end_code_addr: int
    start_data_addr: int
    end_data_addr: int
    start_brk_addr: int
    brk_addr: int
    start_stack_addr: int
    arg_start_addr: int
    arg_end_addr: int
    env_start_addr: int
    env_end_addr: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disposition:
    """What a signal does, as rt_sigaction(2) takes it: handler 0 is the default, 1 is to ignore it."""

    number: int
    handler_addr: int
    flags: int
    restorer_addr: int
    mask: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PosixTimer:
    """A timer of timer_create(2). `notify` is SIGEV_*; `value` goes to its handler; `tid` is the thread it signals, 0
    for any. `remaining_ns` is 0 where it is disarmed.
    """

    id: int
    clock: int
    signal: int
    value: int
    notify: int
    tid: int
    interval_ns: int
    remaining_ns: int
    overruns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalTimer:
    """A timer of setitimer(2): `which` is 0 ITIMER_REAL, 1 ITIMER_VIRTUAL, 2 ITIMER_PROF."""

    which: int
    interval_us: int
    remaining_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A resource limit; `resource` is RLIMIT_*, infinity is 2^64 - 1."""

    resource: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A namespace the process was in, by its kind ("pid", "net", ...) and its inode number."""

    kind: str
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A file descriptor: `open_file` is the id of an entry of the round's `open_files`."""

    fd: int
    open_file: int
    close_on_exec: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLock:
    """A lock seen through descriptor `fd`: flock(2), fcntl(2) (posix, ofd) or a lease.

    `end` is inclusive, -1 for the end of the file, whatever that is.
    """

    fd: int
    kind: str
    mode: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """State of a process as of the freeze. Strings are decoded with surrogateescape.

    `prctl` has what only prctl(2) and its kin tell, by name: dumpable, securebits, child_subreaper, tsc, mdwe, ...
    stopped: by a signal (SIGSTOP, SIGTSTP, ...), until SIGCONT.
    shared: what it shares with another process of the round, by the pid of that, though it is no thread of it: memory,
    descriptors, directories (working, root, umask), handlers (of signals).
    `namespaces`' time offsets (`monotonic_offset_ns`, `boottime_offset_ns`) are those of its time namespace.
    """

    lineage: Lineage
    auxv: bytes
    environment: bytes
    layout: MemoryLayout | None
    dispositions: list[Disposition]
    pending: list[PendingSignal]
    posix_timers: list[PosixTimer]
    interval_timers: list[IntervalTimer]
    limits: list[Limit]
    credentials: Credentials
    seccomp_filters: list[bytes]
    umask: int
    cwd: str
    root: str
    namespaces: list[Namespace]
    monotonic_offset_ns: int
    boottime_offset_ns: int
    cgroups: list[str]
    personality: int
    oom_score_adj: int
    coredump_filter: int
    thp_disabled: bool
    prctl: dict[str, int] = field(default_factory=dict)
    stopped: bool = False
    descriptors: list[Descriptor] = field(default_factory=list)
    locks: list[FileLock] = field(default_factory=list)
    shared: dict[str, int] = field(default_factory=dict)
