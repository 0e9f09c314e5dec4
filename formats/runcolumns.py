"""Runs by the thousand, column by column: what is asked of all of them, where each may be a single page."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from itertools import chain, compress
from operator import ne, sub
from typing import Final, NamedTuple

from formats import runs
from formats.layout import PAGE_BYTES, RunKind

IS_KIND: Final = {kind: bytes(number == kind for number in range(256)) for kind in RunKind}
"""Tables for `kinds.translate`: 1 where a run is of that kind."""
Counts = dict[RunKind, int]
RangeCounts = dict[RunKind, MutableSequence[int]]
"""By kind, of each of some ranges."""


class RunColumns(NamedTuple):
    """Some runs in order: their start and end addresses, kinds as numbers, and first positions in the pages file."""

    starts_addr: Sequence[int]
    ends_addr: Sequence[int]
    kinds: bytes
    page_indexes: Sequence[int]

    def inside(self, start_addr: int, end_addr: int) -> range:
        """Which of them are in a range of addresses, in whole or in part."""
        first = bisect_right(self.ends_addr, start_addr)
        return range(first, max(first, bisect_left(self.starts_addr, end_addr)))

    def clip(self, start_addr: int, end_addr: int) -> RunColumns:
        """What is in a range of addresses; nothing beyond its ends."""
        inside = self.inside(start_addr, end_addr)
        within = slice(inside.start, inside.stop)
        starts_addr, ends_addr = list(self.starts_addr[within]), list(self.ends_addr[within])
        kinds, page_indexes = self.kinds[within], list(self.page_indexes[within])
        if inside:
            skipped_bytes = max(0, start_addr - starts_addr[0])
            starts_addr[0] += skipped_bytes
            if kinds[0] == RunKind.DATA:
                page_indexes[0] += skipped_bytes // PAGE_BYTES
            ends_addr[-1] = min(ends_addr[-1], end_addr)
        return RunColumns(starts_addr, ends_addr, kinds, page_indexes)

    def parts(self, ranges: Sequence[runs.Range]) -> Iterator[tuple[int, slice, int, int]]:
        """Those in each of the ranges, which ascend and are disjoint; ranges without any are passed over.

        As the number of the range, where in the columns they are, and by how many bytes the first one begins before the
        range, and the last one ends behind it.
        """
        first = bisect_right(ranges, self.starts_addr[0], key=lambda one: one[1])
        for number in range(first, len(ranges)):
            start_addr, end_addr = ranges[number]
            if start_addr >= self.ends_addr[-1]:
                return
            inside = self.inside(start_addr, end_addr)
            if inside:
                before_bytes = max(0, start_addr - self.starts_addr[inside[0]])
                yield (
                    number,
                    slice(inside.start, inside.stop),
                    before_bytes,
                    max(0, self.ends_addr[inside[-1]] - end_addr),
                )


Frames = Iterable[RunColumns]
"""All runs of a pagemap, in order."""


def covered(frames: Frames) -> Iterator[runs.Range]:
    """What all runs cover, as ranges that do not touch."""
    start_addr = end_addr = 0
    for starts_addr, ends_addr, _, _ in frames:
        if starts_addr[0] != end_addr:
            if start_addr < end_addr:
                yield start_addr, end_addr
            start_addr = starts_addr[0]
        for position in compress(range(1, len(starts_addr)), map(ne, ends_addr, starts_addr[1:])):
            yield start_addr, ends_addr[position - 1]
            start_addr = starts_addr[position]
        end_addr = ends_addr[-1]
    if start_addr < end_addr:
        yield start_addr, end_addr


def count_pages(frames: Frames, ranges: Sequence[runs.Range]) -> tuple[Counts, RangeCounts]:
    """Pages by kind: of all runs, and of what is in each of the ranges, which ascend and are disjoint."""
    totals = dict.fromkeys(RunKind, 0)
    parts: RangeCounts = {kind: array("q", bytes(8 * len(ranges))) for kind in RunKind}  # there may be very many
    for columns in frames:
        sizes_bytes = list(map(sub, columns.ends_addr, columns.starts_addr))
        selectors = {kind: columns.kinds.translate(table) for kind, table in IS_KIND.items()}
        for kind, selector in selectors.items():
            totals[kind] += sum(compress(sizes_bytes, selector)) // PAGE_BYTES
        for number, inside, before_bytes, behind_bytes in columns.parts(ranges):
            for kind, selector in selectors.items():
                parts[kind][number] += sum(compress(sizes_bytes[inside], selector[inside])) // PAGE_BYTES
            parts[RunKind(columns.kinds[inside.start])][number] -= before_bytes // PAGE_BYTES
            parts[RunKind(columns.kinds[inside.stop - 1])][number] -= behind_bytes // PAGE_BYTES
    return totals, parts


def of_kind(frames: Frames, kind: RunKind) -> Iterator[tuple[list[int], list[int]]]:
    """The start and end addresses of the runs of a kind."""
    for starts_addr, ends_addr, kinds, _ in frames:
        selector = kinds.translate(IS_KIND[kind])
        yield list(compress(starts_addr, selector)), list(compress(ends_addr, selector))


def uncovered(
    ranges: Iterable[tuple[Sequence[int], Sequence[int]]], cover: Iterable[runs.Range]
) -> Iterator[runs.Range]:
    """What of the ranges, given by their starts and ends some thousands at a time, no range of `cover` has.

    Fast where that is nothing, and `cover` has few ranges.
    """
    covers = iter(cover)
    there = next(covers, None)
    portions = iter(ranges)
    for starts, ends in portions:
        position = 0
        while position < len(starts):
            while there is not None and there[1] <= starts[position]:
                there = next(covers, None)
            whole = 0 if there is None or there[0] > starts[position] else bisect_right(ends, there[1], position)
            if whole <= position:
                rest = zip(starts[position:], ends[position:], strict=True)
                more = chain.from_iterable(zip(*portion, strict=True) for portion in portions)
                yield from runs.subtract(chain(rest, more), chain((there,) if there else (), covers))
                return
            position = whole
