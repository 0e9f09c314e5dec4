"""userfaultfd(2) in write-protect mode, asynchronous: ioctl_userfaultfd(2), Linux >= 6.7."""

import os
from enum import IntFlag
from functools import cache

from dumper.kernel import probes
from dumper.kernel.native import checked, ffi, lib
from dumper.kernel.pages import SpanTable

USER_MODE_ONLY = 1  # UFFD_USER_MODE_ONLY, since 5.11: needs no privilege


class Feature(IntFlag):
    """UFFD_FEATURE_*, include/uapi/linux/userfaultfd.h."""

    PAGEFAULT_FLAG_WP = 1 << 0
    WP_HUGETLBFS_SHMEM = 1 << 12
    WP_UNPOPULATED = 1 << 13
    WP_ASYNC = 1 << 15


# No event feature is ever asked for: with one, the target would wait for us in fork and mremap.
TRACKING_FEATURES = Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM | Feature.WP_UNPOPULATED | Feature.WP_ASYNC


def create() -> int:
    """A userfaultfd of the calling process, close-on-exec, with UFFD_USER_MODE_ONLY where a plain one is refused.

    With WP_ASYNC the kernel's own writes are tracked all the same. Raises OSError as `probes.userfaultfd`.
    """
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return probes.userfaultfd(flags)
    except PermissionError:
        return probes.userfaultfd(flags | USER_MODE_ONLY)


def enable(uffd: int, features: Feature = TRACKING_FEATURES) -> None:
    """UFFDIO_API. Raises OSError: EINVAL if the kernel lacks a feature or the descriptor is in use already."""
    checked(lib.pd_uffd_enable(uffd, int(features)))


def register(uffd: int, pagemap_fd: int, spans: SpanTable) -> list[int]:
    """Registers each span, a mapping, for write-protection; the result of each is 0 or an errno.

    Registering again what is registered changes nothing, so it is done every round for all VMAs. In one that was not,
    or not any more, all pages count as written. `pagemap_fd` is an open /proc/PID/pagemap of the same process.
    """
    results = ffi.new("int32_t[]", max(1, spans.count))
    lib.pd_uffd_register(uffd, pagemap_fd, spans.c, spans.count, results)
    return [-int(result) for result in results[0 : spans.count]]


def unregister(uffd: int, spans: SpanTable) -> int:
    """Lifts write-protection and unregisters each span; returns how many were registered."""
    return int(lib.pd_uffd_unregister(uffd, spans.c, spans.count))


@cache
def reports_zapped_huge_pages() -> bool:
    """Whether MADV_DONTNEED of a write-protected huge page is reported as written; False also where it cannot be tried.

    Kernels before commit 40de8160ca7f lose it. Raises OSError as `userfaultfd`.
    """
    pagemap_fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fd = probes.userfaultfd(os.O_CLOEXEC | USER_MODE_ONLY)
        try:
            enable(fd)
            return checked(lib.pd_probe_zapped_huge_page(fd, pagemap_fd)) == 1
        except BlockingIOError:  # no huge page was to be had
            return False
        finally:
            os.close(fd)
    finally:
        os.close(pagemap_fd)
