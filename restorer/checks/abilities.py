"""What of the kernel and of the caller's privileges these processes need: each is tried, none is looked up."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from dumper import restoretrials
from formats.manifest import Manifest
from formats.processstate import ProcessState
from formats.threadstate import Credentials
from restorer.checks.findings import Problem, Subject

_REFUSED = (errno.EPERM, errno.EACCES)
CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = 6, 7, 21  # include/uapi/linux/capability.h
_AS_ROOT = "Run it as root, or as who they were."

Need = tuple[Callable[[], str], str, str, bool]
"""What is tried; what it is for, as the end of a sentence; what to do without it; whether a restore stops there."""


def needs(manifest: Manifest, *, same_ids: bool, time_namespace: bool = False) -> Iterator[Need]:
    """What a round's processes need of the kernel and of the caller."""
    alive = [process for process in manifest.processes if process.zombie is None]
    check = "'predump check' says what this host lacks, and what to do about it."
    yield restoretrials.try_memory_map, "set the boundaries of a process's memory (PR_SET_MM_MAP)", check, True
    yield restoretrials.try_executable, "set the link to a process's executable (/proc/PID/exe)", check, False
    if same_ids:
        ids = "Run it as root or with CAP_CHECKPOINT_RESTORE, or with --pid new or --pid-namespace."
        yield restoretrials.try_chosen_ids, "give processes the ids that they had", ids, True
    if time_namespace:
        namespace = "Run it as root, on Linux 6.3 or newer, or without --time-namespace."
        yield restoretrials.try_time_namespace, "have clocks go on from where they were", namespace, True
    if any(vma.path == "[vdso]" for process in alive for vma in process.vmas):
        yield restoretrials.try_vdso_address, "map the vdso where it was (ARCH_MAP_VDSO_64)", check, True
    if any(thread.rseq for process in alive for thread in process.threads):
        yield restoretrials.try_rseq, "register restartable sequences (rseq)", check, True
    if any(process.state and process.state.posix_timers for process in alive):
        yield restoretrials.try_timer_ids, "make POSIX timers with the ids that they had", check, True


class Trials:
    """What was tried so far: each thing is tried once."""

    def __init__(self) -> None:
        self._failures: dict[Callable[[], str], OSError | None] = {}

    def failure(self, attempt: Callable[[], str]) -> OSError | None:
        """Why it cannot be done, None if it can."""
        if attempt not in self._failures:
            self._failures[attempt] = None
            try:
                attempt()
            except OSError as error:
                self._failures[attempt] = error
        return self._failures[attempt]


def try_out(wanted: Iterator[Need], trials: Trials) -> Iterator[Problem]:
    """What of it is not to be had. Raises nothing for what is missing."""
    for attempt, words, hint, stops in wanted:
        error = trials.failure(attempt)
        if error is not None:
            is_refused = error.errno in _REFUSED
            subject = Subject.PRIVILEGE if is_refused else Subject.KERNEL
            reason = os.strerror(error.errno or 0)
            who = "This user may not" if is_refused else "This kernel cannot"
            yield Problem(subject, f"{who} {words}: {reason}.", hint, stops)


def credentials(manifest: Manifest, made_as: Credentials) -> Iterator[Problem]:
    """Whom and what the processes were, against what those are that the caller makes."""
    for process in manifest.processes:
        state = process.state
        if state is None:
            continue
        for wanted in [state.credentials, *(one.credentials for one in process.threads if one.credentials)]:
            yield from _credentials(process.pid, wanted, made_as)
        yield from _filters(process.pid, state, made_as)


def _credentials(pid: int, wanted: Credentials, made_as: Credentials) -> Iterator[Problem]:
    """credentials(7), capabilities(7): ids of its own may be swapped, others need a capability."""
    may = made_as.cap_effective
    has_other_uids = not set(wanted.uids) <= set(made_as.uids)
    has_other_gids = not set(wanted.gids) <= set(made_as.gids) or wanted.groups != made_as.groups
    if has_other_uids and not may >> CAP_SETUID & 1:
        message = f"Process {pid} was of user {wanted.uids[1]}, which this user may not become."
        yield Problem(Subject.PRIVILEGE, message, _AS_ROOT)
    if has_other_gids and not may >> CAP_SETGID & 1:
        message = f"Process {pid} was of group {wanted.gids[1]} and groups of its own, which this user may not join."
        yield Problem(Subject.PRIVILEGE, message, _AS_ROOT)
    lacking = (wanted.cap_permitted | wanted.cap_inheritable) & ~made_as.cap_permitted & ~made_as.cap_inheritable
    if lacking:
        message = f"Process {pid} had capabilities that this user cannot give: {lacking:#x}."
        yield Problem(Subject.PRIVILEGE, message, _AS_ROOT)
    if wanted.cap_bounding & ~made_as.cap_bounding:
        message = f"Process {pid} could have got capabilities (bounding set) that this user cannot give."
        yield Problem(Subject.PRIVILEGE, message, _AS_ROOT, stops=False)


def _filters(pid: int, state: ProcessState, made_as: Credentials) -> Iterator[Problem]:
    if state.seccomp_filters and not made_as.cap_effective >> CAP_SYS_ADMIN & 1:
        message = f"Process {pid} had seccomp filters, which only a caller with CAP_SYS_ADMIN can set again."
        yield Problem(Subject.PRIVILEGE, message, "Run it as root.")
