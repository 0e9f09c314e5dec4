"""A process's own pages as of a round, wherever in the chain of rounds their bytes are.

A PARENT run sends the reader one round back, for as long as rounds say PARENT:

    round 1 (full)   |  data  |  data  |  zero  |  data  |
    round 2          | parent |  data  | parent | (hole) |
    round 3          | parent | parent | parent |  data  |
    memory at 3         1's      2's      zero     3's

A PARENT page that the parent round has no run for is damage: bytes from further back would be
older than the hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from formats import runs
from formats.closing import Closing
from formats.errors import ImageCorrupt
from formats.images import PageSource
from formats.layout import ADDR_LIMIT, PAGE_BYTES, RunKind
from formats.pagemap import Piece
from formats.segments import Segment, SegmentKind

_WINDOW_BYTES = 256 << 20
_START = attrgetter("start_addr")
_SEGMENT_KINDS = {RunKind.DATA.value: SegmentKind.DATA, RunKind.ZERO.value: SegmentKind.ZERO}


class PageLineage(Closing):
    """Its pages in a round and in those that the round builds on; not for use by two threads at once."""

    def __init__(self, owner: str, levels: Sequence[PageSource], number: int | None = None) -> None:
        """`levels` are those of the round and of each that it builds on, in the order of Images.lineage.

        `owner` is whose they are, in words; of memory object `number`, addresses are offsets.
        """
        self._owner = owner
        self._object = number
        self._levels = levels
        self._level_of = {level.round: level for level in levels}

    def close(self) -> None:
        """Close all files; reading is over. May be called again."""
        for level in self._levels:
            level.close()

    def segments(self, start_addr: int, end_addr: int, since: int = 0) -> Iterator[Segment]:
        """All of the page range in order, what the process has no page for as ABSENT.

        Pages that are as they were in round `since`, or before, are passed over, and nothing older is looked at.
        Raises ImageCorrupt, StorageError.
        """
        newest = self._levels[0].round
        for window in _windows(self._levels[0].pieces(start_addr, end_addr)):
            found: list[Segment] = []
            parents: list[runs.Range] = []
            for piece_addr, piece_end_addr, run in window:
                if run is None:
                    found.append(Segment(piece_addr, piece_end_addr, SegmentKind.ABSENT, newest, 0, self._object))
                elif run.kind is RunKind.PARENT:
                    parents.append((piece_addr, piece_end_addr))
                else:
                    kind = _SEGMENT_KINDS[run.kind]
                    found.append(Segment(piece_addr, piece_end_addr, kind, newest, run.page_index, self._object))
            behind = self.behind(parents, since)
            yield from sorted([*found, *behind], key=_START) if found else behind

    def behind(self, parents: Iterable[runs.Range], since: int = 0) -> Iterator[Segment]:
        """What PARENT runs of the newest round, which ascend, lead to, in order.

        `since` and errors as of `segments`.
        """
        for some in runs.windows(parents, _WINDOW_BYTES):
            yield from sorted(self._found(some, since), key=_START)

    def newest_first(self) -> Iterator[Segment]:
        """All DATA segments: those of the last round first, which was written last, and so on; by address in each.

        Raises as `segments`.
        """
        left: list[runs.Range] = [(0, ADDR_LIMIT)]
        """Pages that all rounds looked at so far leave to those before."""
        for level in self._levels:
            leaving: list[runs.Range] = []
            for start_addr, end_addr, run in _within(level.pieces(0, ADDR_LIMIT), left):
                if run is None:
                    if level is not self._levels[0]:
                        raise unreachable(self._owner, start_addr, level.round)
                elif run.kind is RunKind.PARENT:
                    leaving.append((start_addr, end_addr))
                elif run.kind is RunKind.DATA:
                    yield Segment(start_addr, end_addr, SegmentKind.DATA, level.round, run.page_index, self._object)
            left = leaving
        for start_addr, _ in left:
            raise unreachable(self._owner, start_addr, self._levels[-1].round)

    def _found(self, parents: list[runs.Range], since: int) -> Iterator[Segment]:
        """The same within a bounded range, in any order.

        Each run of each round is looked at once, and settles those pages that no later round has: in a chain of many
        rounds of scattered pages, to look for each page anew would take a hundred times as long.
        """
        base_addr, end_addr = parents[0][0], parents[-1][1]
        wanted = bytearray((end_addr - base_addr) // PAGE_BYTES)
        """1 for each page that is not known yet."""
        for start_addr, stop_addr in parents:
            first, end = (start_addr - base_addr) // PAGE_BYTES, (stop_addr - base_addr) // PAGE_BYTES
            wanted[first:end] = bytes((1,)) * (end - first)
        for level in self._levels[1:]:
            if level.round <= since:
                return
            position = 0
            for starts_addr, ends_addr, kinds, page_indexes in level.columns_in(base_addr, end_addr):
                for start_addr, stop_addr, kind, page_index in zip(
                    starts_addr, ends_addr, kinds, page_indexes, strict=True
                ):
                    first = (start_addr - base_addr) // PAGE_BYTES
                    self._demand_none(wanted, position, first, base_addr, level.round)
                    position = (stop_addr - base_addr) // PAGE_BYTES
                    if kind == RunKind.PARENT:
                        continue
                    page = wanted.find(1, first, position)
                    while page >= 0:
                        stop = wanted.find(0, page, position)
                        stop = position if stop < 0 else stop
                        wanted[page:stop] = bytes(stop - page)
                        yield Segment(
                            base_addr + page * PAGE_BYTES,
                            base_addr + stop * PAGE_BYTES,
                            _SEGMENT_KINDS[kind],
                            level.round,
                            page_index + page - first if kind == RunKind.DATA else 0,
                            self._object,
                        )
                        page = wanted.find(1, stop, position)
            self._demand_none(wanted, position, len(wanted), base_addr, level.round)
            if wanted.find(1) < 0:
                return
        self._demand_none(wanted, 0, len(wanted), base_addr, self._levels[-1].round)

    def _demand_none(self, wanted: bytearray, first: int, end: int, base_addr: int, number: int) -> None:
        """Where round `number` has no run, no later round may have sent us there. Raises ImageCorrupt."""
        page = wanted.find(1, first, end)
        if page >= 0:
            raise unreachable(self._owner, base_addr + page * PAGE_BYTES, number)

    def read(self, number: int, page_index: int, n_pages: int) -> bytes:
        """Pages by their position in the pages file of round `number`; raises ImageCorrupt, StorageError."""
        return self.level(number).read(page_index, n_pages)

    def level(self, number: int) -> PageSource:
        """What round `number` has of the process."""
        return self._level_of[number]


def _windows(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The same in lists that lie within a bounded range each, but for a long piece, which is alone."""
    window: list[Piece] = []
    for piece in pieces:
        if window and piece[1] - window[0][0] > _WINDOW_BYTES:
            yield window
            window = []
        window.append(piece)
    if window:
        yield window


def _within(pieces: Iterable[Piece], ranges: Sequence[runs.Range]) -> Iterator[Piece]:
    """What of the pieces is in the ranges; both ascend."""
    position = 0
    for start_addr, end_addr, run in pieces:
        while position < len(ranges) and ranges[position][0] < end_addr:
            first_addr, stop_addr = max(start_addr, ranges[position][0]), min(end_addr, ranges[position][1])
            if first_addr < stop_addr:
                yield first_addr, stop_addr, run and run.clip(first_addr, stop_addr)
            if ranges[position][1] > end_addr:
                break  # the next piece may need the rest of it
            position += 1


def unreachable(owner: str, page_addr: int, number: int) -> ImageCorrupt:
    """The error for a page that a round leaves to round `number`, which does not have it either."""
    return ImageCorrupt(
        f"Page {page_addr:#x} of {owner} refers to its parent round, but "
        f"round {number}, where that leads, does not have it.",
        addr=page_addr,
        round=number,
    )
