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
from formats.layout import PAGE_BYTES, RunKind
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

    def _found(self, parents: list[runs.Range], since: int) -> Iterator[Segment]:
        """The same within a bounded range, in any order.

        Each run of each round is looked at once, and settles those pages that no later round has: in a chain of many
        rounds of scattered pages, to look for each page anew would take a hundred times as long.
        """
        wanted = _Wanted(parents, self._owner)
        for level in self._levels[1:]:
            if level.round <= since:
                return
            position = wanted.start_addr
            for columns in level.columns_in(wanted.start_addr, wanted.end_addr):
                for start_addr, end_addr, kind, page_index in zip(*columns, strict=True):
                    wanted.demand_none(position, start_addr, level.round)
                    position = end_addr
                    if kind == RunKind.PARENT:
                        continue
                    for found_addr, found_end_addr in wanted.take(start_addr, end_addr):
                        skipped_pages = (found_addr - start_addr) // PAGE_BYTES if kind == RunKind.DATA else 0
                        index = page_index + skipped_pages
                        yield Segment(
                            found_addr, found_end_addr, _SEGMENT_KINDS[kind], level.round, index, self._object
                        )
            wanted.demand_none(position, wanted.end_addr, level.round)
            if not wanted:
                return
        wanted.demand_none(wanted.start_addr, wanted.end_addr, self._levels[-1].round)

    def read(self, number: int, page_index: int, n_pages: int) -> bytes:
        """Pages by their position in the pages file of round `number`; raises ImageCorrupt, StorageError."""
        return self.level(number).read(page_index, n_pages)

    def level(self, number: int) -> PageSource:
        """What round `number` has of the process."""
        return self._level_of[number]


class _Wanted:
    """Pages that are looked for, in ranges of `[start_addr, end_addr)`; true while there are any."""

    def __init__(self, ranges: list[runs.Range], owner: str) -> None:
        self.start_addr, self.end_addr = ranges[0][0], ranges[-1][1]
        self._owner = owner
        self._flags = bytearray((self.end_addr - self.start_addr) // PAGE_BYTES)  # of each page
        for start_addr, end_addr in ranges:
            first, end = self._position(start_addr), self._position(end_addr)
            self._flags[first:end] = bytes((1,)) * (end - first)

    def __bool__(self) -> bool:
        return self._flags.find(1) >= 0

    def take(self, start_addr: int, end_addr: int) -> Iterator[runs.Range]:
        """Those in a range, which are found and not wanted any more."""
        end = self._position(end_addr)
        first = self._flags.find(1, self._position(start_addr), end)
        while first >= 0:
            stop = self._flags.find(0, first, end)
            stop = end if stop < 0 else stop
            self._flags[first:stop] = bytes(stop - first)
            yield self.start_addr + first * PAGE_BYTES, self.start_addr + stop * PAGE_BYTES
            first = self._flags.find(1, stop, end)

    def demand_none(self, start_addr: int, end_addr: int, number: int) -> None:
        """Where round `number` has no run, no later round may have sent us there. Raises ImageCorrupt."""
        page = self._flags.find(1, self._position(start_addr), self._position(end_addr))
        if page >= 0:
            raise unreachable(self._owner, self.start_addr + page * PAGE_BYTES, number)

    def _position(self, addr: int) -> int:
        return (addr - self.start_addr) // PAGE_BYTES


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


def unreachable(owner: str, page_addr: int, number: int) -> ImageCorrupt:
    """The error for a page that a round leaves to round `number`, which does not have it either."""
    return ImageCorrupt(
        f"Page {page_addr:#x} of {owner} refers to its parent round, but "
        f"round {number}, where that leads, does not have it.",
        addr=page_addr,
        round=number,
    )
