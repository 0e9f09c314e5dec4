"""Who the target is: a pidfd and the start time make sure that it stays the same process."""

import errno
import os
import select
import time
from pathlib import Path

from dumper.errors import PermissionDenied, TargetGone, TargetUntraceable
from dumper.proc import GONE_ERRORS
from dumper.proc.fds import USERFAULTFD, read_fds
from dumper.proc.stat import Stat, read_stat
from dumper.proc.status import read_status
from formats.closing import Closing

OWN_USERFAULTFD_GRACE_NS = 100_000_000
POLL_S = 0.005
PIDFD_THREAD = os.O_EXCL  # pidfd_open(2), since 6.9


def gone(pid: int) -> TargetGone:
    """The error for a process that has ended or never was."""
    return TargetGone(
        f"process {pid} does not exist or has ended",
        hint="Check the pid, for example with ps.",
        pid=pid,
    )


def not_permitted(pid: int, what: str) -> PermissionDenied:
    """The error for a process that the caller may not touch."""
    return PermissionDenied(
        f"not permitted to {what} process {pid}",
        hint="Run predump as the user who owns the process, or as root (CAP_SYS_PTRACE).",
        pid=pid,
    )


def read_live_stat(pid: int) -> Stat:
    """Raises TargetGone if there is no such process."""
    try:
        return read_stat(pid)
    except GONE_ERRORS:
        raise gone(pid) from None


class Target(Closing):
    """One live process. Its descriptors of /proc are bound to its memory: after an exec they read nothing.

    pid: the process; tid: a live thread of it (the leader may have ended before the others);
    pidfd, pagemap_fd, mem_fd: open descriptors; files_pidfd: a pidfd through which its files are reached;
    start_time_ticks: clock ticks since boot.
    """

    def __init__(self, pid: int) -> None:
        """Raises TargetGone, PermissionDenied, TargetUntraceable; nothing of the target is touched."""
        self.pid = pid
        stat = read_live_stat(pid)
        if stat.is_kernel_thread:
            raise TargetUntraceable(
                f"process {pid} ({stat.name}) is a kernel thread and has no memory of its own",
                hint="Choose a process of user space.",
                pid=pid,
            )
        self.start_time_ticks = stat.start_time_ticks
        self._fds: list[int] = []
        try:
            self.pidfd = self._keep(os.pidfd_open(pid))
            self.tid = self._live_thread()
            self.files_pidfd = self.pidfd if self.tid == self.pid else self._keep(self._thread_pidfd())
            self._refuse_if_unfit()
            self.pagemap_fd = self._keep(os.open(f"/proc/{self.tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC))
            self.mem_fd = self._keep(os.open(f"/proc/{self.tid}/mem", os.O_RDONLY | os.O_CLOEXEC))
            if read_live_stat(pid).start_time_ticks != self.start_time_ticks:
                raise gone(pid)  # the pid was given to another process while we looked
        except PermissionError:
            self.close()
            raise not_permitted(pid, "read the memory of") from None
        except GONE_ERRORS:
            self.close()
            raise gone(pid) from None
        except BaseException:
            self.close()
            raise

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _live_thread(self) -> int:
        """The leader unless it has ended; a dead leader gives no access to the memory. Raises TargetGone."""
        if not read_stat(self.pid).has_ended:
            return self.pid
        for tid in sorted(int(entry.name) for entry in Path(f"/proc/{self.pid}/task").iterdir()):
            if not read_stat(self.pid, tid).has_ended:
                return tid
        raise TargetGone(
            f"process {self.pid} has ended and only waits for its parent to notice (a zombie)",
            hint="There is nothing left to capture.",
            pid=self.pid,
        )

    def _thread_pidfd(self) -> int:
        """Of the live thread: the files of a dead leader are gone. Raises TargetUntraceable."""
        try:
            return os.pidfd_open(self.tid, PIDFD_THREAD)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise TargetUntraceable(
                f"the main thread of process {self.pid} has ended, and this kernel gives no access to the others",
                hint="Use Linux 6.9 or newer for this process.",
                pid=self.pid,
            ) from None

    def _refuse_if_unfit(self) -> None:
        status = read_status(self.tid)
        if status.tracer_pid and status.tracer_pid != os.getpid():
            raise TargetUntraceable(
                f"process {self.pid} is already traced by process {status.tracer_pid}",
                hint="Detach that debugger or tracer first; a process can have only one.",
                pid=self.pid,
                tracer_pid=status.tracer_pid,
            )
        self.status = status
        exe_magic = b""
        try:
            with Path(f"/proc/{self.tid}/exe").open("rb") as exe:
                exe_magic = exe.read(5)
        except FileNotFoundError:
            pass  # the executable's file system is gone; what runs is known from cs at the stop
        if exe_magic[:4] == b"\x7fELF" and exe_magic[4:] != b"\x02":
            raise TargetUntraceable(
                f"process {self.pid} is a 32-bit program, which predump does not support",
                hint="Capture 64-bit processes only.",
                pid=self.pid,
            )

    def refuse_own_userfaultfd(self) -> None:
        """Raises TargetUntraceable if the process holds a userfaultfd itself: its pages have two masters then."""
        # One that an injection of ours left, killed half-way, is closed by the target itself as soon as it runs.
        deadline_ns = time.monotonic_ns() + OWN_USERFAULTFD_GRACE_NS
        while (uses := USERFAULTFD in read_fds(self.tid).values()) and time.monotonic_ns() < deadline_ns:
            time.sleep(POLL_S)
        if uses:
            raise TargetUntraceable(
                f"process {self.pid} uses userfaultfd itself, so its writes cannot be tracked",
                hint="Use 'predump dump --no-pre-dump', which needs no tracking.",
                pid=self.pid,
            )

    def thread_count(self) -> int:
        """How many threads it has now. Raises TargetGone."""
        try:
            return sum(1 for _ in Path(f"/proc/{self.pid}/task").iterdir())
        except FileNotFoundError:
            raise gone(self.pid) from None

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended: its pidfd is readable then."""
        return self.ends_within(0)

    def ends_within(self, seconds: float) -> bool:
        """Waits so long for the end; whether it has ended."""
        waiting = select.poll()  # select(2) knows no descriptors above 1023
        waiting.register(self.pidfd, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))

    def close(self) -> None:
        """Closes the descriptors; the target does not notice."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
