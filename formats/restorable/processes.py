"""Processes and threads that cannot come back, or not as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from formats.manifest import Manifest, Process
from formats.processstate import ProcessState
from formats.restorable.verdict import Verdict
from formats.threadstate import Thread

PARENT_DEATH = "parent-death signal"
USER_CS = 0x33  # of 64-bit code: arch/x86/include/asm/segment.h
SECCOMP_STRICT, SECCOMP_FILTER = 1, 2
AMX_TILES = 1 << 18  # component of XSAVE
DUMPABLE_BY_ROOT = 2  # only the kernel gives it: suid_dumpable in proc_sys_fs(5)

NAMESPACES: Mapping[str, tuple[bool, str]] = {
    "user": (True, "in a user namespace of its own its capabilities are not those that it would have in the caller's"),
    "mnt": (False, "it sees other mounts; restore it where its files are the same"),
    "net": (False, "it comes back in the caller's, whose addresses are others"),
    "ipc": (False, "it comes back in the caller's"),
    "time": (False, "without --time-namespace its clocks that count from the boot are the caller's"),
    "uts": (False, "it comes back in the caller's, whose host name may be another"),
}
"""Namespaces that are not those of the predump that made the dump: whether that stops a restore, and why."""

_Rule = Callable[[Thread], str]
THREAD_RULES: tuple[_Rule, ...] = (
    lambda thread: "" if thread.registers else "its registers could not be read",
    lambda thread: "" if thread.registers.get("cs", USER_CS) == USER_CS else "it runs 32-bit code",
    lambda thread: "it is in strict seccomp mode" if thread.seccomp_mode == SECCOMP_STRICT else "",
    lambda thread: (
        "its seccomp filters could not be read"
        if thread.seccomp_mode == SECCOMP_FILTER and not thread.seccomp_filters
        else ""
    ),
)
"""Each says why a thread does not come back, "" if it does."""


def look(manifest: Manifest, verdict: Verdict) -> None:
    """All processes."""
    pids = {process.pid for process in manifest.processes}
    host_namespaces = {item.kind: item.inode for item in manifest.host.namespaces}
    depth = next((_depth(process) for process in manifest.processes if process.pid == manifest.root_pid), 0)
    for process in manifest.processes:
        is_root = process.pid == manifest.root_pid
        if process.lineage and _depth(process) != depth:
            _stop(verdict, process, "it is in a pid namespace of its own, below that of the root process")
        if process.zombie is not None:
            if process.ppid not in pids:
                _stop(verdict, process, "it is a zombie, and its parent is not in the dump")
            continue
        if not is_root and process.ppid not in pids:
            _stop(verdict, process, f"its parent, process {process.ppid}, is not in the dump")
        for reason in _incomplete(process):
            _stop(verdict, process, reason)
        for thread in process.threads:
            for rule in THREAD_RULES:
                if reason := rule(thread):
                    verdict.stop(process.pid, f"thread {thread.tid}", reason)
        if process.state is not None:
            _look_at_state(process.pid, process.state, verdict)
            _look_at_shared(process.pid, process.state, verdict)
            _look_at_namespaces(process.pid, process.state, host_namespaces, verdict)
            _look_at_session(process.pid, process.state, pids, verdict)
        if is_root and any(thread.parent_death_signal for thread in process.threads):
            reason = "restore --detach leaves it out: its parent, predump, ends at once"
            verdict.differ(process.pid, PARENT_DEATH, reason)


def _depth(process: Process) -> int:
    """Of its pid namespace; 0 where the round does not say."""
    return len(process.lineage.ns_pids) if process.lineage else 0


def _stop(verdict: Verdict, process: Process, reason: str) -> None:
    verdict.stop(process.pid, f"process {process.pid}", reason)


def _incomplete(process: Process) -> Iterator[str]:
    if process.state is None:
        yield "the image does not have its state"
    elif process.state.layout is None:
        yield "the image does not have the boundaries of its memory"
    if all(thread.tid != process.pid for thread in process.threads):
        yield "its main thread has ended"


def _look_at_state(pid: int, state: ProcessState, verdict: Verdict) -> None:
    if state.prctl.get("xcomp_perm", 0) & AMX_TILES:
        verdict.stop(pid, "tile registers", "the permission to use them (AMX) is not asked for again")
    for what, path in (("working directory", state.cwd), ("root directory", state.root)):
        if path and (not path.startswith("/") or path.endswith(" (deleted)")):
            verdict.stop(pid, what, f"nobody can go there any more: {path}")
    if state.prctl.get("dumpable") == DUMPABLE_BY_ROOT:
        verdict.differ(pid, "dumpable", "only the kernel gives 2 (suid_dumpable); it comes back as 0")


def _look_at_shared(pid: int, state: ProcessState, verdict: Verdict) -> None:
    for what, other in state.shared.items():
        verdict.stop(pid, f"shared {what}", f"process {other} has the same, and they would come back apart (clone)")


def _look_at_namespaces(pid: int, state: ProcessState, host: Mapping[str, int], verdict: Verdict) -> None:
    for item in state.namespaces:
        if item.kind in NAMESPACES and host.get(item.kind, item.inode) != item.inode:
            stops, reason = NAMESPACES[item.kind]
            (verdict.stop if stops else verdict.differ)(pid, f"{item.kind} namespace", reason)
    own = {item.kind: item.inode for item in state.namespaces}
    for kind in ("pid", "time"):
        if own.get(f"{kind}_for_children", 0) != own.get(kind, 0):
            verdict.differ(pid, f"{kind} namespace of new children", "they come to be in its own (unshare)")


def _look_at_session(pid: int, state: ProcessState, pids: set[int], verdict: Verdict) -> None:
    """Nobody can be put into a session or group whose leader is not there."""
    lineage = state.lineage
    if lineage.session not in pids:
        verdict.differ(pid, "session", f"its leader, process {lineage.session}, is not in the dump: it is the caller's")
    elif lineage.process_group not in pids:
        verdict.differ(pid, "process group", f"its leader, process {lineage.process_group}, is not in the dump")
