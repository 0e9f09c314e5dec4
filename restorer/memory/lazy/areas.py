"""Where in a process the pages of the image belong that it may not have yet, while it moves and drops its memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from formats import runs


@dataclass(frozen=True, slots=True)
class Area:
    """Addresses `[start_addr, end_addr)` of the process, `shift` above those of the image."""

    start_addr: int
    end_addr: int
    shift: int

    @property
    def n_bytes(self) -> int:
        """Its size."""
        return self.end_addr - self.start_addr


class Areas:
    """All of them, ascending while nothing moves: few ever move."""

    def __init__(self, still: Iterable[runs.Range], moved: Sequence[Area] = ()) -> None:
        self._still = list(runs.merge(still))
        self._moved = list(moved)
        self.are_whole = True
        """Whether nothing has been moved or dropped."""

    def copy(self) -> Areas:
        """Those of a child that was born just now."""
        copied = Areas(self._still, self._moved)
        copied.are_whole = self.are_whole
        return copied

    def at(self, addr: int) -> Area | None:
        """The one that holds an address."""
        for start_addr, end_addr in runs.overlapping(self._still, addr, addr + 1):
            return Area(start_addr, end_addr, 0)
        return next((area for area in self._moved if area.start_addr <= addr < area.end_addr), None)

    def places_of(self, start_addr: int, end_addr: int) -> Iterator[Area]:
        """Where in the process parts of a range of the image belong."""
        for still_start, still_end in runs.overlapping(self._still, start_addr, end_addr):
            yield Area(max(still_start, start_addr), min(still_end, end_addr), 0)
        for area in self._moved:
            first = max(area.start_addr, start_addr + area.shift)
            last = min(area.end_addr, end_addr + area.shift)
            if first < last:
                yield Area(first, last, area.shift)

    def drop(self, start_addr: int, end_addr: int) -> None:
        """Nothing of the image belongs there any more."""
        self.are_whole = False
        self._still = list(runs.subtract(self._still, [(start_addr, end_addr)]))
        self._moved = [part for area in self._moved for part in _without(area, start_addr, end_addr)]

    def move(self, from_addr: int, to_addr: int, n_bytes: int) -> None:
        """What belonged at one place belongs at another."""
        end_addr = from_addr + n_bytes
        delta = to_addr - from_addr
        found = [Area(*part, 0) for part in runs.overlapping(self._still, from_addr, end_addr)]
        found += [area for area in self._moved if area.start_addr < end_addr and area.end_addr > from_addr]
        self.drop(from_addr, end_addr)
        self.drop(to_addr, to_addr + n_bytes)
        self._moved += [
            Area(max(area.start_addr, from_addr) + delta, min(area.end_addr, end_addr) + delta, area.shift + delta)
            for area in found
        ]


def _without(area: Area, start_addr: int, end_addr: int) -> Iterator[Area]:
    for first, last in runs.subtract([(area.start_addr, area.end_addr)], [(start_addr, end_addr)]):
        yield Area(first, last, area.shift)
