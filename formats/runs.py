"""Half-open ranges `[start, end)` of addresses: set algebra over sorted sequences of them.

Every argument is an iterable of non-empty, disjoint ranges in ascending order (they may touch),
unless it says otherwise; every result is an iterator of such ranges. Nothing is held in memory,
so the ranges of a whole pagemap may stream through.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

Range = tuple[int, int]


def merge(ranges: Iterable[Range]) -> Iterator[Range]:
    """The union as ranges that do not touch; `ranges` ascend by start, but may overlap."""
    return near(ranges, 1)


def near(ranges: Iterable[Range], gap: int) -> Iterator[Range]:
    """Those that are less than `gap` apart, as one with what is between them; `ranges` ascend by start."""
    joined: Range | None = None
    for start, end in ranges:
        if joined is not None and start - joined[1] < gap:
            joined = (joined[0], max(joined[1], end))
            continue
        if joined is not None:
            yield joined
        joined = (start, end)
    if joined is not None:
        yield joined


def subtract(ranges: Iterable[Range], removed: Iterable[Range]) -> Iterator[Range]:
    """What is in `ranges`, but not in `removed`."""
    cuts = iter(removed)
    cut = next(cuts, None)
    for start, end in ranges:
        position = start
        while cut is not None and cut[0] < end:
            if cut[0] > position:
                yield position, cut[0]
            position = max(position, cut[1])
            if cut[1] > end:
                break  # the next range may need the rest of this cut
            cut = next(cuts, None)
        if position < end:
            yield position, end


def intersect(ranges: Iterable[Range], others: Iterable[Range]) -> Iterator[Range]:
    """What is in both."""
    rest = iter(others)
    other = next(rest, None)
    for start, end in ranges:
        while other is not None and other[0] < end:
            if max(start, other[0]) < min(end, other[1]):
                yield max(start, other[0]), min(end, other[1])
            if other[1] > end:
                break  # the next range may need the rest of this one
            other = next(rest, None)


def overlapping(ranges: Sequence[Range], start: int, end: int) -> Iterator[Range]:
    """Those of `ranges` that share an address with `[start, end)`, whole; found by bisection."""
    for position in range(bisect_right(ranges, start, key=lambda item: item[1]), len(ranges)):
        if max(ranges[position][0], start) >= end:
            return
        yield ranges[position]


def total(ranges: Iterable[Range]) -> int:
    """Sum of the sizes."""
    return sum(end - start for start, end in ranges)


def windows(ranges: Iterable[Range], max_size: int) -> Iterator[list[Range]]:
    """Ranges, which ascend, in lists that lie within `max_size` each; they are cut for it where they are longer."""
    window: list[Range] = []
    for start, end in ranges:
        position = start
        while position < end:
            if window and min(end, position + max_size) - window[0][0] > max_size:
                yield window
                window = []
            stop = min(end, position + max_size)
            window.append((position, stop))
            position = stop
    if window:
        yield window
