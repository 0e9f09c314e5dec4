"""The memory of one process that runs before its pages are there."""

from __future__ import annotations

import os

from dumper.kernel import missing
from formats.layout import PAGE_BYTES
from formats.segments import SegmentKind
from restorer.memory.frames import Job, Portion
from restorer.memory.lazy.areas import Areas
from restorer.memory.lazy.source import Source

_WINDOW_BYTES = 64 * PAGE_BYTES
"""What somebody waits for comes with its neighbours, as much as a frame of the image has."""


class Space:
    """Pages from a view of the image into a userfaultfd: those that somebody waits for, and one after the other."""

    def __init__(self, uffd: int, source: Source, areas: Areas) -> None:
        """`source` has the pages of the process that this one is, or was forked from; it stays open."""
        self.uffd = uffd
        self.areas = areas
        self._source = source
        self._rest = source.all_of_it()
        self._next: tuple[Portion, Job, bytes] | None = None
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
                children.append(Space(message.uffd, self._source, self.areas.copy()))
        self._answer()
        return children

    def bring_more(self) -> bool:
        """Some pages that nobody has asked for yet; False once all are there. Raises as `handle`."""
        self._answer()
        if self._next is None:
            self._next = next(self._rest, None)
        if self._next is None:
            return bool(self._waiting)
        if self._bring_frame(*self._next):
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
            start_addr, end_addr = page_addr, page_addr + PAGE_BYTES
            is_there = self._bring_zeros(start_addr, end_addr)
        else:
            window_addr = page_addr - page_addr % _WINDOW_BYTES
            start_addr = max(area.start_addr, window_addr)
            end_addr = min(area.end_addr, window_addr + _WINDOW_BYTES)
            is_there = self._bring_window(start_addr, end_addr, area.shift)
        if is_there:  # not before: it would ask for the next page right away
            missing.wake(self.uffd, start_addr, end_addr - start_addr)
        return is_there

    def _bring_window(self, start_addr: int, end_addr: int, shift: int) -> bool:
        for segment in self._source.view.own_segments(start_addr - shift, end_addr - shift):
            if segment.kind is SegmentKind.DATA:
                parts = self._source.read(segment)
                is_there = all(self._bring(addr + shift, content) for addr, content in parts)
            else:  # each of them would be asked for by itself
                is_there = self._bring_zeros(segment.start_addr + shift, segment.end_addr + shift)
            if not is_there:
                return False
        return True

    def _bring_frame(self, portion: Portion, job: Job, content: bytes) -> bool:
        if not self.areas.are_whole:
            return self._bring_parts(portion, job, memoryview(content))
        try:
            portion.table.copy(self.uffd, content, job.first_page, job.first_run, job.end_run)
        except BlockingIOError:
            return False
        return True

    def _bring_parts(self, portion: Portion, job: Job, content: memoryview) -> bool:
        """A frame of which some belongs elsewhere by now, or nowhere."""
        for start_addr, end_addr, offset_bytes in portion.parts(job):
            for place in self.areas.places_of(start_addr, end_addr):
                first = offset_bytes + place.start_addr - place.shift - start_addr
                if not self._bring(place.start_addr, content[first : first + place.n_bytes]):
                    return False
        return True

    def _bring(self, addr: int, content: memoryview) -> bool:
        done = 0
        try:
            while done < len(content):
                done += missing.copy(self.uffd, addr + done, content[done:])
        except BlockingIOError:
            return False
        return True

    def _bring_zeros(self, start_addr: int, end_addr: int) -> bool:
        try:
            missing.zero(self.uffd, start_addr, end_addr - start_addr)
        except BlockingIOError:
            return False
        return True
