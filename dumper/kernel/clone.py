"""A copy-on-write child of a stopped target, and its burial in it: `csrc/clone.c` says how both survive our death."""

import errno
from dataclasses import dataclass
from typing import Any

from dumper.kernel.native import checked, ffi, lib
from dumper.kernel.ptrace import O_SUSPEND_SECCOMP, O_TRACESYSGOOD, InjectionSite, native_site
from formats.faults import Point, native_step

CALL_TIMEOUT_NS = 200_000_000
PATIENCE_NS = 60_000_000_000  # nothing stops a fork half-way
END_TIMEOUT_NS = 60_000_000_000  # to take down the page tables of something large
NOBODY = -1
CLONE_STEPS = {
    Point.CLONE_FRAMES: lib.PD_INJECT_STEP_FRAMES,
    Point.CLONE_SET: lib.PD_INJECT_STEP_SET,
    Point.CLONE_ENTERED: lib.PD_INJECT_STEP_ENTERED,
    Point.CLONE_RETURNED: lib.PD_INJECT_STEP_RETURNED,
    Point.CLONE_HELD: lib.PD_INJECT_STEP_TAKEN,
    Point.CLONE_ANNOUNCED: lib.PD_INJECT_STEP_CLOSED,
}
WAIT_STEPS = {
    Point.REAP_FRAMES: lib.PD_INJECT_STEP_FRAMES,
    Point.REAP_SET: lib.PD_INJECT_STEP_SET,
    Point.REAP_ENTERED: lib.PD_INJECT_STEP_ENTERED,
    Point.REAP_RETURNED: lib.PD_INJECT_STEP_RETURNED,
}


@dataclass(frozen=True, slots=True)
class Caller:
    """The stopped thread of a process in which a call is made."""

    pid: int
    tid: int
    mem_fd: int
    site: InjectionSite
    seccomp_suspended: bool


@dataclass(frozen=True, slots=True)
class Clone:
    """The child, also as the target calls it; `touched` are ranges of its memory that are not those of the target."""

    tid: int
    ns_pid: int
    touched: list[tuple[int, int]]


def _request(caller: Caller, announce_fd: int, steps: dict[Point, int]) -> tuple[Any, Any]:
    site = native_site(caller.site)
    die_at, victim = native_step(steps)
    request = {
        "pid": caller.pid,
        "tid": caller.tid,
        "mem_fd": caller.mem_fd,
        "announce_fd": announce_fd,
        "options": O_TRACESYSGOOD | (O_SUSPEND_SECCOMP if caller.seccomp_suspended else 0),
        "die_at": die_at,
        "victim": victim,
        "site": site,
        "timeout_ns": CALL_TIMEOUT_NS,
        "patience_ns": PATIENCE_NS,
    }
    return ffi.new("struct pd_clone_request *", request), site  # the request does not keep it alive


def inject_clone(caller: Caller, announce_fd: int) -> Clone:
    """clone(2) of the process: the child stands still, traced by the calling thread, and dies with it.

    As soon as there is one, "PID CHILD NS_CHILD" is written to `announce_fd`.

    Raises:
        OSError: EAGAIN, ENOMEM as in clone(2), ETIMEDOUT, ENOEXEC, ENOSPC as in `inject_userfaultfd`; ESRCH.
    """
    clone = ffi.new("struct pd_clone *")
    request, _site = _request(caller, announce_fd, CLONE_STEPS)
    try:
        checked(lib.pd_inject_clone(request, clone))
    except OSError:
        if clone.tid:
            end_child(int(clone.tid))
        raise
    touched = [(clone.frames_start_addr, clone.frames_end_addr), (clone.rseq_start_addr, clone.rseq_end_addr)]
    return Clone(int(clone.tid), int(clone.ns_pid), [(int(start), int(end)) for start, end in touched if start < end])


def inject_wait(caller: Caller, ns_pid: int) -> bool:
    """Reaps a child that has ended, in the process itself: whether it is gone.

    Raises OSError as `inject_clone`.
    """
    request, _site = _request(caller, NOBODY, WAIT_STEPS)
    result = int(lib.pd_inject_wait(request, ns_pid))
    if result == -errno.ECHILD:
        return True
    return checked(result) == ns_pid


def release_files(child: int, site: InjectionSite) -> None:
    """A child of `inject_clone` lets go of the descriptors of the target. Raises OSError: ESRCH if it was killed."""
    checked(lib.pd_release_files(child, native_site(site), CALL_TIMEOUT_NS))


def end_child(child: int) -> None:
    """Kills a child of `inject_clone`, which is a zombie of the target then; without effect if it has ended."""
    lib.pd_end_child(child, END_TIMEOUT_NS)
