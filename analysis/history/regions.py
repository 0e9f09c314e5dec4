"""Which ranges of a process were mapped in any of several rounds, and how they are cut into cells to count in.

A range has the mapping of the last round that had one there:

    round 1     |   heap   |    |  a  |
    round 2     |   heap        |         | b |
    regions     |   heap        | a (gone)| b |
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from formats.layout import PAGE_BYTES
from formats.manifest import Vma
from formats.runs import overlapping, subtract

REGIONS_MAX = 100_000


@dataclass(slots=True)
class Region:
    """A mapping, or what of an earlier one no later one covers: `[start_addr, end_addr)`.

    `gone`: the last round has no mapping there. `held_pages` is the most that a round had of it, as far as it was the
    same mapping. It has `n_cells` cells of `cell_pages` pages each (the last may be shorter); none where it is not
    counted by cells.
    """

    vma: Vma
    start_addr: int
    end_addr: int
    gone: bool
    held_pages: int
    cell_pages: int = 0
    n_cells: int = 0

    @property
    def n_pages(self) -> int:
        """Pages of the address range, populated or not."""
        return (self.end_addr - self.start_addr) // PAGE_BYTES


def _held_pages(vma: Vma) -> int:
    return min(vma.pages_data + vma.pages_zero + vma.pages_parent, vma.n_pages)


class MappedOverTime:
    """Gathers regions of one process from its rounds, the last one first."""

    def __init__(self, vmas: Iterable[Vma]) -> None:
        """`vmas` are those of the last round, as in its manifest."""
        self.regions = [Region(vma, vma.start_addr, vma.end_addr, False, _held_pages(vma)) for vma in vmas]
        self.left_out = 0
        """Regions of earlier rounds that there were too many of."""
        self._ranges = self._all_ranges()

    def add(self, vmas: Iterable[Vma]) -> None:
        """The mappings of the round before those that were added so far; without pages they are of no interest."""
        held = [vma for vma in vmas if _held_pages(vma)]
        changed = [vma for vma in held if not self._is_known(vma)]
        if not changed:
            return
        new = []
        for vma in changed:
            span = (vma.start_addr, vma.end_addr)
            for start_addr, end_addr in subtract([span], overlapping(self._ranges, *span)):
                n_pages = (end_addr - start_addr) // PAGE_BYTES
                new.append(Region(vma, start_addr, end_addr, True, min(_held_pages(vma), n_pages)))
        room = max(REGIONS_MAX - len(self.regions), 0)
        self.left_out += len(new[room:])
        self.regions = sorted([*self.regions, *new[:room]], key=lambda region: region.start_addr)
        self._ranges = self._all_ranges()

    def _is_known(self, vma: Vma) -> bool:
        """Whether a region is exactly this mapping's range; it takes note of its pages then."""
        position = bisect_left(self._ranges, (vma.start_addr, vma.end_addr))
        if position == len(self._ranges) or self._ranges[position] != (vma.start_addr, vma.end_addr):
            return False
        region = self.regions[position]
        region.held_pages = max(region.held_pages, _held_pages(vma))
        return True

    def _all_ranges(self) -> list[tuple[int, int]]:
        return [(region.start_addr, region.end_addr) for region in self.regions]


def heaviest(regions: Sequence[Region], most: int) -> list[Region]:
    """Those with most pages, at most so many, in their order."""
    if len(regions) <= most:
        return list(regions)
    order = sorted(range(len(regions)), key=lambda position: -regions[position].held_pages)
    return [regions[position] for position in sorted(order[:most])]


def cut_into_cells(regions: Sequence[Region], n_cells: int) -> None:
    """Give each region that had pages cells, at most `n_cells` in all: the more pages it had, the more of them.

    Where there are more regions than cells, those with fewest pages get none.
    """
    counted = heaviest([region for region in regions if region.held_pages], n_cells)
    spare = n_cells - len(counted)
    total_pages = sum(region.held_pages for region in counted)
    for region in counted:
        wanted = 1 + spare * region.held_pages // total_pages
        region.cell_pages = -(-region.n_pages // min(wanted, region.n_pages))
        region.n_cells = -(-region.n_pages // region.cell_pages)
