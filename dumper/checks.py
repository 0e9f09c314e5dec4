"""What this host can do, found out by trying it: the `check` command.

Nothing is derived from a kernel version: dumper/trials.py makes the attempts, this module says what they mean.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from dumper import restoretrials, trials
from dumper.proc.status import read_status
from dumper.trials import FAILED, FEATURE_MISSING, PRIVILEGE_MISSING
from formats.errors import PredumpError

REFUSED = (errno.EPERM, errno.EACCES)
# How the kernel says that it lacks something: a call, an ioctl, a flag, an option or a file of /proc.
ABSENT = (errno.ENOSYS, errno.ENOTTY, errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried.

    name: stable, for programs; title: the same for people; ok: whether it works here;
    required: whether predump is of no use without it; detail: one line on what was found;
    remedy: what to do about it, "" if ok;
    exit_code: 12 for a missing kernel feature, 11 for a missing privilege, 1 if the attempt failed
    in another way, 0 if ok.
    """

    name: str
    title: str
    ok: bool
    required: bool
    detail: str
    remedy: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class _Probe:
    """`attempt` returns what it found, or raises MissingError, OSError or PredumpError."""

    name: str
    title: str
    attempt: Callable[[], str]
    required: bool
    without_feature: str
    without_privilege: str


CONTAINER = "in a container, allow the call in its seccomp profile"
AS_OWNER_OR_ROOT = f"Run predump as root or with CAP_SYS_PTRACE; {CONTAINER}."
AS_RESTORER = "Run predump as root or with CAP_CHECKPOINT_RESTORE"
FOR_RESTORE = "Use a kernel built with CONFIG_CHECKPOINT_RESTORE."
NEWER_KERNEL = "Use Linux 6.7 or newer"

