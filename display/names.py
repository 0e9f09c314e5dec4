"""Numbers of the kernel's interfaces by their names in the man pages; those of Linux on x86-64.

Each table is a kernel header's, named beside it. A number or bit without a name is shown as a number.
"""

import signal
from collections.abc import Iterator, Mapping, Sequence

SIGRTMIN, SIGRTMAX = 34, 64  # glibc's; the kernel's first real-time signal is 32, but 32 and 33 are glibc's own
N_SIGNALS = 64
UNIX98_PTY_MAJOR = 136

_ACCESS_MODES = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")
_O_PATH, _O_LARGEFILE = 0o10000000, 0o100000
_OPEN_FLAGS = {  # uapi/asm-generic/fcntl.h; those of several bits first
    0o20200000: "O_TMPFILE",
    0o4010000: "O_SYNC",
    0o100: "O_CREAT",
    0o200: "O_EXCL",
    0o400: "O_NOCTTY",
    0o1000: "O_TRUNC",
    0o2000: "O_APPEND",
    0o4000: "O_NONBLOCK",
    0o10000: "O_DSYNC",
    0o20000: "O_ASYNC",
    0o40000: "O_DIRECT",
    0o200000: "O_DIRECTORY",
    0o400000: "O_NOFOLLOW",
    0o1000000: "O_NOATIME",
    0o2000000: "O_CLOEXEC",
    _O_PATH: "O_PATH",
}

_SA_RESTORER = 0x04000000
_SIGACTION_FLAGS = {  # uapi/asm-generic/signal-defs.h
    0x00000001: "SA_NOCLDSTOP",
    0x00000002: "SA_NOCLDWAIT",
    0x00000004: "SA_SIGINFO",
    0x00000400: "SA_UNSUPPORTED",
    0x00000800: "SA_EXPOSE_TAGBITS",
    0x08000000: "SA_ONSTACK",
    0x10000000: "SA_RESTART",
    0x40000000: "SA_NODEFER",
    0x80000000: "SA_RESETHAND",
}

_EPOLL_EVENTS = {  # uapi/linux/eventpoll.h
    0x00000001: "EPOLLIN",
    0x00000002: "EPOLLPRI",
    0x00000004: "EPOLLOUT",
    0x00000008: "EPOLLERR",
    0x00000010: "EPOLLHUP",
    0x00000040: "EPOLLRDNORM",
    0x00000080: "EPOLLRDBAND",
    0x00000100: "EPOLLWRNORM",
    0x00000200: "EPOLLWRBAND",
    0x00000400: "EPOLLMSG",
    0x00002000: "EPOLLRDHUP",
    1 << 28: "EPOLLEXCLUSIVE",
    1 << 29: "EPOLLWAKEUP",
    1 << 30: "EPOLLONESHOT",
    1 << 31: "EPOLLET",
}

_SEALS = {  # uapi/linux/fcntl.h
    0x01: "F_SEAL_SEAL",
    0x02: "F_SEAL_SHRINK",
    0x04: "F_SEAL_GROW",
    0x08: "F_SEAL_WRITE",
    0x10: "F_SEAL_FUTURE_WRITE",
    0x20: "F_SEAL_EXEC",
}

_SCHED_POLICIES = {  # uapi/linux/sched.h
    0: "SCHED_OTHER",
    1: "SCHED_FIFO",
    2: "SCHED_RR",
    3: "SCHED_BATCH",
    5: "SCHED_IDLE",
    6: "SCHED_DEADLINE",
    7: "SCHED_EXT",
}

_IO_CLASSES = {1: "real-time", 2: "best-effort", 3: "idle"}  # uapi/linux/ioprio.h

_CLOCKS = {  # uapi/linux/time.h
    0: "CLOCK_REALTIME",
    1: "CLOCK_MONOTONIC",
    2: "CLOCK_PROCESS_CPUTIME_ID",
    3: "CLOCK_THREAD_CPUTIME_ID",
    4: "CLOCK_MONOTONIC_RAW",
    7: "CLOCK_BOOTTIME",
    8: "CLOCK_REALTIME_ALARM",
    9: "CLOCK_BOOTTIME_ALARM",
    11: "CLOCK_TAI",
}

_INTERVAL_TIMERS = {0: "ITIMER_REAL", 1: "ITIMER_VIRTUAL", 2: "ITIMER_PROF"}  # uapi/linux/time.h

_LIMIT_NAMES = (  # uapi/asm-generic/resource.h, by number
    "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"
)

