"""Segments of System V shared memory that do not come back: others use them, or something is in a place of theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from formats import runs
from formats.manifest import SYSV_PREFIX, Manifest, MemoryObject, Process, Vma
from formats.restorable.verdict import Verdict


def look(manifest: Manifest, verdict: Verdict) -> None:
    """All of them."""
    held = {item.id: item for item in manifest.objects if item.path.startswith(SYSV_PREFIX)}
    if not held:
        return
    users: dict[int, list[int]] = {}
    for process in manifest.processes:
        for vma in _in_the_way(process, held):
            what = f"memory {vma.start_addr:#x}-{vma.end_addr:#x}"
            reason = "it is where a part of a System V segment was, which can only be attached whole"
            verdict.stop(process.pid, what, reason)
        for vma in process.vmas:
            if vma.object in held:
                users.setdefault(vma.object, []).append(process.pid)
    ids = Counter(item.inode for item in held.values())
    keys = Counter(item.segment.key for item in held.values() if item.segment and item.segment.key)
    for number, item in held.items():
        of_segment = users.get(number, [])
        if reason := _why_not(item, len(of_segment), ids, keys):
            verdict.stop(of_segment[0] if of_segment else None, f"memory object {number} ({item.path})", reason)


def _why_not(held: MemoryObject, n_mappings: int, ids: Counter[int], keys: Counter[int]) -> str:
    """Why a segment does not come back, "" if it does."""
    if held.segment is None:
        return "the image does not have its key and owner: they are in another IPC namespace"
    if held.segment.attached > n_mappings:
        return "processes that are not in the dump have this System V segment attached, too"
    if ids[held.inode] > 1 or keys[held.segment.key] > 1:
        return "another segment of the dump, of another IPC namespace, has its id or key"
    return ""


def _in_the_way(process: Process, held: Mapping[int, MemoryObject]) -> Iterator[Vma]:
    """Where something else is in the place of a part of a segment: one for each time that one was attached."""
    ranges = [(vma.start_addr, vma.end_addr) for vma in process.vmas]
    vmas = {vma.start_addr: vma for vma in process.vmas}
    attached = {(vma.object, _whole_addr(vma)) for vma in process.vmas if vma.object in held}
    for number, start_addr in attached:
        assert number is not None
        for found, _ in runs.overlapping(ranges, start_addr, start_addr + held[number].pages_end_bytes):
            if (vmas[found].object, _whole_addr(vmas[found])) != (number, start_addr):
                yield vmas[found]
                break


def _whole_addr(vma: Vma) -> int:
    """Where its file would begin."""
    return vma.start_addr - vma.offset_bytes