PROBES = (
    _Probe(
        "x86-64",
        "64-bit x86",
        trials.try_processor,
        required=True,
        without_feature="Run predump on a 64-bit x86 machine, with /proc mounted.",
        without_privilege="Make /proc/self/exe readable.",
    ),
    _Probe(
        "pagemap-scan",
        "Scanning page tables (PAGEMAP_SCAN)",
        trials.try_pagemap_scan,
        required=True,
        without_feature=f"{NEWER_KERNEL}, built with CONFIG_PROC_PAGE_MONITOR, and mount /proc.",
        without_privilege="Run predump as root, and in a container with an unmasked /proc.",
    ),
    _Probe(
        "page-is-guard",
        "Telling guard pages (PAGE_IS_GUARD)",
        trials.try_page_is_guard,
        required=False,
        without_feature="Guard pages will be named as unreadable; Linux 6.16 or newer tells them.",
        without_privilege="Run predump as root, and in a container with an unmasked /proc.",
    ),
    _Probe(
        "userfaultfd",
        "userfaultfd, plain",
        trials.try_plain_userfaultfd,
        required=False,
        without_feature="Use a kernel built with CONFIG_USERFAULTFD.",
        without_privilege="Nothing to do where the one without privilege works; otherwise run "
        "predump as root or set vm.unprivileged_userfaultfd=1.",
    ),
    _Probe(
        "userfaultfd-user-mode-only",
        "userfaultfd, without privilege",
        trials.try_user_mode_userfaultfd,
        required=True,
        without_feature="Use Linux 5.11 or newer, built with CONFIG_USERFAULTFD.",
        without_privilege=f"Allow userfaultfd(2): {CONTAINER}.",
    ),
    _Probe(
        "unprivileged-userfaultfd",
        "vm.unprivileged_userfaultfd",
        trials.try_unprivileged_sysctl,
        required=False,
        without_feature="Mount /proc.",
        without_privilege="Make /proc/sys/vm/unprivileged_userfaultfd readable.",
    ),
    _Probe(
        "uffd-wp-async",
        "Asynchronous write-protection (UFFD_FEATURE_WP_ASYNC)",
        trials.try_wp_async,
        required=True,
        without_feature=f"{NEWER_KERNEL}, built with CONFIG_USERFAULTFD and CONFIG_PTE_MARKER_UFFD_WP.",
        without_privilege=f"Allow userfaultfd(2): {CONTAINER}.",
    ),
    _Probe(
        "ptrace",
        "Stopping a process (ptrace)",
        trials.try_ptrace,
        required=True,
        without_feature="Use Linux 3.4 or newer.",
        without_privilege=f"{AS_OWNER_OR_ROOT} With Yama, set kernel.yama.ptrace_scope to 0 or 1.",
    ),
    _Probe(
        "pidfd-getfd",
        "Taking over a descriptor (pidfd_getfd)",
        trials.try_pidfd_getfd,
        required=True,
        without_feature="Use Linux 5.6 or newer.",
        without_privilege=AS_OWNER_OR_ROOT,
    ),
    _Probe(
        "process-vm-readv",
        "Reading memory (process_vm_readv)",
        trials.try_process_vm_readv,
        required=True,
        without_feature="Use a kernel built with CONFIG_CROSS_MEMORY_ATTACH.",
        without_privilege=AS_OWNER_OR_ROOT,
    ),
    _Probe(
        "tracking",
        "All of it on a live process",
        trials.try_tracking,
        required=True,
        without_feature="Mend what the other checks found missing first.",
        without_privilege=AS_OWNER_OR_ROOT,
    ),
    _Probe(
        "other-users",
        "Processes of other users",
        trials.try_other_users,
        required=False,
        without_feature="Mount /proc.",
        without_privilege="Run predump as root or with CAP_SYS_PTRACE to capture processes of other users.",
    ),
    _Probe(
        "yama",
        "Yama's ptrace_scope",
        trials.try_yama,
        required=False,
        without_feature="Mount /proc.",
        without_privilege="Run predump with CAP_SYS_PTRACE, or set kernel.yama.ptrace_scope=0 "
        "(a scope of 3 stays until the next boot).",
    ),
    _Probe(
        "map-files",
        "Shared memory in full (/proc/PID/map_files)",
        trials.try_map_files,
        required=False,
        without_feature="Use a kernel built with CONFIG_CHECKPOINT_RESTORE, and mount /proc.",
        without_privilege="Run predump as root or with CAP_CHECKPOINT_RESTORE; without it, pages "
        "of shared memory that the target has not touched are left out.",
    ),
    _Probe(
        "children",
        "Process trees (/proc/PID/task/TID/children)",
        trials.try_children,
        required=False,
        without_feature="Use a kernel built with CONFIG_PROC_CHILDREN to capture trees (-t); one process (-p) needs "
        "none of it.",
        without_privilege="Mount an unmasked /proc.",
    ),
    _Probe(
        "kcmp",
        "Telling open files apart (kcmp)",
        trials.try_kcmp,
        required=False,
        without_feature="Use a kernel built with CONFIG_KCMP; without it, no dump says which descriptors share an open "
        "file.",
        without_privilege="Run predump as root or with CAP_SYS_PTRACE.",
    ),
    _Probe(
        "suspend-seccomp",
        "Targets with a seccomp filter (PTRACE_O_SUSPEND_SECCOMP)",
        trials.try_suspend_seccomp,
        required=False,
        without_feature="Use a kernel built with CONFIG_SECCOMP and CONFIG_CHECKPOINT_RESTORE.",
        without_privilege="Run predump as root or with CAP_SYS_ADMIN, itself without a seccomp "
        "filter, to track processes that have one.",
    ),
    *(
        _Probe(f"restore-{name}", title, attempt, required=False, without_feature=feature, without_privilege=privilege)
        for name, title, attempt, feature, privilege in (
            (
                "process",
                "Restore: making a process",
                restoretrials.try_blank_process,
                "Use Linux 5.9 or newer.",
                f"Allow clone3(2), memfd_create(2) and ptrace(2): {CONTAINER}.",
            ),
            (
                "ids",
                "Restore: the same process ids",
                restoretrials.try_chosen_ids,
                "Use Linux 5.5 or newer.",
                f"{AS_RESTORER}, or restore with --pid new or --pid-namespace.",
            ),
            (
                "memory-map",
                "Restore: boundaries of memory",
                restoretrials.try_memory_map,
                FOR_RESTORE,
                f"Allow prctl(2): {CONTAINER}.",
            ),
            (
                "executable",
                "Restore: the link to the executable",
                restoretrials.try_executable,
                FOR_RESTORE,
                f"{AS_RESTORER}; without it /proc/PID/exe of a restored process is another.",
            ),
            (
                "vdso",
                "Restore: the vdso at its address",
                restoretrials.try_vdso_address,
                FOR_RESTORE,
                f"Allow arch_prctl(2): {CONTAINER}.",
            ),
            (
                "time-namespace",
                "Restore: clocks that go on",
                restoretrials.try_time_namespace,
                "Use Linux 6.3 or newer, with CONFIG_TIME_NS, for restore --time-namespace.",
                f"Run predump as root: {CONTAINER}.",
            ),
            (
                "rseq",
                "Restore: restartable sequences",
                restoretrials.try_rseq,
                "Use a kernel built with CONFIG_RSEQ.",
                f"Allow rseq(2): {CONTAINER}.",
            ),
            (
                "timer-ids",
                "Restore: POSIX timers with their ids",
                restoretrials.try_timer_ids,
                "Use Linux 6.15 or newer to restore processes with POSIX timers.",
                f"Allow prctl(2): {CONTAINER}.",
            ),
            (
                "tcp",
                "Restore: TCP connections",
                restoretrials.try_tcp_repair,
                "Restore with --tcp close.",
                "Run predump as root or with CAP_NET_ADMIN, or restore with --tcp close.",
            ),
        )
    ),
)


