"""The attempts behind `check` that concern a restore, each in a blank process that is made for it and ends with it.

They raise OSError where the thing is not to be had, as those of `dumper.trials`.
"""

import errno
import os
import signal
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from dumper.kernel.remote import CallFailed, RemoteThread, Sys, spawn_blank
from formats.layout import PAGE_BYTES

AWAY = 32  # descriptors that `spawn_blank` opens are below
WALL = 0x40000000  # __WALL of wait(2)
PR_SET_MM, PR_SET_MM_MAP, PR_SET_MM_MAP_SIZE = 35, 14, 15
PR_TIMER_CREATE_RESTORE_IDS, RESTORE_IDS_GET = 77, 2  # since 6.15: include/uapi/linux/prctl.h
ARCH_MAP_VDSO_64 = 0x2003
TCP_REPAIR = 19
BOUNDARIES = struct.Struct("12QII")  # struct prctl_mm_map: include/uapi/linux/prctl.h
CODE_ADDR = 0x400000  # of the blank process: PROGRAM_ADDR of csrc/spawn.c
NO_SUCH_FD = 1 << 20
_PRIVATE_ANONYMOUS, _READ_WRITE = 0x22, 3
_TRIES = 20


@contextmanager
def blank(set_tids: Sequence[int] = (), time_offsets: str = "") -> Iterator[RemoteThread]:
    """A blank process, which ends with the block. Raises OSError as `spawn_blank`."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        thread = spawn_blank(set_tids, null, null + AWAY, time_offsets=time_offsets)
    finally:
        os.close(null)
    try:
        yield thread
    finally:
        with suppress(ProcessLookupError):
            os.kill(thread.tid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(thread.tid, WALL)


def memory_of(thread: RemoteThread, content: bytes) -> int:
    """The address of a page of its own that begins with `content`. Raises OSError."""
    addr = thread.call(Sys.MMAP, 0, PAGE_BYTES, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    fd = os.open(f"/proc/{thread.tid}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(fd, content, addr)
    finally:
        os.close(fd)
    return addr


def try_blank_process() -> str:
    with blank() as thread:
        thread.call(Sys.UMASK, 0)
    return "a process was made, and a system call made in it"


def try_chosen_ids() -> str:
    for _ in range(_TRIES):
        with blank() as thread:
            number = thread.tid
        try:
            with blank([number]):
                return "a process may be given the id that it had (clone3 with set_tid)"
        except FileExistsError:
            continue  # somebody else got it meanwhile
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def try_time_namespace() -> str:
    """Older kernels have it for children only, not from an execve(2) on."""
    with blank(time_offsets="monotonic 1 0\nboottime 1 0\n") as thread:
        own = os.readlink(f"/proc/{thread.tid}/ns/time")  # noqa: PTH115
        if own != os.readlink(f"/proc/{thread.tid}/ns/time_for_children"):  # noqa: PTH115
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return "clocks that count from the boot can go on from where they were (time namespace)"


def try_memory_map() -> str:
    with blank() as thread:
        thread.call(Sys.PRCTL, PR_SET_MM, PR_SET_MM_MAP_SIZE, memory_of(thread, b""), 0, 0)
    return "the boundaries of a process's memory can be set (PR_SET_MM_MAP)"


def try_executable() -> str:
    """Asked for with a descriptor that is none: who may not is refused before that is found out."""
    with blank() as thread:
        ends = CODE_ADDR, CODE_ADDR + PAGE_BYTES
        boundaries = BOUNDARIES.pack(*ends, *ends, *([CODE_ADDR] * 7), 0, 0, NO_SUCH_FD)
        addr = memory_of(thread, boundaries)
        try:
            thread.call(Sys.PRCTL, PR_SET_MM, PR_SET_MM_MAP, addr, len(boundaries), 0)
        except CallFailed as error:
            if error.errno != errno.EBADF:
                raise
    return "the link to a process's executable can be set"


def try_timer_ids() -> str:
    with blank() as thread:
        thread.call(Sys.PRCTL, PR_TIMER_CREATE_RESTORE_IDS, RESTORE_IDS_GET, 0, 0, 0)
    return "POSIX timers can be made with the ids that they had (PR_TIMER_CREATE_RESTORE_IDS)"


def try_vdso_address() -> str:
    """It has one already, which who knows the call says."""
    with blank() as thread:
        try:
            thread.call(Sys.ARCH_PRCTL, ARCH_MAP_VDSO_64, 0)
        except CallFailed as error:
            if error.errno != errno.EEXIST:
                raise
    return "the vdso can be mapped where it was (ARCH_MAP_VDSO_64)"


def try_rseq() -> str:
    with blank() as thread:
        try:
            thread.call(Sys.RSEQ, 0, 0, 1, 0)  # to take back what was never registered
        except CallFailed as error:
            if error.errno == errno.ENOSYS:
                raise
    return "restartable sequences can be registered (rseq)"


def try_tcp_repair() -> str:
    with socket.socket() as one:
        one.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        one.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
    return "established connections can go on (TCP_REPAIR)"
