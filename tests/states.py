"""The state of a process without anything special, to make others of with `dataclasses.replace`."""

from __future__ import annotations

from formats.processstate import Lineage, ProcessState, Zombie
from formats.threadstate import Credentials


def plain_credentials(uid: int = 0, gid: int = 0) -> Credentials:
    """A user without groups and capabilities."""
    return Credentials(
        uids=[uid] * 4,
        gids=[gid] * 4,
        groups=[],
        cap_inheritable=0,
        cap_permitted=0,
        cap_effective=0,
        cap_bounding=0,
        cap_ambient=0,
        no_new_privs=False,
    )


def lineage_of(pid: int, *, process_group: int, session: int) -> Lineage:
    """A process of the outermost pid namespace, without a terminal."""
    return Lineage(
        process_group=process_group,
        session=session,
        terminal=0,
        exit_signal=17,
        ns_pids=[pid],
        ns_process_groups=[process_group],
        ns_sessions=[session],
    )


def zombie_of(pid: int, exit_code: int) -> Zombie:
    """What is left of a process that led a group and session of its own."""
    return Zombie(exit_code=exit_code, lineage=lineage_of(pid, process_group=pid, session=pid))


def plain_state(pid: int, *, process_group: int, session: int) -> ProcessState:
    """A process of root, without descriptors, timers and pending signals, that has never called sigaction or prctl."""
    return ProcessState(
        lineage=lineage_of(pid, process_group=process_group, session=session),
        auxv=b"",
        environment=b"",
        layout=None,
        dispositions=[],
        pending=[],
        posix_timers=[],
        interval_timers=[],
        limits=[],
        credentials=plain_credentials(),
        seccomp_filters=[],
        umask=0o22,
        cwd="/",
        root="/",
        namespaces=[],
        monotonic_offset_ns=0,
        boottime_offset_ns=0,
        cgroups=[],
        personality=0,
        oom_score_adj=0,
        coredump_filter=0x33,
        thp_disabled=False,
    )
