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

from collections.abc import Iterator, Sequence

from formats.closing import Closing
from formats.errors import ImageCorrupt
from formats.images import PageSource
from formats.layout import ADDR_LIMIT, RunKind
from formats.segments import Segment, SegmentKind


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
        # A stack instead of recursion: a chain may have more rounds than Python has frames.
        levels = self._levels
        stack = [levels[0].pieces(start_addr, end_addr)]
        while stack:
            piece = next(stack[-1], None)
            if piece is None:
                stack.pop()
                continue
            piece_start_addr, piece_end_addr, run = piece
            level = levels[len(stack) - 1]
            if run is None:
                if len(stack) > 1:
                    raise unreachable(self._owner, piece_start_addr, level.round)
                yield Segment(piece_start_addr, piece_end_addr, SegmentKind.ABSENT, level.round, 0, self._object)
            elif run.kind is RunKind.PARENT:
                if len(stack) == len(levels):
                    raise unreachable(self._owner, piece_start_addr, level.round)
                below = levels[len(stack)]
                if below.round > since:
                    stack.append(below.pieces(piece_start_addr, piece_end_addr))
            else:
                kind = SegmentKind.DATA if run.kind is RunKind.DATA else SegmentKind.ZERO
                yield Segment(piece_start_addr, piece_end_addr, kind, level.round, run.page_index, self._object)

    def newest_first(self) -> Iterator[Segment]:
        """All DATA segments: those of the last round first, which was written last, and so on; by address in each.

        Raises as `segments`.
        """
        for level in self._levels:
            for start_addr, end_addr, run in level.pieces(0, ADDR_LIMIT):
                if run is not None and run.kind is RunKind.DATA:
                    found = self.segments(start_addr, end_addr)
                    yield from (one for one in found if one.kind is SegmentKind.DATA and one.round == level.round)

    def read(self, number: int, page_index: int, n_pages: int) -> bytes:
        """Pages by their position in the pages file of round `number`; raises ImageCorrupt, StorageError."""
        return self.level(number).read(page_index, n_pages)

    def level(self, number: int) -> PageSource:
        """What round `number` has of the process."""
        return self._level_of[number]


def unreachable(owner: str, page_addr: int, number: int) -> ImageCorrupt:
    """The error for a page that a round leaves to round `number`, which does not have it either."""
    return ImageCorrupt(
        f"Page {page_addr:#x} of {owner} refers to its parent round, but "
        f"round {number}, where that leads, does not have it.",
        addr=page_addr,
        round=number,
    )
