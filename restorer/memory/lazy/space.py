"""The memory of one process that runs before its pages are there."""

from __future__ import annotations

import os
from collections.abc import Iterator

from dumper.kernel import missing
from formats.chain import MemoryView
from formats.layout import PAGE_BYTES
from formats.segments import Segment, SegmentKind
from restorer.memory.lazy.areas import Area, Areas

_WINDOW_BYTES = 16 * PAGE_BYTES
_PIECE_PAGES = 64


class Space:
    """Pages from a view of the image into a userfaultfd: those that somebody waits for, and one after the other."""

    def __init__(self, uffd: int, view: MemoryView, areas: Areas) -> None:
        """`view` is the one of the process in the image that this one is, or was forked from; it stays open."""
        self.uffd = uffd
        self.areas = areas
        self._view = view
        self._rest = _pieces(view)
        self._next: Segment | None = None
        self._waiting: list[int] = []

    def close(self) -> None:
        """All is there; the kernel answers for the rest."""
        os.close(self.uffd)

    def handle(self) -> list[Space]:
        """What its process has done and asks for; the memory of children that it has got.

        Raises ProcessLookupError if there is no such memory any more, ImageCorrupt, StorageError, OSError.
        """
        children: list[Space] = []
        for message in missing.read_messages(self.uffd):
            # All before the first page: a page that is asked for may have been dropped right after that.
            if isinstance(message, missing.Fault):
                self._waiting.append(message.addr)
            elif isinstance(message, missing.Moved):
                self.areas.move(message.from_addr, message.to_addr, message.n_bytes)
            elif isinstance(message, missing.Dropped):
                self.areas.drop(message.start_addr, message.end_addr)
            else:
                children.append(Space(message.uffd, self._view, self.areas.copy()))
        self._answer()
        return children

    def bring_more(self) -> bool:
        """Some pages that nobody has asked for yet; False once all are there. Raises as `handle`."""
        self._answer()
        if self._next is None:
            self._next = next(self._rest, None)
        if self._next is None:
            return bool(self._waiting)
        if all(self._bring(self._next, place) for place in self.areas.places_of(*_range(self._next))):
            self._next = None
        return True

    def _answer(self) -> None:
        while self._waiting and self._bring_asked(self._waiting[0]):
            self._waiting.pop(0)

    def _bring_asked(self, addr: int) -> bool:
        """The page at `addr`, with its neighbours; False if there is something to be read first."""
        page_addr = addr - addr % PAGE_BYTES
        area = self.areas.at(page_addr)
        if area is None:
            return self._bring_zeros(page_addr)
        start_addr = max(area.start_addr, page_addr - page_addr % _WINDOW_BYTES) - area.shift
        end_addr = min(area.end_addr, page_addr - page_addr % _WINDOW_BYTES + _WINDOW_BYTES) - area.shift
        image_addr = page_addr - area.shift
        for segment in self._view.own_segments(start_addr, end_addr):
            if segment.kind is SegmentKind.DATA:
                place = Area(segment.start_addr + area.shift, segment.end_addr + area.shift, area.shift)
                if not self._bring(segment, place):
                    return False
            elif segment.start_addr <= image_addr < segment.end_addr and not self._bring_zeros(page_addr):
                return False
        return True

    def _bring(self, segment: Segment, place: Area) -> bool:
        first = place.start_addr - place.shift - segment.start_addr
        n_bytes = place.end_addr - place.start_addr
        content = self._view.read_pages(segment, segment.page_index + first // PAGE_BYTES, n_bytes // PAGE_BYTES)
        done = 0
        try:
            while done < n_bytes:
                done += missing.copy(self.uffd, place.start_addr + done, memoryview(content)[done:])
        except BlockingIOError:
            return False
        return True

    def _bring_zeros(self, page_addr: int) -> bool:
        try:
            missing.zero(self.uffd, page_addr, PAGE_BYTES)
        except BlockingIOError:
            return False
        return True


def _range(segment: Segment) -> tuple[int, int]:
    return segment.start_addr, segment.end_addr


def _pieces(view: MemoryView) -> Iterator[Segment]:
    """What was written last first, in pieces that do not keep anybody waiting."""
    for segment in view.own_segments_newest_first():
        for addr in range(segment.start_addr, segment.end_addr, _PIECE_PAGES * PAGE_BYTES):
            end_addr = min(addr + _PIECE_PAGES * PAGE_BYTES, segment.end_addr)
            page_index = segment.page_index + (addr - segment.start_addr) // PAGE_BYTES
            yield Segment(addr, end_addr, segment.kind, segment.round, page_index)
