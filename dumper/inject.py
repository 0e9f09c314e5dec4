"""Gets a userfaultfd of the target: one short stop, one injected system call, nothing left behind.

A userfaultfd belongs to the memory of the process that creates it, so the target itself must make the call.
"""

import errno
import os
from dataclasses import dataclass, replace

from dumper.errors import KernelFeatureMissing, PermissionDenied, TargetUntraceable
from dumper.events import Emit
from dumper.freeze import Freeze
from dumper.kernel import uffd
from dumper.kernel.ptrace import (
    O_SUSPEND_SECCOMP,
    O_TRACESYSGOOD,
    InjectionSite,
    inject_userfaultfd,
)
from dumper.outlive import in_child, in_thread
from dumper.proc.cgroup import frozen_cgroup
from dumper.proc.fds import lowest_free, read_fd_numbers
from dumper.proc.maps import Mapping
from dumper.site import find_site
from dumper.target import Target, gone, not_permitted
from formats.faults import Point, reached

CALL_TIMEOUT_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Injection:
    """A userfaultfd of the target, and for how long and with how many threads it was stopped for it."""

    uffd: int
    stop_ns: int
    threads: int


def _refuse_if_frozen_by_cgroup(target: Target) -> None:
    """A thread in a frozen cgroup stops, but never runs an injected call: cgroups(7), cgroup.freeze."""
    if path := frozen_cgroup(target.pid):
        raise TargetUntraceable(
            f"process {target.pid} is frozen by its cgroup {path}",
            hint="Thaw the cgroup, or use 'predump dump --no-pre-dump'.",
            pid=target.pid,
        )


def _explain(target: Target, error: OSError) -> Exception:
    if error.errno in (errno.ESRCH, errno.ENOENT):  # ENOENT: of its files in /proc
        return gone(target.pid)
    if error.errno == errno.ENOSYS:
        return KernelFeatureMissing(
            "this kernel has no userfaultfd",
            hint="Use a kernel built with CONFIG_USERFAULTFD; 'predump check' tells more.",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return PermissionDenied(
            f"process {target.pid} may not create a userfaultfd: {error.strerror}",
            hint="Run predump as root, or see 'predump check' for vm.unprivileged_userfaultfd.",
            pid=target.pid,
        )
    if error.errno == errno.ENOSPC:
        return TargetUntraceable(
            f"process {target.pid} has no room for a signal frame on its main stack",
            hint="Use 'predump dump --no-pre-dump', which needs no injection.",
            pid=target.pid,
        )
    return TargetUntraceable(
        f"the system call injected into process {target.pid} did not run: {error.strerror}",
        hint="The target goes on untouched; try again, or use 'predump dump --no-pre-dump'.",
        pid=target.pid,
    )


def _inject(target: Target, site: InjectionSite) -> Injection:
    """Stops the target, makes the call, lets it go on. Raises OSError, and the errors of Freeze."""
    options = O_TRACESYSGOOD | (O_SUSPEND_SECCOMP if target.status.seccomp_mode else 0)
    freeze = Freeze(target, options=options)
    with freeze:
        tids = freeze.tids
        tid = target.pid if target.pid in tids else tids[0]
        expected_fd = lowest_free(read_fd_numbers(target.tid))

        def call(flags: int) -> int:
            return inject_userfaultfd(tid, target.files_pidfd, target.mem_fd, site, flags, expected_fd, CALL_TIMEOUT_NS)

        try:
            fd = call(os.O_CLOEXEC | os.O_NONBLOCK)
        except PermissionError:
            fd = call(os.O_CLOEXEC | os.O_NONBLOCK | uffd.USER_MODE_ONLY)
        reached(Point.ATTACH_TAKEN)
    return Injection(uffd=fd, stop_ns=freeze.frozen_ns, threads=len(tids))


def _inject_from_child(target: Target, site: InjectionSite) -> Injection:
    """The same from a process of its own, which goes on if this one is killed. Raises as `_inject`."""

    def inject(_: Emit) -> tuple[Injection, list[int]]:
        injection = _inject(target, site)
        return injection, [injection.uffd]

    injection, (fd,) = in_child(inject, lambda _: None)
    return replace(injection, uffd=fd)


def take_userfaultfd(target: Target, mappings: list[Mapping]) -> Injection:
    """Stops the target once, for the time of one injected call, and returns its userfaultfd, ready for tracking.

    The call is made in the first live thread. Where a plain userfaultfd is refused (unprivileged target), one with
    UFFD_USER_MODE_ONLY is made: with WP_ASYNC the kernel's own writes are tracked all the same.

    Raises: TargetGone, PermissionDenied, TargetUntraceable, KernelFeatureMissing; the target goes on in each case.
    """
    target.refuse_own_userfaultfd()
    _refuse_if_frozen_by_cgroup(target)
    if target.status.shadow_stack:
        raise TargetUntraceable(
            f"process {target.pid} runs with a shadow stack, into which no call can be injected",
            hint="Use 'predump dump --no-pre-dump'.",
            pid=target.pid,
        )
    site = find_site(target, mappings)
    reached(Point.ATTACH_FOUND)
    try:
        if target.status.seccomp_mode:
            injection = _inject_from_child(target, site)
        else:
            injection = in_thread(lambda: _inject(target, site))
    except PermissionDenied:
        if target.status.seccomp_mode and os.geteuid() != 0:
            raise not_permitted(target.pid, "suspend the seccomp filter of") from None
        raise
    except OSError as error:
        raise _explain(target, error) from None
    reached(Point.ATTACH_RESUMED)
    try:
        uffd.enable(injection.uffd)
    except OSError:
        os.close(injection.uffd)
        raise KernelFeatureMissing(
            "this kernel cannot track writes asynchronously (UFFD_FEATURE_WP_ASYNC)",
            hint="Use Linux 6.7 or newer; 'predump check' tells what is missing.",
        ) from None
    reached(Point.ATTACH_ENABLED)
    return injection
