"""Gets a userfaultfd of the target: one short stop, one injected system call, nothing left behind.

A userfaultfd belongs to the memory of the process that creates it, so the target itself must make the call.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dumper.errors import KernelFeatureMissing, PermissionDenied, TargetUntraceable
from dumper.freeze import Freeze
from dumper.kernel import uffd
from dumper.kernel.ptrace import (
    O_SUSPEND_SECCOMP,
    O_TRACESYSGOOD,
    InjectionSite,
    inject_userfaultfd,
)
from dumper.proc.fds import lowest_free, read_fd_numbers
from dumper.proc.maps import Mapping
from dumper.target import Target, gone, not_permitted

SYSCALL_RET = b"\x0f\x05\xc3"
RESTORER = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"  # mov $15, %rax; syscall: what sigaction(2) callers register
SEARCH_PIECE_BYTES = 4 << 20
CALL_TIMEOUT_NS = 200_000_000
PAGE_BYTES = 4096
SCRATCH_PAGES = 4  # two signal frames and the largest XSAVE area


@dataclass(frozen=True, slots=True)
class Injection:
    """A userfaultfd of the target, and for how long and with how many threads it was stopped for it."""

    uffd: int
    stop_ns: int
    threads: int


def _pieces(target: Target, mapping: Mapping) -> Iterator[tuple[int, bytes]]:
    overlap = max(len(SYSCALL_RET), len(RESTORER)) - 1
    for addr in range(mapping.start_addr, mapping.end_addr, SEARCH_PIECE_BYTES):
        length = min(SEARCH_PIECE_BYTES + overlap, mapping.end_addr - addr)
        with contextlib.suppress(OSError):
            yield addr, os.pread(target.mem_fd, length, addr)


def _scratch_end(target: Target, stack: Mapping) -> int:
    """End of pages at the low end of [stack] that were never touched, or 0: for threads that run on other stacks."""
    words = os.pread(target.pagemap_fd, 8 * SCRATCH_PAGES, stack.start_addr // PAGE_BYTES * 8)
    present_or_swapped = 0xC0
    untouched = len(words) == 8 * SCRATCH_PAGES and not any(w & present_or_swapped for w in words[7::8])
    return stack.start_addr + SCRATCH_PAGES * PAGE_BYTES if untouched else 0


def find_site(target: Target, mappings: list[Mapping]) -> InjectionSite:
    """Finds the instructions and the stack an injection needs; the target runs meanwhile.

    Raises TargetUntraceable if there are none.
    """
    stack = next((m for m in mappings if m.path == "[stack]"), None)
    found: dict[bytes, int] = {}
    # Code of files that cannot be written: it stays as it is between this search and the stop.
    code = [m for m in mappings if m.is_executable and m.has_file and m.perms[1] != "w"]
    for mapping in sorted(code, key=lambda m: "libc" not in m.path):
        for addr, text in _pieces(target, mapping):
            for pattern in (SYSCALL_RET, RESTORER):
                at = -1 if pattern in found else text.find(pattern)
                if at >= 0:
                    found[pattern] = addr + at
        if len(found) == 2 and stack:
            return InjectionSite(
                syscall_ret_addr=found[SYSCALL_RET],
                restorer_addr=found[RESTORER],
                stack_start_addr=stack.start_addr,
                stack_end_addr=stack.end_addr,
                scratch_end_addr=_scratch_end(target, stack),
            )
    raise TargetUntraceable(
        f"process {target.pid} offers no safe place to inject a system call (no stack, or no code that returns "
        "from a signal)",
        hint="Use 'predump dump --no-pre-dump', which needs no injection.",
        pid=target.pid,
    )


def _refuse_if_frozen_by_cgroup(target: Target) -> None:
    """A thread in a frozen cgroup stops, but never runs an injected call: cgroups(7), cgroup.freeze."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{target.pid}/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                    events = Path(root + line[3:]) / "cgroup.events"
                    if events.is_file() and "frozen 1" in events.read_text().splitlines():
                        raise TargetUntraceable(
                            f"process {target.pid} is frozen by its cgroup {line[3:]}",
                            hint="Thaw the cgroup, or use 'predump dump --no-pre-dump'.",
                            pid=target.pid,
                        )


def _explain(target: Target, error: OSError) -> Exception:
    if error.errno == errno.ESRCH:
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
    return TargetUntraceable(
        f"the system call injected into process {target.pid} did not run: {error.strerror}",
        hint="The target goes on untouched; try again, or use 'predump dump --no-pre-dump'.",
        pid=target.pid,
    )


def take_userfaultfd(target: Target, mappings: list[Mapping], *, die_at: int = 0) -> Injection:
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
    options = O_TRACESYSGOOD | (O_SUSPEND_SECCOMP if target.status.seccomp_mode else 0)
    freeze = Freeze(target, options=options)
    try:
        with freeze:
            tids = freeze.tids
            tid = target.pid if target.pid in tids else tids[0]
            expected_fd = lowest_free(read_fd_numbers(target.pid))
            flags = os.O_CLOEXEC | os.O_NONBLOCK

            def inject(flags: int) -> int:
                return inject_userfaultfd(
                    tid,
                    target.pidfd,
                    target.mem_fd,
                    site,
                    flags,
                    expected_fd,
                    CALL_TIMEOUT_NS,
                    die_at,
                )

            try:
                fd = inject(flags)
            except PermissionError:
                fd = inject(flags | uffd.USER_MODE_ONLY)
    except PermissionDenied:
        if target.status.seccomp_mode and os.geteuid() != 0:
            raise not_permitted(target.pid, "suspend the seccomp filter of") from None
        raise
    except OSError as error:
        raise _explain(target, error) from None
    try:
        uffd.enable(fd)
    except OSError:
        os.close(fd)
        raise KernelFeatureMissing(
            "this kernel cannot track writes asynchronously (UFFD_FEATURE_WP_ASYNC)",
            hint="Use Linux 6.7 or newer; 'predump check' tells what is missing.",
        ) from None
    return Injection(uffd=fd, stop_ns=freeze.frozen_ns, threads=len(tids))
