"""System calls that Python 3.11 lacks, most of them for finding out what this host can do and for tests."""

import errno
import os
from functools import cache

from dumper.kernel.native import checked, lib

PAGE_IS_PRESENT: int = lib.PD_PRESENT
PAGE_IS_GUARD: int = lib.PD_GUARD


def userfaultfd(flags: int) -> int:
    """A userfaultfd of the calling process: userfaultfd(2).

    `flags`: O_CLOEXEC, O_NONBLOCK; USER_MODE_ONLY of dumper.kernel.uffd.

    Raises:
        OSError: ENOSYS if the kernel has none, EINVAL if it does not know a flag, EPERM without the
            privilege.
    """
    return checked(lib.pd_probe_userfaultfd(flags))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy, close-on-exec, of the descriptor `fd` of the process behind `pidfd`: pidfd_getfd(2).

    Raises:
        OSError: ENOSYS if the kernel lacks the call, EPERM if the process may not be traced, EBADF,
            ESRCH.
    """
    return checked(lib.pd_probe_pidfd_getfd(pidfd, fd))


def signal_on_parent_death(number: int) -> None:
    """The calling process gets this signal when the thread that forked it ends: PR_SET_PDEATHSIG(2const)."""
    checked(lib.pd_signal_on_parent_death(number))


def scan_category(pagemap_fd: int, categories: int) -> None:
    """PAGEMAP_SCAN of one page for `categories`, a mask of PAGE_IS_*: ioctl_pagemap_scan(2).

    Raises:
        OSError: ENOTTY if the kernel lacks the ioctl, EINVAL if it does not know a category, ESRCH.
    """
    checked(lib.pd_probe_scan_category(pagemap_fd, categories))


@cache
def knows_category(category: int) -> bool:
    """Whether the kernel's PAGEMAP_SCAN knows a PAGE_IS_*. Raises OSError as `scan_category`, but for EINVAL."""
    pagemap_fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        scan_category(pagemap_fd, category)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        os.close(pagemap_fd)
    return True
