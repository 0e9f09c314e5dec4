"""A live process in the hands of a rewind: it makes calls, and is never left running half changed.

Until `let_go` a SIGSTOP waits for each of its threads: if we die, or give up, they stop before they run another
instruction of theirs (dumper.kernel.guard). The scratch is mapped where nothing was or is to be.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from dumper.kernel.guard import GuardedThread
from dumper.kernel.remote import Call, Sys, detach
from formats.closing import Closing
from formats.faults import Point, reached
from formats.threadstate import Thread
from restorer.rewind.present import Present
from restorer.shell import SCRATCH_BYTES
from restorer.threads import own_tid

_PROT_READ_WRITE = 3
_PRIVATE_ANONYMOUS_HERE = 0x02 | 0x20 | 0x100000  # MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE


class GuardedProcess(Closing):
    """A context manager, made of a process that stands still: it stops if it was not let go. For one OS thread."""

    def __init__(self, present: Present, scratch_addr: int) -> None:
        """Raises OSError: EACCES."""
        target, threads = present.target, present.threads
        syscall_addr, ns_pids = present.syscall_addr, present.state.lineage.ns_pids
        assert syscall_addr is not None
        self.target = target
        self.scratch_addr = scratch_addr
        self._stopped = present.stopped
        self._mem_fd = os.open(f"/proc/{target.tid}/mem", os.O_RDWR | os.O_CLOEXEC)
        ns_pid = ns_pids[-1] if ns_pids else target.pid
        self.threads = {
            one.tid: GuardedThread(target.pid, one.tid, ns_pid, own_tid(one), syscall_addr) for one in threads
        }
        self._caller = self.threads.get(target.pid) or self.threads[threads[0].tid]
        self._is_guarded = False

    def guard(self) -> None:
        """From now on it may be changed. Raises OSError."""
        self._is_guarded = True
        self._stopped.threads.send_stop()
        reached(Point.REWIND_GUARDED)
        self.call(Sys.MMAP, self.scratch_addr, SCRATCH_BYTES, _PROT_READ_WRITE, _PRIVATE_ANONYMOUS_HERE, -1, 0)

    def call(self, nr: int, *args: int) -> int:
        """A system call of the main thread; its result. Raises CallFailed, ProcessLookupError, TimeoutError."""
        return self._caller.call(nr, *args)

    def calls(self, calls: Sequence[Call]) -> list[int]:
        """Several of them; raises as `call`."""
        return self._caller.calls(calls)

    def put(self, content: bytes, offset_bytes: int = 0) -> int:
        """Write into the scratch, and where that is; it holds until somebody puts something else there."""
        if offset_bytes + len(content) > SCRATCH_BYTES:
            raise ValueError(f"{len(content)} bytes are more than the scratch holds")
        self.write(self.scratch_addr + offset_bytes, content)
        return self.scratch_addr + offset_bytes

    def write(self, addr: int, content: bytes | memoryview) -> None:
        """Write into its memory, whatever its protection; raises OSError."""
        view = memoryview(content)
        done = 0
        while done < len(view):
            done += os.pwrite(self._mem_fd, view[done:], addr + done)

    def set_threads(self, threads: Sequence[tuple[Thread, dict[str, int]]]) -> None:
        """Each thread with its registers and signal mask: none of them makes a call after that. Raises OSError."""
        for thread in self.threads.values():
            thread.make_ready()
        for one, registers in threads:
            thread = self.threads[one.tid]
            thread.set_registers(registers, one.xstate, one.fpregs)
            thread.set_mask(one.signal_mask)
            reached(Point.REWIND_SET)

    def let_go(self, *, stopped: bool) -> None:
        """It goes on, or stops; a thread that is not ready stops. Raises ProcessLookupError if it was killed."""
        self._is_guarded = False
        threads = list(self.threads.values())
        signals = [signal.SIGSTOP if stopped and thread.is_ready else 0 for thread in threads]
        if not detach(threads, signals):
            raise ProcessLookupError(errno.ESRCH, "the process was killed")

    def close(self) -> None:
        """Have it stop, unless it was let go. May be called again."""
        if self._mem_fd >= 0:
            os.close(self._mem_fd)
            self._mem_fd = -1
        if self._is_guarded:
            with suppress(ProcessLookupError):
                self.let_go(stopped=True)
