"""Numbers in CRIU's messages that have names."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class FileKind(IntEnum):
    """Of an open file; REGULAR stands for directories and devices, too."""

    UNKNOWN = 0
    REGULAR = 1
    PIPE = 2
    FIFO = 3
    INET_SOCKET = 4
    UNIX_SOCKET = 5
    EVENTFD = 6
    EPOLL = 7
    INOTIFY = 8
    SIGNALFD = 9
    PACKET_SOCKET = 10
    TERMINAL = 11
    FANOTIFY = 12
    NETLINK_SOCKET = 13
    NAMESPACE = 14
    TUN = 15
    EXTERNAL = 16
    TIMERFD = 17
    MEMFD = 18
    BPF_MAP = 19
    CONTROLLING_TERMINAL = 65534
    AUTOFS_PIPE = 65535


class Machine(IntEnum):
    """Whose registers a thread has."""

    X86_64 = 1


MACHINE_NAMES = {2: "arm", 3: "aarch64", 4: "ppc64le", 5: "s390x", 6: "mips", 7: "loongarch64", 8: "riscv64"}
"""What uname(2) calls the others."""


class TaskState(IntEnum):
    """Of a process."""

    ALIVE = 1
    DEAD = 2
    STOPPED = 3
    ZOMBIE = 6


class PageFlags(IntFlag):
    """Of an entry of a pagemap. Private anonymous pages with bytes are PRESENT and LAZY as a rule."""

    PARENT = 1 << 0
    LAZY = 1 << 1
    PRESENT = 1 << 2


class VmaStatus(IntFlag):
    """What a mapping is."""

    REGULAR = 1 << 0
    STACK = 1 << 1
    VSYSCALL = 1 << 2
    VDSO = 1 << 3
    HEAP = 1 << 5
    FILE_PRIVATE = 1 << 6
    FILE_SHARED = 1 << 7
    ANON_SHARED = 1 << 8
    ANON_PRIVATE = 1 << 9
    SYSV = 1 << 10
    SOCKET = 1 << 11
    VVAR = 1 << 12
    AIO_RING = 1 << 13
    MEMFD = 1 << 14
