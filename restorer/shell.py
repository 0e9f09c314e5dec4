"""A process that is being made: without memory but the boot pages, from which its system calls are made.

boot page      `syscall`, at which its threads stand while they are ours, and the loop that makes many calls
scratch        arguments and answers of one call at a time
table          calls for the loop
"""

from __future__ import annotations

import array
import errno
import os
import select
import signal
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress

from dumper.kernel.ptrace import REGISTER_NAMES
from dumper.kernel.remote import (
    ALL_SIGNALS,
    TABLE_BYTES,
    Call,
    RemoteThread,
    Sys,
    call_loop,
    detach,
    init_program,
    spawn_blank,
)
from formats import runs
from formats.closing import Closing
from formats.layout import PAGE_BYTES

SCRATCH_BYTES = 256 << 10
WRITABLE_BYTES = SCRATCH_BYTES + TABLE_BYTES
BOOT_BYTES = PAGE_BYTES + WRITABLE_BYTES
BLANK_PROGRAM = (0x400000, 0x401000)  # PROGRAM_ADDR of csrc/spawn.c
LOWEST_ADDR = 1 << 20
TASK_END_ADDR = 0x7FFFFFFFF000  # TASK_SIZE: arch/x86/include/asm/page_64_types.h
CLONE_THREAD_FLAGS = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000  # VM, FS, FILES, SIGHAND, THREAD, SYSVSEM
_LOOP = b"\x0f\x05\xeb\xfc"  # `syscall; jmp` to it
_CALL_LOOP_OFFSET = 64
_FDS_AT_ONCE = 200  # SCM_MAX_FD is 253
_PRIVATE_ANONYMOUS_HERE = 0x02 | 0x20 | 0x100000  # MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE
_READ, _WRITE, _EXECUTE = 1, 2, 4
_LAST_FD = (1 << 32) - 1
_END_S = 10.0
WALL = 0x40000000
"""__WALL of wait(2)."""
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
DEADLY_SIGNALS = frozenset(range(1, 65)) - {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGURG,
    signal.SIGWINCH,
}
"""Those that end a process by default: signal(7)."""
USER_CS, USER_SS, INTERRUPTS = 0x33, 0x2B, 0x200
NO_CALL = (1 << 64) - 1
"""orig_rax of a thread that is in no system call."""


class Channel(Closing):
    """The socket by which shells get descriptors: each has the other end as descriptor `fd`, and one asks at a time."""

    def __init__(self, fd: int) -> None:
        """`fd` is a number that no process of the image uses."""
        self.fd = fd
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def close(self) -> None:
        """Close our ends. May be called again."""
        self.ours.close()
        self.theirs.close()


def boot_address(used: Iterable[runs.Range]) -> int:
    """Where the boot pages can be in all of the processes, `used` being all their mappings; raises ValueError."""
    taken = runs.merge(sorted([*used, BLANK_PROGRAM]))
    for start_addr, end_addr in runs.subtract([(LOWEST_ADDR, TASK_END_ADDR)], taken):
        if end_addr - start_addr >= BOOT_BYTES:
            return start_addr
    raise ValueError("there is no hole in the address space")


