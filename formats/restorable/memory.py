"""Mappings and memory objects that do not come back, or not as they were."""

from __future__ import annotations

from collections.abc import Mapping

from formats.manifest import Manifest, MemoryObject, Process, Vma
from formats.restorable.verdict import Verdict

_SHADOW_STACK_FLAG = "ss"  # of VmFlags
_DELETED = " (deleted)"

KERNEL_PATHS: Mapping[str, str] = {
    "/secretmem": "nobody but its process could read secret memory (memfd_secret)",
    "anon_inode:[io_uring]": "it is shared with the kernel's io_uring, whose state nobody tells",
    "anon_inode:[perf_event]": "it is shared with the kernel's perf events, whose state nobody tells",
    "/[aio]": "it is the ring of an asynchronous I/O context (io_setup), which is not made again",
}
"""Beginnings of the paths of mappings that are the kernel's as well as the process's, and why they stop a restore."""
VMA_KINDS: Mapping[str, str] = {
    "device": "what a device maps is not made again",
    "unknown": "the image does not say what is mapped there",
}
"""Kinds of mappings that stop a restore."""


def look(manifest: Manifest, verdict: Verdict) -> None:
    """All processes and objects."""
    for process in manifest.processes:
        _look_at_process(process, verdict)
    users = {vma.object: process.pid for process in manifest.processes for vma in process.vmas}
    for held in manifest.objects:
        _look_at_object(held, users.get(held.id), verdict)


def _look_at_process(process: Process, verdict: Verdict) -> None:
    for vma in process.vmas:
        if reason := _why_not(vma):
            verdict.stop(process.pid, f"memory {vma.start_addr:#x}-{vma.end_addr:#x}{_of(vma.path)}", reason)
    odd = [(vma.start_addr, vma.end_addr) for vma in process.vmas if _why_not(vma)]
    for gap in process.unreadable:
        if not any(start_addr <= gap.start_addr < end_addr for start_addr, end_addr in odd):
            verdict.stop(process.pid, f"memory {gap.start_addr:#x}-{gap.end_addr:#x}", gap.reason)
    if any(vma.path == "[uprobes]" for vma in process.vmas):
        verdict.differ(process.pid, "[uprobes]", "probes that were set in it from outside are not set again")


def _why_not(vma: Vma) -> str:
    """Why a mapping does not come back, "" if it does."""
    for beginning, reason in KERNEL_PATHS.items():
        if vma.path.startswith(beginning):
            return reason
    if vma.kind in VMA_KINDS:
        return VMA_KINDS[vma.kind]
    if _SHADOW_STACK_FLAG in vma.flags.split():
        return "a shadow stack is not made again"
    is_needed = vma.kind in ("file", "shmem") or (vma.kind == "hugetlb" and vma.is_shared)
    if vma.path.endswith(_DELETED) and is_needed and vma.object is None:
        return "no name leads to it any more, and the image does not have all of its content (which a dump by root has)"
    return ""


def _look_at_object(held: MemoryObject, pid: int | None, verdict: Verdict) -> None:
    what = f"memory object {held.id}{_of(held.path)}"
    if held.unreadable and held.kind != "file":
        verdict.stop(pid, what, held.unreadable[0].reason)


def _of(path: str) -> str:
    return f" ({path})" if path else ""