_CAPABILITY_NAMES = (  # uapi/linux/capability.h, by number
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
_LIMITS, _CAPABILITIES = _LIMIT_NAMES.split(), _CAPABILITY_NAMES.split()
ALL_CAPABILITIES = (1 << len(_CAPABILITIES)) - 1

_FAMILIES = {  # linux/socket.h
    1: "unix",
    2: "inet",
    10: "inet6",
    16: "netlink",
    17: "packet",
    29: "can",
    31: "bluetooth",
    38: "alg",
    40: "vsock",
    44: "xdp",
}
_SOCKET_TYPES = {1: "stream", 2: "dgram", 3: "raw", 4: "rdm", 5: "seqpacket", 10: "packet"}  # linux/net.h
_INTERNET_PROTOCOLS = {(1, 6): "tcp", (1, 0): "tcp", (2, 17): "udp", (2, 0): "udp", (1, 132): "sctp", (1, 262): "mptcp"}


def _bit_names(value: int, names: Mapping[int, str]) -> list[str]:
    """Names of the bits of `value`, and what is left of it as one number."""
    found = []
    for bits, name in names.items():
        if value & bits == bits:
            found.append(name)
            value &= ~bits
    return [*found, f"{value:#x}"] if value else found


def open_flag_names(flags: int, *, close_on_exec: bool = False) -> list[str]:
    """O_* of open(2), the access mode first; O_LARGEFILE is left out: every file of a 64-bit process has it."""
    mode = [] if flags & _O_PATH else [_ACCESS_MODES[flags & 3]]
    names = mode + _bit_names(flags & ~3 & ~_O_LARGEFILE, _OPEN_FLAGS)
    return [*names, "O_CLOEXEC"] if close_on_exec and "O_CLOEXEC" not in names else names


def sigaction_flag_names(flags: int) -> list[str]:
    """SA_* of sigaction(2); SA_RESTORER is left out: on x86-64 there is no handler without it."""
    return _bit_names(flags & ~_SA_RESTORER, _SIGACTION_FLAGS)


def epoll_event_names(events: int) -> list[str]:
    """EPOLL* of epoll_ctl(2)."""
    return _bit_names(events, _EPOLL_EVENTS)


def seal_names(seals: int) -> list[str]:
    """F_SEAL_* of fcntl(2)."""
    return _bit_names(seals, _SEALS)


def signal_name(number: int) -> str:
    """ "SIGINT", "SIGRTMIN+2", or "SIG32" for one without a name, as gdb calls it."""
    if SIGRTMIN < number < SIGRTMAX:
        return f"SIGRTMIN+{number - SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def signal_numbers(mask: int) -> Iterator[int]:
    """The signals of a sigset_t: bit 0 is signal 1."""
    return (number for number in range(1, N_SIGNALS + 1) if mask >> (number - 1) & 1)


def signal_set_text(mask: int) -> str:
    """A signal set in words: "SIGINT SIGTERM", "all but SIGSEGV", "all", "none"; SIGKILL and SIGSTOP never count."""
    unblockable = {signal.SIGKILL, signal.SIGSTOP}
    inside = [n for n in signal_numbers(mask) if n not in unblockable]
    outside = [n for n in signal_numbers(~mask) if n not in unblockable and n not in (32, 33)]
    if not inside:
        return "none"
    if not outside:
        return "all"
    if len(outside) < len(inside):
        return "all but " + " ".join(map(signal_name, outside))
    return " ".join(map(signal_name, inside))


def capability_set_text(mask: int) -> str:
    """A capability set in words: "all", "none", "CAP_CHOWN CAP_KILL", "all but CAP_SYS_ADMIN"."""
    inside = [f"CAP_{name}" for bit, name in enumerate(_CAPABILITIES) if mask >> bit & 1]
    outside = [f"CAP_{name}" for bit, name in enumerate(_CAPABILITIES) if not mask >> bit & 1]
    unknown = mask & ~ALL_CAPABILITIES
    if unknown:
        inside.append(f"{unknown:#x}")
    if not inside:
        return "none"
    if not outside:
        return "all"
    return "all but " + " ".join(outside) if len(outside) < len(inside) else " ".join(inside)


def policy_name(policy: int) -> str:
    """SCHED_* of sched(7)."""
    return _SCHED_POLICIES.get(policy, f"policy {policy}")


def io_priority_text(io_priority: int) -> str:
    """What ioprio_set(2) takes, in words: "idle", "best-effort 4"."""
    name = _IO_CLASSES.get(io_priority >> 13)
    return f"{name} {io_priority & 0x1FFF}" if name else f"{io_priority:#x}"


def clock_name(clock: int) -> str:
    """CLOCK_* of clock_gettime(2)."""
    return _CLOCKS.get(clock, f"clock {clock}")


def interval_timer_name(which: int) -> str:
    """ITIMER_* of setitimer(2)."""
    return _INTERVAL_TIMERS.get(which, f"timer {which}")


def limit_name(resource: int) -> str:
    """RLIMIT_* of getrlimit(2), without the prefix."""
    return _name_at(_LIMITS, resource) or f"limit {resource}"


def _name_at(names: Sequence[str], number: int) -> str:
    return names[number] if 0 <= number < len(names) else ""


def socket_name(family: int, kind: int, protocol: int) -> str:
    """What a socket is: "tcp", "udp6", "unix stream", "netlink raw"."""
    family_name = _FAMILIES.get(family, f"family {family}")
    if family_name.startswith("inet") and (protocol_name := _INTERNET_PROTOCOLS.get((kind, protocol))):
        return protocol_name + family_name.removeprefix("inet")
    return f"{family_name} {_SOCKET_TYPES.get(kind, f'type {kind}')}"


def terminal_name(device: int) -> str:
    """A controlling terminal as ps names it: `device` is field 7 of /proc/PID/stat."""
    major, minor = device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00
    if UNIX98_PTY_MAJOR <= major < UNIX98_PTY_MAJOR + 8:  # uapi/linux/major.h
        return f"pts/{(major - UNIX98_PTY_MAJOR << 8) + minor}"
    return f"{major}:{minor}"