class Shell(Closing):
    """One process to be; a context manager: it ends with the block unless it was let go. For one OS thread."""

    def __init__(self, leader: RemoteThread, own_pid: int, boot_addr: int, channel: Channel) -> None:
        self.leader = leader
        self.pid = leader.tid
        """As we see it."""
        self.own_pid = own_pid
        """As it sees itself."""
        self.threads: dict[int, RemoteThread] = {}
        """Its threads by the ids that the image has for them."""
        self.own_tids: dict[int, int] = {}
        """The ids that they have for themselves, by the same."""
        self.boot_addr = boot_addr
        self.channel = channel
        self._mem_fd = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        self._is_ours = True

    @classmethod
    def first(
        cls,
        set_tids: Sequence[int],
        boot_addr: int,
        channel: Channel,
        *,
        clone_flags: int = 0,
        personality: int = 0,
        time_offsets: str = "",
        suspend_seccomp: bool = False,
    ) -> Shell:
        """One that is the caller's child; as `spawn_blank`, which says what it raises. Raises CallFailed, too."""
        leader = spawn_blank(
            set_tids,
            channel.theirs.fileno(),
            channel.fd,
            clone_flags=clone_flags,
            personality=personality,
            time_offsets=time_offsets,
            suspend_seccomp=suspend_seccomp,
        )
        shell = cls(leader, set_tids[0] if set_tids else leader.tid, boot_addr, channel)
        try:
            shell._clear()
        except BaseException:
            shell.close()
            raise
        return shell

    def close(self) -> None:
        """End the process, unless it was let go, and see that it has ended. May be called again."""
        if self._mem_fd >= 0:
            os.close(self._mem_fd)
            self._mem_fd = -1
        if self._is_ours:
            self._is_ours = False
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            others = [thread.tid for thread in self.threads.values() if thread.tid != self.pid]
            for tid in [*others, self.pid]:  # the leader is reaped when all others have been
                with suppress(ChildProcessError):
                    os.waitpid(tid, WALL)

    def call(self, nr: int, *args: int) -> int:
        """A system call of the main thread; its result. Raises CallFailed, ProcessLookupError, TimeoutError."""
        return self.leader.call(nr, *args)

    def calls(self, calls: Sequence[Call]) -> list[int]:
        """Several of them; raises as `call`."""
        return self.leader.calls(calls)

    @property
    def scratch_addr(self) -> int:
        """SCRATCH_BYTES that may be written and read, by calls too."""
        return self.boot_addr + PAGE_BYTES

    @property
    def mem_fd(self) -> int:
        """Its /proc/PID/mem, open to read and write."""
        return self._mem_fd

    def put(self, content: bytes, offset_bytes: int = 0) -> int:
        """Write into the scratch, and where that is; it holds until somebody puts something else there."""
        if offset_bytes + len(content) > SCRATCH_BYTES:
            raise ValueError(f"{len(content)} bytes are more than the scratch holds")
        addr = self.scratch_addr + offset_bytes
        os.pwrite(self._mem_fd, content, addr)
        return addr

    def get(self, addr: int, n_bytes: int) -> bytes:
        """Bytes of its memory; raises OSError."""
        return os.pread(self._mem_fd, n_bytes, addr)

    def write(self, addr: int, content: bytes | memoryview) -> None:
        """Write into its memory, whatever its protection; raises OSError."""
        done = 0
        view = memoryview(content)
        while done < len(view):
            done += os.pwrite(self._mem_fd, view[done:], addr + done)

    def receive(self, fds: Sequence[int]) -> list[int]:
        """Descriptors of ours into it; the numbers that they have there, close-on-exec. Raises OSError."""
        received: list[int] = []
        for start in range(0, len(fds), _FDS_AT_ONCE):
            received += self._receive(fds[start : start + _FDS_AT_ONCE])
        return received

    def fork(self, set_tids: Sequence[int], exit_signal: int) -> Shell:
        """A child of it, which stands still as it does. Raises CallFailed: EEXIST if the pid is taken, EPERM."""
        leader, own_pid = self._clone(0, exit_signal, set_tids)
        return Shell(leader, own_pid, self.boot_addr, self.channel)

    def name_leader(self, tid: int) -> None:
        """The image's id for its main thread."""
        self.threads[tid] = self.leader
        self.own_tids[tid] = self.own_pid

    def add_thread(self, tid: int, set_tids: Sequence[int]) -> RemoteThread:
        """Another thread of it, the image's `tid`; raises as `fork`."""
        thread, own_tid = self._clone(CLONE_THREAD_FLAGS, 0, set_tids)
        self.threads[tid] = thread
        self.own_tids[tid] = own_tid
        return thread

    def leave_boot_pages(self) -> None:
        """Unmap them: the last call that can be made. All its threads are done with theirs."""
        self.call(Sys.MUNMAP, self.boot_addr, BOOT_BYTES)

    def end(self, status: int) -> None:
        """End it with this status of wait(2), but for the mark of a core dump, and wait until it has ended.

        Raises CallFailed, ValueError for a status with which nobody ends.
        """
        number = status & 0x7F
        if not number:
            with suppress(ProcessLookupError):  # that it is gone is what is wanted
                self.call(Sys.EXIT_GROUP, status >> 8 & 0xFF)
            self._is_ours = False
            return
        if number not in DEADLY_SIGNALS:
            raise ValueError(f"nobody ends by signal {number}")
        self.call(Sys.PRCTL, PR_SET_DUMPABLE, 0, 0, 0, 0)  # no core dump of what it is not
        pidfd = os.pidfd_open(self.pid)
        try:
            self.leader.set_mask(0)
            self._is_ours = False
            detach([self.leader], [number])
            if not select.select([pidfd], [], [], _END_S)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                raise TimeoutError(errno.ETIMEDOUT, f"process {self.pid} did not end by signal {number}")
        finally:
            os.close(pidfd)

    def run_init(self, child_own_pid: int) -> None:
        """What it is when it is let go: the first of its pid namespace, which ends when that child of its does."""
        self.call(Sys.CLOSE, self.channel.fd)
        self.call(Sys.CHDIR, self.put(b"/\0"))
        self.call(Sys.PRCTL, PR_SET_NAME, self.put(b"predump-init\0"))
        self.call(Sys.PRCTL, PR_SET_PDEATHSIG, 0)
        program_addr = self.boot_addr + len(_LOOP)
        self.write(program_addr, init_program())
        registers = dict.fromkeys(REGISTER_NAMES, 0)
        registers |= {"rip": program_addr, "r12": child_own_pid, "r13": self.scratch_addr, "orig_rax": NO_CALL}
        registers |= {"cs": USER_CS, "ss": USER_SS, "eflags": INTERRUPTS}
        self.leader.set_registers(registers, b"", b"")

    def disown(self) -> list[RemoteThread]:
        """Its threads, which the caller is about to detach: it is no longer ours."""
        self._is_ours = False
        return list(self.threads.values()) or [self.leader]

    @property
    def _batch(self) -> tuple[int, int]:
        """Where the loop and its table are."""
        return self.boot_addr + _CALL_LOOP_OFFSET, self.scratch_addr + SCRATCH_BYTES

    def _clear(self) -> None:
        """Make the boot pages, and leave nothing but those and the channel."""
        page = self.call(Sys.MMAP, self.boot_addr, PAGE_BYTES, _READ | _EXECUTE, _PRIVATE_ANONYMOUS_HERE, -1, 0)
        self.call(Sys.MMAP, self.scratch_addr, WRITABLE_BYTES, _READ | _WRITE, _PRIVATE_ANONYMOUS_HERE, -1, 0)
        self.write(page, _LOOP.ljust(_CALL_LOOP_OFFSET, b"\0") + call_loop())
        self.leader.syscall_addr = page
        end_addr = self.boot_addr + BOOT_BYTES
        self.calls(
            [
                Call(Sys.MUNMAP, (0, self.boot_addr)),
                Call(Sys.MUNMAP, (end_addr, TASK_END_ADDR - end_addr)),
                Call(Sys.CLOSE_RANGE, (0, self.channel.fd - 1, 0)),
                Call(Sys.CLOSE_RANGE, (self.channel.fd + 1, _LAST_FD, 0)),
            ]
        )
        self.leader.batch = self._batch

    def _clone(self, flags: int, exit_signal: int, set_tids: Sequence[int]) -> tuple[RemoteThread, int]:
        tids_addr = self.put(struct.pack(f"{len(set_tids)}i", *set_tids), 128)
        # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, its size
        args = struct.pack("10Q", flags, 0, 0, 0, exit_signal, 0, 0, 0, tids_addr if set_tids else 0, len(set_tids))
        own_tid, tid = self.leader.clone(self.put(args), len(args))
        thread = RemoteThread(tid, self.boot_addr, self._batch)
        thread.set_mask(ALL_SIGNALS)
        return thread, own_tid

    def _receive(self, fds: Sequence[int]) -> list[int]:
        self.channel.ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        control_bytes = 16 + 4 * len(fds)
        byte_addr = self.scratch_addr + 64
        vector_addr = self.scratch_addr + 80
        control_addr = self.scratch_addr + 128
        # struct msghdr: name, its length, vector, its length, control, its length, flags
        header = struct.pack("QIxxxxQQQQixxxx", 0, 0, vector_addr, 1, control_addr, control_bytes, 0)
        self.put(header)
        self.put(struct.pack("QQ", byte_addr, 1), 80)
        self.call(Sys.RECVMSG, self.channel.fd, self.scratch_addr, socket.MSG_CMSG_CLOEXEC)
        control = self.get(control_addr, control_bytes)
        return list(struct.unpack_from(f"{len(fds)}i", control, 16))
