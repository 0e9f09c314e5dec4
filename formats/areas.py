"""What the memory of a process is where it has no pages of its own: zeros, a memory object's bytes, or not known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from formats import runs
from formats.manifest import ANONYMOUS_VMA_KINDS, Process, Vma


class Area(NamedTuple):
    """A part `[start_addr, end_addr)` of one mapping.

    `object` is the memory object behind it, the page at `addr` being the object's at `addr - shift`. `zeros` says
    whether pages that nothing has are zeros: in memory without an object all, else those that the object knows of.
    In `shared` memory the process has no pages of its own.
    """

    start_addr: int
    end_addr: int
    zeros: bool
    object: int | None
    shift: int
    shared: bool


def areas_of(process: Process, vmas: Iterable[Vma]) -> Iterator[Area]:
    """The areas of some of its mappings, ascending as these do; guard pages, which nobody can read, are in none."""
    unreadable = list(runs.merge(sorted((gap.start_addr, gap.end_addr) for gap in process.unreadable)))
    guards = list(runs.merge(sorted((guard.start_addr, guard.end_addr) for guard in process.guards)))
    for vma in vmas:
        zeros = vma.object is not None or vma.kind in ANONYMOUS_VMA_KINDS
        shift = vma.start_addr - vma.offset_bytes if vma.object is not None else 0
        behind = vma.object, shift, vma.is_shared
        whole = [(vma.start_addr, vma.end_addr)]
        inside = runs.overlapping(guards, vma.start_addr, vma.end_addr)
        for start_addr, end_addr in runs.subtract(whole, inside):
            position = start_addr
            for gap_addr, gap_end_addr in runs.overlapping(unreadable, start_addr, end_addr):
                if position < gap_addr:
                    yield Area(position, gap_addr, zeros, *behind)
                position = min(gap_end_addr, end_addr)
                yield Area(max(start_addr, gap_addr), position, False, *behind)
            if position < end_addr:
                yield Area(position, end_addr, zeros, *behind)
