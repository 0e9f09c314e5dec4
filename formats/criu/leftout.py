"""What of a process's state has no place in the image files that predump writes for CRIU."""

from __future__ import annotations

from collections.abc import Iterator

from formats.criu.threads import has_registers
from formats.manifest import Manifest, Missing, Process
from formats.processstate import ProcessState
from formats.threadstate import Restart, Scheduling, Thread

_NO_PLACE = "CRIU's images do not have it"
_NOT_WRITTEN = "predump does not write CRIU's image for it"
_WRITTEN_PRCTL = {"dumpable", "securebits", "child_subreaper", "xcomp_perm"}
"""Or of use only with what is named elsewhere: XSTATE components beyond those that everybody may use."""
_USUAL_PRCTL = {"tsc": 1, "mce_kill": 2, "cpuid": 1}  # others are 0: PR_GET_TSC, PR_MCE_KILL_GET, ARCH_GET_CPUID
_SIGCHLD = 17
_SCHED_DEADLINE = 6
_USUAL_COREDUMP_FILTER = 0x33
_USUAL_TIMER_SLACK_NS = 50_000


def left_out_of_round(manifest: Manifest) -> Iterator[Missing]:
    """What concerns all processes: it is named once."""
    states = [process.state for process in manifest.processes if process.state is not None]
    if not states:
        yield Missing(what="registers and all other state", reason="a pre-dump round does not have them")
        return
    if any(state.cgroups for state in states):
        yield Missing(what="cgroups", reason=_NOT_WRITTEN)
    if any(thread.scheduling and thread.scheduling.cpus for item in manifest.processes for thread in item.threads):
        yield Missing(what="on which processors threads may run", reason=_NO_PLACE)
    if any(len(state.lineage.ns_pids) > 1 for state in states):
        yield Missing(what="pids inside of the pid namespace", reason="those that predump saw are written")


def left_out_of_process(process: Process, root: Process) -> Iterator[Missing]:
    """What concerns one process or a thread of it."""
    if process.zombie is not None:
        return
    if process.state is not None:
        yield from _left_out_of_state(process.state, root.state)
    if all(thread.tid != process.pid for thread in process.threads):
        yield Missing(what="main thread", reason="it had ended: CRIU expects one")
    for thread in process.threads:
        yield from _left_out_of_thread(thread, is_dump=process.state is not None)


def _left_out_of_state(state: ProcessState, root: ProcessState | None) -> Iterator[Missing]:
    roots = {item.kind: item.inode for item in root.namespaces} if root else {}
    for namespace in state.namespaces:
        if namespace.inode != roots.get(namespace.kind, namespace.inode):
            yield Missing(what=f"{namespace.kind} namespace of its own", reason=_NOT_WRITTEN)
    if state.shared:
        yield Missing(what=f"sharing of {', '.join(state.shared)} with another process", reason=_NOT_WRITTEN)
    if state.lineage.terminal:
        yield Missing(what="controlling terminal", reason=_NOT_WRITTEN)
    if state.lineage.exit_signal != _SIGCHLD:
        yield Missing(what="signal that its parent gets when it ends", reason=_NO_PLACE)
    if state.coredump_filter != _USUAL_COREDUMP_FILTER:
        yield Missing(what="coredump_filter", reason=_NO_PLACE)
    for name, value in state.prctl.items():
        if name not in _WRITTEN_PRCTL and value != _USUAL_PRCTL.get(name, 0):
            yield Missing(what=f"prctl {name}", reason=_NO_PLACE)
    if state.credentials.cap_ambient:
        yield Missing(what="ambient capabilities", reason=_NOT_WRITTEN)
    if state.credentials.no_new_privs:
        yield Missing(what="no_new_privs", reason=_NOT_WRITTEN)


def _left_out_of_thread(thread: Thread, *, is_dump: bool) -> Iterator[Missing]:
    if is_dump and not has_registers(thread):
        yield Missing(what=f"registers of thread {thread.tid}", reason="the round does not have them")
    if thread.system_call is not None and thread.system_call.restart is Restart.REMAINING:
        yield Missing(
            what=f"time left of system call {thread.system_call.number} of thread {thread.tid}",
            reason="only the kernel knew it: the call ends with EINTR, as after a dump by CRIU",
        )
    if thread.scheduling is not None and _has_unusual_scheduling(thread.scheduling):
        yield Missing(what=f"deadline, I/O priority or timer slack of thread {thread.tid}", reason=_NO_PLACE)


def _has_unusual_scheduling(scheduling: Scheduling) -> bool:
    return (
        scheduling.policy == _SCHED_DEADLINE
        or scheduling.flags != 0
        or scheduling.io_priority != 0
        or scheduling.timer_slack_ns != _USUAL_TIMER_SLACK_NS
    )
