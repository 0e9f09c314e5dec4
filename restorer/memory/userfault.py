"""A userfaultfd of a process that is being made, in our hands."""

from __future__ import annotations

import errno
import os

from dumper.kernel import uffd as kernel
from dumper.kernel.missing import ALL_EVENTS, watch
from dumper.kernel.probes import pidfd_getfd
from dumper.kernel.remote import CallFailed, Sys
from dumper.kernel.uffd import Feature
from formats import runs
from formats.manifest import Process, Vma
from restorer.errors import RestoreFailed
from restorer.memory.lazy.server import Lazy
from restorer.shell import Shell

_EAGER_FLAGS = frozenset({"lo", "wf", "dp", "ht"})
"""VmFlags of memory that is filled before it is used: locked, wiped on fork, dropped at will, of huge pages."""


def make_userfaultfd(shell: Shell, features: Feature) -> int:
    """One that also tells faults of the kernel's. Raises RestoreFailed where the caller may not, OSError."""
    try:
        return create_userfaultfd(shell, 0, features)
    except CallFailed as error:
        if error.errno != errno.EPERM:
            raise
        raise RestoreFailed(
            "A process may not have its pages brought while it runs: userfaultfd(2) is refused.",
            hint="Restore it without --lazy, or as root.",
            errno=errno.EPERM,
        ) from error


def create_userfaultfd(shell: Shell, flags: int, features: Feature) -> int:
    """It is close-on-exec, does not block, and the process does not have it any more. Raises CallFailed, OSError."""
    there = shell.call(Sys.USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK | flags)
    pidfd = os.pidfd_open(shell.pid)
    try:
        ours = pidfd_getfd(pidfd, there)
    finally:
        os.close(pidfd)
    shell.call(Sys.CLOSE, there)
    try:
        kernel.enable(ours, features)
    except OSError:
        os.close(ours)
        raise
    return ours


def make_lazy(shell: Shell, process: Process) -> Lazy:
    """A userfaultfd of all memory that can be brought later, and the ranges of that. Raises RestoreFailed, OSError."""
    ours = make_userfaultfd(shell, Feature(ALL_EVENTS))
    ranges = [(vma.start_addr, vma.end_addr) for vma in process.vmas if can_wait(vma)]
    try:
        for start_addr, end_addr in runs.merge(ranges):
            watch(ours, start_addr, end_addr)
    except BaseException:
        os.close(ours)
        raise
    return Lazy(process.pid, shell.pid, ours, ranges)


def can_wait(vma: Vma) -> bool:
    """Whether faults on its pages can be told: private memory without a file."""
    is_private = vma.kind in ("anon", "heap", "stack") and not vma.is_shared and not vma.has_file
    return is_private and vma.flags != "" and not _EAGER_FLAGS & set(vma.flags.split())
