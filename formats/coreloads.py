"""Which loadable segments a core has, and which of them have bytes in the file.

A mapping becomes one segment, or several where parts of it have no bytes in the core: the debugger reads clean pages
of a file from that file, which NT_FILE names. Whoever has the files may give such pages: FilePages.

    mapping          | data | absent | data | zero |  of a file      | data | absent | zero | absent | anonymous
    segments         |  in  |  out   |      in     |                 |              in              |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple, Protocol

from formats import runs
from formats.chain import MemoryView, Segment, SegmentKind
from formats.manifest import ANONYMOUS_VMA_KINDS, Process, Vma

MAX_HOLE_BYTES = 1 << 30
"""Absent anonymous memory of this size and more is left out of the file, as the kernel does with what was never
touched: reservations of terabytes would exceed what file systems take, be it as a hole."""


class FilePages(Protocol):
    """Pages of mapped files that the image does not have."""

    def available(self, vma: Vma, start_addr: int, end_addr: int) -> Iterator[runs.Range]:
        """Which pages of a range of a mapping can be had, the same whenever it is asked.

        Raises ImageCorrupt, StorageError.
        """

    def read(self, vma: Vma, start_addr: int, end_addr: int) -> bytes:
        """All bytes of a page range that is available; raises StorageError."""


class NoFilePages:
    """None of them."""

    def available(self, _vma: Vma, _start_addr: int, _end_addr: int) -> Iterator[runs.Range]:
        """Never any."""
        return iter(())

    def read(self, vma: Vma, start_addr: int, end_addr: int) -> bytes:
        """Nobody asks."""
        raise NotImplementedError


class Piece(NamedTuple):
    """Memory `[start_addr, end_addr)`.

    `in_file` if the core has its bytes: those of `data`, of the mapped file if it is `from_file`, or else zeros.
    """

    start_addr: int
    end_addr: int
    in_file: bool
    data: Segment | None = None
    from_file: bool = False


class Load(NamedTuple):
    """A segment of the core in the making: pieces of one mapping that all are in the file, or all are not."""

    vma: Vma
    in_file: bool
    pieces: Iterable[Piece]


def loads(view: MemoryView, files: FilePages) -> Iterator[Load]:
    """The segments in order; the pieces of one must be used before the next one is asked for.

    Raises ImageCorrupt, StorageError.
    """
    gaps = _gaps(view.process)
    for vma in view.vmas:
        for in_file, pieces in groupby(_pieces(view, vma, gaps, files), key=lambda piece: piece.in_file):
            yield Load(vma, in_file, pieces)


def _gaps(process: Process) -> list[runs.Range]:
    """What nobody can read, or could."""
    ranges = [(gap.start_addr, gap.end_addr) for gap in process.unreadable]
    ranges += [(guard.start_addr, guard.end_addr) for guard in process.guards]
    return list(runs.merge(sorted(ranges)))


def _pieces(view: MemoryView, vma: Vma, gaps: list[runs.Range], files: FilePages) -> Iterator[Piece]:
    for segment in view.segments(vma.start_addr, vma.end_addr):
        start_addr, end_addr = segment.start_addr, segment.end_addr
        if segment.kind is SegmentKind.DATA:
            yield Piece(start_addr, end_addr, True, segment)
        elif segment.kind is SegmentKind.ZERO:
            yield Piece(start_addr, end_addr, True)
        elif vma.kind not in ANONYMOUS_VMA_KINDS:
            yield from _absent_of_file(vma, start_addr, end_addr, gaps, files)
        else:
            yield from _absent_anonymous(start_addr, end_addr, gaps)


def _absent_of_file(
    vma: Vma, start_addr: int, end_addr: int, gaps: list[runs.Range], files: FilePages
) -> Iterator[Piece]:
    position = start_addr
    for found_addr, found_end_addr in runs.subtract(files.available(vma, start_addr, end_addr), gaps):
        if position < found_addr:
            yield Piece(position, found_addr, False)
        yield Piece(found_addr, found_end_addr, True, from_file=True)
        position = found_end_addr
    if position < end_addr:
        yield Piece(position, end_addr, False)


def _absent_anonymous(start_addr: int, end_addr: int, gaps: list[runs.Range]) -> Iterator[Piece]:
    position = start_addr
    for gap_addr, gap_end_addr in runs.intersect([(start_addr, end_addr)], gaps):
        if position < gap_addr:
            yield Piece(position, gap_addr, gap_addr - position < MAX_HOLE_BYTES)
        yield Piece(gap_addr, gap_end_addr, False)
        position = gap_end_addr
    if position < end_addr:
        yield Piece(position, end_addr, end_addr - position < MAX_HOLE_BYTES)
