"""Stopping threads and injecting a system call: ptrace(2). All calls of one target come from one OS thread."""

from dataclasses import dataclass
from typing import Any

from dumper.kernel.native import checked, ffi, lib, new_array
from formats.faults import Point, native_step

O_TRACESYSGOOD = 1
O_SUSPEND_SECCOMP = 1 << 21  # PTRACE_O_SUSPEND_SECCOMP, needs CAP_SYS_ADMIN

MAX_CHILDREN = 1 << 16
INJECT_STEPS = {
    Point.INJECT_FRAMES: lib.PD_INJECT_STEP_FRAMES,
    Point.INJECT_SET: lib.PD_INJECT_STEP_SET,
    Point.INJECT_ENTERED: lib.PD_INJECT_STEP_ENTERED,
    Point.INJECT_RETURNED: lib.PD_INJECT_STEP_RETURNED,
    Point.INJECT_TAKEN: lib.PD_INJECT_STEP_TAKEN,
    Point.INJECT_CLOSED: lib.PD_INJECT_STEP_CLOSED,
}

# user_regs_struct of x86_64, in order: sys/user.h
REGISTER_NAMES = [
    "r15",
    "r14",
    "r13",
    "r12",
    "rbp",
    "rbx",
    "r11",
    "r10",
    "r9",
    "r8",
    "rax",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "orig_rax",
    "rip",
    "cs",
    "eflags",
    "rsp",
    "ss",
    "fs_base",
    "gs_base",
    "ds",
    "es",
    "fs",
    "gs",
]


class StopError(OSError):
    """A thread could not be stopped; `tid` is the one it is about."""

    def __init__(self, error: int, tid: int) -> None:
        super().__init__(error, f"thread {tid}")
        self.tid = tid


class ThreadSet:
    """The threads of one process, stopped together and resumed together."""

    def __init__(self, pid: int, capacity: int = 4096) -> None:
        self._pid = pid
        self._threads = new_array("struct pd_thread", capacity)
        self._list = ffi.new("struct pd_thread_list *", {"threads": self._threads, "capacity": capacity})
        self.seccomp_suspended = False
        """Whether the threads were stopped with O_SUSPEND_SECCOMP."""

    @property
    def native_list(self) -> Any:
        """The struct pd_thread_list, for other parts of this package."""
        return self._list

    def stop(self, timeout_ns: int, options: int = 0) -> None:
        """Seizes and stops every thread, until no new one turns up.

        Raises:
            StopError: ETIMEDOUT (a thread did not stop, or new ones are born too fast), EPERM (not allowed, or
                traced by another), ESRCH (the process is gone), ENOSPC (more threads than there is room for).
                Threads stopped until then stay so: call `resume`.
        """
        self.seccomp_suspended = bool(options & O_SUSPEND_SECCOMP)
        result = lib.pd_stop_threads(self._pid, options | O_TRACESYSGOOD, timeout_ns, self._list)
        if result < 0:
            raise StopError(-result, int(self._list.failed_tid))

    def stop_running(self, timeout_ns: int) -> None:
        """Stops the threads that run just now, beside those that it has stopped before.

        Raises StopError as `stop`, but for ESRCH only if the process is gone.
        """
        result = lib.pd_stop_running(self._pid, timeout_ns, self._list)
        if result < 0:
            raise StopError(-result, int(self._list.failed_tid))

    def resume(self) -> bool:
        """Detaches from every stopped thread; without effect when there is none.

        False if some did not stop even now, in uninterruptible sleep: they would, some time later. Call it again then.
        """
        lib.pd_resume_threads(self._list)
        return all(thread.flags for thread in self._threads[0 : self._list.n_threads])

    def send_stop(self) -> None:
        """SIGSTOP to each of them: resumed, they stand still before they run an instruction or a signal handler."""
        lib.pd_send_stop(self._pid, self._list)

    @property
    def in_stop(self) -> bool:
        """Whether the process had been stopped by a signal; it stops again when the threads are resumed."""
        threads = self._threads[0 : self._list.n_threads]
        return any(thread.flags & lib.PD_THREAD_IN_STOP for thread in threads)

    def take_stop_back(self) -> None:
        """Undoes `send_stop` before they were resumed; nobody notices."""
        lib.pd_take_stop_back(self._list)

    def stopped_tids(self) -> list[int]:
        """Threads that stand still, in the order they were found."""
        threads = self._threads[0 : self._list.n_threads]
        return [int(t.tid) for t in threads if t.flags & lib.PD_THREAD_STOPPED]


def children(pid: int) -> list[int]:
    """Children of all threads of a process, sure to be all of them only while it stands still: proc_pid_task(5).

    Raises OSError: ESRCH if it is gone, ENOSPC if it has more than MAX_CHILDREN.
    """
    found = new_array("int32_t", MAX_CHILDREN)
    return list(found[0 : checked(lib.pd_children(pid, found, MAX_CHILDREN))])


def frame_mark() -> bytes:
    """What stands in every signal frame that an injection leaves behind when it is cut short."""
    return bytes(ffi.string(lib.pd_frame_mark()))


@dataclass(frozen=True, slots=True)
class InjectionSite:
    """Where in a target a call can be injected; see struct pd_site."""

    syscall_ret_addr: int
    restorer_addr: int
    stack_start_addr: int
    stack_end_addr: int
    scratch_start_addr: int = 0
    scratch_end_addr: int = 0
    pop_rax_addr: int = 0
    pop_rdi_addr: int = 0
    pop_rsi_addr: int = 0
    pop_rdx_addr: int = 0
    store_rax_addr: int = 0


def native_site(site: InjectionSite) -> Any:
    """The struct pd_site of a site."""
    return ffi.new(
        "struct pd_site *",
        (
            site.syscall_ret_addr,
            site.restorer_addr,
            site.stack_start_addr,
            site.stack_end_addr,
            site.pop_rax_addr,
            site.pop_rdi_addr,
            site.pop_rsi_addr,
            site.pop_rdx_addr,
            site.store_rax_addr,
            site.scratch_start_addr,
            site.scratch_end_addr,
        ),
    )


def inject_userfaultfd(
    tid: int,
    pidfd: int,
    mem_fd: int,
    site: InjectionSite,
    flags: int,
    expected_fd: int,
    timeout_ns: int,
) -> int:
    """userfaultfd(flags) in the stopped thread `tid`; returns the descriptor here, closed again in the target.

    Raises:
        OSError: EPERM and others as in userfaultfd(2) of the target; ETIMEDOUT if the thread does not run; ENOEXEC if
            it is no 64-bit x86 code or the site changed; ENOSPC if its stack has no room; ESRCH if it is gone.
    """
    return checked(
        lib.pd_inject_userfaultfd(
            tid, pidfd, mem_fd, native_site(site), flags, expected_fd, timeout_ns, *native_step(INJECT_STEPS)
        )
    )