def _refused_or_absent(number: int | None) -> int:
    """The exit code for an errno."""
    if number in REFUSED:
        return PRIVILEGE_MISSING
    return FEATURE_MISSING if number in ABSENT else FAILED


def _under_seccomp() -> bool:
    with contextlib.suppress(OSError):
        return read_status(os.getpid()).seccomp_mode != 0
    return False


def _failed(probe: _Probe, detail: str, exit_code: int, hint: str = "") -> Check:
    remedies = {FEATURE_MISSING: probe.without_feature, PRIVILEGE_MISSING: probe.without_privilege}
    remedy = remedies.get(exit_code) or hint or "Try again; if it stays, report it with this line."
    if exit_code in remedies and _under_seccomp():
        remedy += " (predump runs under a seccomp filter here, which may be what refuses.)"
    return Check(probe.name, probe.title, False, probe.required, detail, remedy, exit_code)


def _run(probe: _Probe) -> Check:
    try:
        found = probe.attempt()
    except trials.MissingError as missing:
        return _failed(probe, missing.detail, missing.exit_code)
    except PredumpError as error:
        known = (FEATURE_MISSING, PRIVILEGE_MISSING)
        exit_code = error.exit_code if error.exit_code in known else FAILED
        return _failed(probe, error.message, exit_code, error.hint)
    except OSError as error:
        exit_code = _refused_or_absent(error.errno)
        verb = {FEATURE_MISSING: "absent", PRIVILEGE_MISSING: "not permitted"}.get(exit_code, "failed")
        name = errno.errorcode.get(error.errno or 0, "no errno")
        reason = os.strerror(error.errno) if error.errno else str(error)
        return _failed(probe, f"{verb}: {reason} ({name})", exit_code)
    return Check(probe.name, probe.title, True, probe.required, found, "", 0)


def run_checks() -> list[Check]:
    """Tries everything predump needs or can use, in a fixed order. It takes some milliseconds.

    Children are forked and traced, so it is to be called by a process with one thread. Nothing else
    is touched, and nothing is raised for what is missing: the results say it.
    """
    return [_run(probe) for probe in PROBES]
