"""What one of two rounds that are compared has for each page of a mapping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from formats import runs
from formats.chain import MemoryView, Segment, SegmentKind
from formats.layout import PAGE_BYTES
from formats.manifest import ANONYMOUS_VMA_KINDS, Vma


class Holding(Enum):
    """What a round has for pages."""

    DATA = "bytes"
    ZERO = "zeros"
    EMPTY = "nothing, which reads as zeros"
    NONE = "nothing of the process's own: what a file has there"
    UNKNOWN = "not what they hold"
    KERNEL = "nothing: it is a mapping of the kernel's own, which only a dump may have"


@dataclass(frozen=True, slots=True)
class Piece:
    """Pages of one kind; of `segment`, if the process or a memory object has pages there."""

    start_addr: int
    end_addr: int
    holding: Holding
    segment: Segment | None = None

    @property
    def object(self) -> int | None:
        """The memory object that has them, None for the process itself."""
        return self.segment.object if self.segment else None

    @property
    def is_own(self) -> bool:
        """Whether the process has them."""
        return self.segment is not None and self.segment.object is None

    def page_index(self, addr: int) -> int:
        """Where the page at an address is among those of the round that has them."""
        return self.segment.page_index + (addr - self.segment.start_addr) // PAGE_BYTES if self.segment else 0


class Side:
    """One of the two views that are compared."""

    def __init__(self, view: MemoryView) -> None:
        self._view = view
        self._gaps = list(runs.merge(sorted((gap.start_addr, gap.end_addr) for gap in view.process.unreadable)))

    def pieces(self, vma: Vma, start_addr: int, end_addr: int, other: Vma | None = None) -> Iterator[Piece]:
        """The range in order; `other` is what the mapping is in the other round."""
        absent = _absent_pages(vma, other)
        for segment in self._view.segments(start_addr, end_addr):
            if segment.kind is SegmentKind.ABSENT:
                yield from self._absent(segment.start_addr, segment.end_addr, absent)
                continue
            holding = Holding.DATA if segment.kind is SegmentKind.DATA else Holding.ZERO
            if holding is Holding.ZERO and segment.object is not None:
                holding = Holding.EMPTY  # nothing tells zeros in an object from a hole of it
            yield Piece(segment.start_addr, segment.end_addr, holding, segment)

    def _absent(self, start_addr: int, end_addr: int, holding: Holding) -> Iterator[Piece]:
        position = start_addr
        for gap_addr, gap_end_addr in runs.overlapping(self._gaps, start_addr, end_addr):
            if position < gap_addr:
                yield Piece(position, gap_addr, holding)
            position = min(gap_end_addr, end_addr)
            yield Piece(max(gap_addr, start_addr), position, Holding.UNKNOWN)
        if position < end_addr:
            yield Piece(position, end_addr, holding)

    def content(self, piece: Piece, addr: int, n_bytes: int) -> bytes:
        """Pages of a piece that has bytes, or reads as zeros."""
        if piece.segment is None or piece.holding is not Holding.DATA:
            return bytes(n_bytes)
        return self._view.read_pages(piece.segment, piece.page_index(addr), n_bytes // PAGE_BYTES)


def _absent_pages(vma: Vma, other: Vma | None) -> Holding:
    """What pages are that neither the process nor an object has."""
    if vma.kind in ANONYMOUS_VMA_KINDS:
        return Holding.EMPTY
    if vma.kind == "special":
        return Holding.KERNEL
    of_this_only = other is not None and other.object is not None
    is_shared_memory = vma.kind == "shmem" or (vma.is_shared and "w" in vma.perms)
    # Only a dump has what is shared.
    return Holding.UNKNOWN if vma.object is None and (of_this_only or is_shared_memory) else Holding.NONE
