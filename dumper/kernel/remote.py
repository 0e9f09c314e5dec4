"""Processes that a restore makes: a blank one, and system calls in its threads.

They end with us (PTRACE_O_EXITKILL), until they are detached from. All calls come from one OS thread.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from dumper.kernel.native import checked, ffi, lib, new_array
from dumper.kernel.ptrace import O_SUSPEND_SECCOMP, REGISTER_NAMES
from formats import faults

O_EXITKILL = 1 << 20  # PTRACE_O_EXITKILL
O_TRACE_CHILDREN = 1 << 1 | 1 << 2 | 1 << 3  # PTRACE_O_TRACEFORK, TRACEVFORK, TRACECLONE
ALL_SIGNALS = (1 << 64) - 1
CALL_TIMEOUT_NS = 10_000_000_000
CALLS_AT_ONCE = 512
TABLE_BYTES = CALLS_AT_ONCE * int(ffi.sizeof("struct pd_remote_call"))
"""What calls that are made in one go take in the process."""
_FEW_CALLS = 3
_LOOP_BYTES = 256
_XSTATE_BYTES_MAX = 1 << 16


class Sys(IntEnum):
    """Numbers of system calls: arch/x86/entry/syscalls/syscall_64.tbl."""

    READ = 0
    WRITE = 1
    CLOSE = 3
    MMAP = 9
    MPROTECT = 10
    MUNMAP = 11
    RT_SIGACTION = 13
    IOCTL = 16
    MREMAP = 25
    SHMAT = 30
    MADVISE = 28
    SETITIMER = 38
    RECVMSG = 47
    EXIT = 60
    WAIT4 = 61
    FCNTL = 72
    FLOCK = 73
    CHDIR = 80
    FCHDIR = 81
    UMASK = 95
    SETPGID = 109
    SETSID = 112
    SETGROUPS = 116
    SETRESUID = 117
    SETRESGID = 119
    SETFSUID = 122
    SETFSGID = 123
    CAPSET = 126
    RT_SIGTIMEDWAIT = 128
    RT_SIGQUEUEINFO = 129
    SIGALTSTACK = 131
    PERSONALITY = 135
    SETPRIORITY = 141
    MLOCK = 149
    PRCTL = 157
    ARCH_PRCTL = 158
    CHROOT = 161
    MOUNT = 165
    SETRLIMIT = 160
    REMAP_FILE_PAGES = 216
    SCHED_SETAFFINITY = 203
    SET_TID_ADDRESS = 218
    TIMER_CREATE = 222
    TIMER_SETTIME = 223
    TIMER_DELETE = 226
    EXIT_GROUP = 231
    EPOLL_CTL = 233
    IOPRIO_SET = 251
    OPENAT = 257
    UNSHARE = 272
    SET_ROBUST_LIST = 273
    TIMERFD_SETTIME = 286
    DUP3 = 292
    RT_TGSIGQUEUEINFO = 297
    PRLIMIT64 = 302
    SETNS = 308
    SCHED_SETATTR = 314
    SECCOMP = 317
    MLOCK2 = 325
    RSEQ = 334
    USERFAULTFD = 323
    CLONE3 = 435
    CLOSE_RANGE = 436
    MSEAL = 462


@dataclass(frozen=True, slots=True)
class Call:
    """A system call: its number and up to six arguments; negative ones are taken as 64 bits."""

    nr: int
    args: tuple[int, ...] = ()


class CallFailed(OSError):
    """A system call that was made in another process failed."""

    def __init__(self, error: int, call: Call, tid: int) -> None:
        name = Sys(call.nr).name.lower() if call.nr in set(Sys) else f"system call {call.nr}"
        super().__init__(error, f"{name} in thread {tid}: {os.strerror(error)}")
        self.call = call


class RemoteThread:
    """A stopped thread of a process that is ours; `syscall_addr` is a `syscall` instruction in it, and may change.

    With `batch`, where `call_loop` and TABLE_BYTES of memory for its table are, many calls take no longer than a few.
    """

    def __init__(self, tid: int, syscall_addr: int, batch: tuple[int, int] | None = None) -> None:
        self.tid = tid
        self.syscall_addr = syscall_addr
        self.batch = batch

    def call(self, nr: int, *args: int) -> int:
        """One call; its result. Raises CallFailed, ProcessLookupError if the thread is gone, TimeoutError."""
        return self.calls([Call(nr, args)])[0]

    def calls(self, calls: Sequence[Call]) -> list[int]:
        """Calls one after the other; their results. Raises as `call`, with what came before the failed one done."""
        results: list[int] = []
        at_once = 1 if faults.calls_one_by_one() else CALLS_AT_ONCE
        for start in range(0, len(calls), at_once):
            made, n_calls = self._make(calls[start : start + at_once])
            results += [int(item.result) for item in made[0:n_calls]]
        return results

    def clone(self, args_addr: int, args_bytes: int) -> tuple[int, int]:
        """clone3(2) with its arguments in the process's memory: the new id there, and as we see it.

        The new thread or process is traced, too, and stands still with the signal mask of this one. Raises as `call`.
        """
        made, _ = self._make([Call(Sys.CLONE3, (args_addr, args_bytes))])
        tid = int(made[0].child)
        checked(lib.pd_remote_wait_born(tid, CALL_TIMEOUT_NS))
        return int(made[0].result), tid

    def set_mask(self, mask: int) -> None:
        """Which signals it blocks. Raises OSError."""
        checked(lib.pd_remote_set_mask(self.tid, mask))

    def xstate(self) -> bytes:
        """NT_X86_XSTATE: which components this processor has, and how they lie. Raises OSError."""
        into = new_array("uint8_t", _XSTATE_BYTES_MAX)
        n_bytes = checked(lib.pd_remote_get_xstate(self.tid, into, _XSTATE_BYTES_MAX))
        return bytes(ffi.buffer(into, n_bytes))

    def set_registers(self, registers: dict[str, int], xstate: bytes, fpregs: bytes) -> None:
        """All of them, as NT_X86_XSTATE or, where that is empty, NT_PRFPREG. Raises OSError."""
        general = new_array("uint64_t", len(REGISTER_NAMES))
        for index, name in enumerate(REGISTER_NAMES):
            general[index] = registers[name]
        checked(lib.pd_remote_set_registers(self.tid, general, ffi.from_buffer(xstate), len(xstate)))
        if not xstate and fpregs:
            checked(lib.pd_remote_set_fpregs(self.tid, ffi.from_buffer(fpregs), len(fpregs)))

    def _make(self, calls: Sequence[Call]) -> tuple[Any, int]:
        if faults.calls_one_by_one() and (error := faults.before_call()):
            raise CallFailed(error, calls[0], self.tid)
        made = new_array("struct pd_remote_call", len(calls))
        for item, call in zip(made, calls, strict=True):
            item.nr = call.nr
            for index in range(6):
                item.args[index] = call.args[index] & ALL_SIGNALS if index < len(call.args) else 0
        n_made = self._run(made, len(calls))
        if n_made < len(calls):
            raise CallFailed(-int(made[n_made].result), calls[n_made], self.tid)
        return made, n_made

    def _run(self, made: Any, n_calls: int) -> int:
        """Makes them; how many succeeded. Raises OSError."""
        if self.batch and n_calls > _FEW_CALLS:
            return checked(lib.pd_remote_batch(self.tid, *self.batch, CALL_TIMEOUT_NS, made, n_calls))
        return checked(lib.pd_remote_calls(self.tid, self.syscall_addr, CALL_TIMEOUT_NS, made, n_calls))


def call_loop() -> bytes:
    """The code that makes the calls of a table, for any address."""
    code = new_array("uint8_t", _LOOP_BYTES)
    return bytes(ffi.buffer(code, lib.pd_remote_loop(code, _LOOP_BYTES)))


def detach(threads: Sequence[RemoteThread], signals: Sequence[int]) -> int:
    """Let them go on as they are, one right after the other, each with its signal if that is not 0; how many did."""
    tids = ffi.new("int32_t[]", [thread.tid for thread in threads])
    return checked(lib.pd_remote_detach(tids, ffi.new("int32_t[]", list(signals)), len(threads)))


def adopt_orphans(on: bool) -> bool:
    """Whether orphans among our descendants become our children; what was so before. Raises OSError."""
    return bool(checked(lib.pd_adopt_orphans(on)))


def init_program() -> bytes:
    """What the first process of a pid namespace runs that is nothing else: pd_init_program in csrc/cdef.h."""
    code = ffi.new("uint8_t **")
    n_bytes = lib.pd_init_program(code)
    return bytes(ffi.buffer(code[0], n_bytes))


def spawn_blank(
    set_tids: Sequence[int],
    keep_fd: int,
    keep_as: int,
    *,
    clone_flags: int = 0,
    personality: int = 0,
    time_offsets: str = "",
    suspend_seccomp: bool = False,
) -> RemoteThread:
    """A process without anything: it stands still, all signals blocked, the caller's child.

    Of our descriptors it gets `keep_fd`, as `keep_as`, and those without close-on-exec. set_tids: its pid in each pid
    namespace, the innermost first; none for any. time_offsets: for /proc/PID/timens_offsets of a new time namespace, ""
    for none. suspend_seccomp: filters that it installs are not asked while it is ours, which needs CAP_SYS_ADMIN.

    Raises OSError: EEXIST if the pid is taken, EPERM if the caller may not choose it, EINVAL for an impossible one,
    ERANGE for impossible offsets.
    """
    offsets = ffi.new("char[]", time_offsets.encode())
    tids = ffi.new("int32_t[]", list(set_tids) or [0])
    spawn = {
        "set_tids": tids if set_tids else ffi.NULL,
        "n_set_tids": len(set_tids),
        "clone_flags": clone_flags,
        "personality": personality,
        "time_offsets": offsets if time_offsets else ffi.NULL,
        "keep_fd": keep_fd,
        "keep_as": keep_as,
        "options": O_EXITKILL | O_TRACE_CHILDREN | (O_SUSPEND_SECCOMP if suspend_seccomp else 0),
    }
    addr = ffi.new("uint64_t *")
    pid = checked(lib.pd_spawn_blank(ffi.new("struct pd_spawn *", spawn), CALL_TIMEOUT_NS, addr))
    return RemoteThread(pid, int(addr[0]))
