"""Counts, for the regions of a process and their cells, what one round after the other has of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from analysis.history.regions import Region
from formats.layout import PAGE_BYTES, RunKind
from formats.roundpages import RoundPages

SHARE_ALL = 254
"""Value of a cell in a round: the written share of its pages in so many parts, rounded up. 0: none was written."""
FIRST_SEEN = 255
"""Value of a cell in a round that holds everything, where it has pages of it."""

_PARENT, _DATA = RunKind.PARENT.value, RunKind.DATA.value


class Presence(IntEnum):
    """What a round says of a process."""

    ABSENT = 0
    """It is not in it."""
    FIRST = 1
    """Its pages, for the first time or all anew."""
    LATER = 2
    """What was written since the round that it builds on."""


@dataclass(slots=True)
class RegionTotals:
    """Of a region over all rounds: pages written (once for each round), in how many rounds, and bytes stored for it."""

    written_pages: int = 0
    written_rounds: int = 0
    stored_bytes: int = 0


class WriteCounter:
    """Counts what rounds have of one process in its regions and their cells."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self.totals = [RegionTotals() for _ in regions]
        self.elsewhere_pages = 0
        self._regions = regions
        self._first_cell: list[int] = []
        self._cells_pages = array("Q")  # of each cell
        for region in regions:
            self._first_cell.append(len(self._cells_pages))
            left_pages = region.n_pages
            for _ in range(region.n_cells):
                self._cells_pages.append(min(region.cell_pages, left_pages))
                left_pages -= region.cell_pages

    def count(self, source: RoundPages | None, presence: Presence) -> bytes:
        """Add up a round, and say what it has of each cell; raises ImageCorrupt, StorageError."""
        row = bytearray(len(self._cells_pages))
        if source is None:
            return bytes(row)
        with source:
            counts = self._add_up(source, is_written=presence is Presence.LATER)
        for cell, pages in enumerate(counts):
            if pages:
                share = -(-pages * SHARE_ALL // self._cells_pages[cell])
                row[cell] = share if presence is Presence.LATER else FIRST_SEEN
        return bytes(row)

    def _add_up(self, source: RoundPages, *, is_written: bool) -> array[int]:
        """Pages that the round has itself, in each cell; the totals of the regions grow."""
        counts = array("Q", bytes(8 * len(self._cells_pages)))
        own_pages = [0] * len(self._regions)
        data_pages = [0] * len(self._regions)
        first_data = [0] * len(self._regions)  # position of its first DATA page in the pages file; the others follow
        for index, addr, end_addr, data_index in self._pieces(source):
            n_pages = (end_addr - addr) // PAGE_BYTES
            if index is None:
                self.elsewhere_pages += n_pages * is_written
                continue
            own_pages[index] += n_pages
            if data_index is not None:
                if not data_pages[index]:
                    first_data[index] = data_index
                data_pages[index] += n_pages
            self._add_to_cells(counts, index, addr, end_addr)
        for index, pages in enumerate(own_pages):
            total = self.totals[index]
            if pages and is_written:
                total.written_pages += pages
                total.written_rounds += 1
            if data_pages[index]:
                first = first_data[index]
                end_bytes = source.stored_bytes_before(first + data_pages[index])
                total.stored_bytes += end_bytes - source.stored_bytes_before(first)
        return counts

    def _add_to_cells(self, counts: array[int], index: int, addr: int, end_addr: int) -> None:
        region = self._regions[index]
        if not region.n_cells:
            return
        cell_bytes = region.cell_pages * PAGE_BYTES
        while addr < end_addr:
            cell = (addr - region.start_addr) // cell_bytes
            next_addr = min(end_addr, region.start_addr + (cell + 1) * cell_bytes)
            counts[self._first_cell[index] + cell] += (next_addr - addr) // PAGE_BYTES
            addr = next_addr

    def _pieces(self, source: RoundPages) -> Iterator[tuple[int | None, int, int, int | None]]:
        """The round's own runs, cut at regions: which one (None: outside of all), start, end.

        And the position of the first page in the pages file, None where it has none.
        """
        n_regions = len(self._regions)
        index = 0
        next_data = 0
        for starts_addr, ends_addr, kinds, _ in source.columns():
            for start_addr, run_end_addr, kind in zip(starts_addr, ends_addr, kinds, strict=True):
                if kind == _PARENT:
                    continue
                addr = start_addr
                while addr < run_end_addr:
                    while index < n_regions and self._regions[index].end_addr <= addr:
                        index += 1
                    inside, end_addr = self._extent(index, addr, run_end_addr)
                    n_pages = (end_addr - addr) // PAGE_BYTES
                    yield index if inside else None, addr, end_addr, next_data if kind == _DATA else None
                    next_data += n_pages if kind == _DATA else 0
                    addr = end_addr

    def _extent(self, index: int, addr: int, end_addr: int) -> tuple[bool, int]:
        """Whether an address is in region `index`, which ends behind it; and how far that is so, up to `end_addr`."""
        if index == len(self._regions):
            return False, end_addr
        region = self._regions[index]
        inside = region.start_addr <= addr
        return inside, min(end_addr, region.end_addr if inside else region.start_addr)
