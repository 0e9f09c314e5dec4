"""System calls that Python 3.11 lacks, for finding out what this host can do and for tests."""

from dumper.kernel.native import checked, lib
from dumper.kernel.uffd import USER_MODE_ONLY

PAGE_IS_PRESENT: int = lib.PD_PRESENT
PAGE_IS_GUARD: int = lib.PD_GUARD

__all__ = [
    "PAGE_IS_GUARD",
    "PAGE_IS_PRESENT",
    "USER_MODE_ONLY",
    "pidfd_getfd",
    "scan_category",
    "userfaultfd",
]


def userfaultfd(flags: int) -> int:
    """A userfaultfd of the calling process: userfaultfd(2).

    `flags`: O_CLOEXEC, O_NONBLOCK, USER_MODE_ONLY.

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


def scan_category(pagemap_fd: int, categories: int) -> None:
    """PAGEMAP_SCAN of one page for `categories`, a mask of PAGE_IS_*: ioctl_pagemap_scan(2).

    Raises:
        OSError: ENOTTY if the kernel lacks the ioctl, EINVAL if it does not know a category, ESRCH.
    """
    checked(lib.pd_probe_scan_category(pagemap_fd, categories))
