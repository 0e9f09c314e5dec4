"""Which pages go into CRIU's pagemaps: a process's own and those that it has mapped privately, and shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from formats.closing import Closing
from formats.criu.memory import is_private_anonymous
from formats.criu.pagefiles import NO_PAGES, Pages
from formats.criu.values import PageFlags
from formats.images import Frames, PageSource
from formats.layout import RunKind
from formats.lineage import PageLineage, unreachable
from formats.manifest import MemoryObject, Process
from formats.segments import Segment, SegmentKind
from formats.sources import ObjectSources


class OwnPages(Protocol):
    """A process's own pages, with all that is in no round as NO_PAGES; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    def pages(self, start_addr: int, end_addr: int) -> Iterator[Pages]:
        """All of the page range in order; raises ImageCorrupt, StorageError."""

    def open_frames(self, segment: Segment, /) -> Frames:
        """Where the bytes of a segment of them are; raises ImageCorrupt, StorageError."""


class PagesOfRound(Closing):
    """As a round alone has them: what it leaves to the round before is in the parent."""

    def __init__(self, pid: int, source: PageSource, parent: PageSource | None) -> None:
        """`parent` is what the round before has of the process, None for a full round."""
        self._owner = f"process {pid}"
        self._source = source
        self._parent = parent

    def close(self) -> None:
        self._source.close()
        if self._parent is not None:
            self._parent.close()

    def pages(self, start_addr: int, end_addr: int) -> Iterator[Pages]:
        for start, end, run in self._source.pieces(start_addr, end_addr):
            if run is None:
                yield Pages(start, end, NO_PAGES)
            elif run.kind is RunKind.PARENT:
                self._check_parent(start, end)
                yield Pages(start, end, PageFlags.PARENT)
            elif run.kind is RunKind.ZERO:
                yield Pages(start, end, PageFlags.PRESENT)
            else:
                data = Segment(start, end, SegmentKind.DATA, self._source.round, run.page_index)
                yield Pages(start, end, PageFlags.PRESENT, data)

    def open_frames(self, _segment: Segment, /) -> Frames:
        return self._source.open_frames()

    def _check_parent(self, start_addr: int, end_addr: int) -> None:
        """Raises ImageCorrupt unless the round before has all of the pages."""
        if self._parent is None:
            raise unreachable(self._owner, start_addr, self._source.round)
        for hole_addr, _, run in self._parent.pieces(start_addr, end_addr):
            if run is None:
                raise unreachable(self._owner, hole_addr, self._parent.round)


class PagesOfChain(Closing):
    """From whichever round has them; `levels` as PageLineage takes them."""

    def __init__(self, pid: int, levels: list[PageSource]) -> None:
        self._lineage = PageLineage(f"process {pid}", levels)

    def close(self) -> None:
        self._lineage.close()

    def pages(self, start_addr: int, end_addr: int) -> Iterator[Pages]:
        return map(_pages_of_segment, self._lineage.segments(start_addr, end_addr))

    def open_frames(self, segment: Segment) -> Frames:
        return self._lineage.level(segment.round).open_frames()


class PrivatePages:
    """The pages of a process's pagemap: its own, and those of memory objects that it has mapped privately.

    What is zero in anonymous memory is left out: nothing is the same there.
    """

    def __init__(
        self, process: Process, objects: dict[int, MemoryObject], own: OwnPages, sources: ObjectSources
    ) -> None:
        self._process = process
        self._objects = objects
        self._own = own
        self._sources = sources

    def __iter__(self) -> Iterator[Pages]:
        """In order; raises ImageCorrupt, StorageError."""
        for vma in self._process.vmas:
            if vma.object is not None and vma.is_shared:
                continue
            pages = self._own.pages(vma.start_addr, vma.end_addr)
            if vma.object is not None:
                pages = self._with_object(pages, vma.object, vma.start_addr - vma.offset_bytes)
            yield from map(_lazy, filter(_is_needed, pages)) if is_private_anonymous(vma, self._objects) else pages

    def open_frames(self, segment: Segment) -> Frames:
        """Where the bytes of a segment of them are; raises ImageCorrupt, StorageError."""
        if segment.object is not None:
            return self._sources.open_frames(segment)
        return self._own.open_frames(segment)

    def _with_object(self, own: Iterator[Pages], number: int, shift: int) -> Iterator[Pages]:
        for item in own:
            if item.flags != NO_PAGES:
                yield item
                continue
            for segment in self._sources.segments(number, item.start_addr - shift, item.end_addr - shift):
                pages = _pages_of_segment(segment)
                yield pages._replace(start_addr=pages.start_addr + shift, end_addr=pages.end_addr + shift)


class SharedPages:
    """The pages of a memory object, by offset."""

    def __init__(self, held: MemoryObject, sources: ObjectSources) -> None:
        self._held = held
        self._sources = sources

    def __iter__(self) -> Iterator[Pages]:
        """In order; raises ImageCorrupt, StorageError."""
        segments = self._sources.segments(self._held.id, 0, self._held.pages_end_bytes)
        return filter(_is_needed, map(_pages_of_segment, segments))

    def open_frames(self, segment: Segment) -> Frames:
        """Where the bytes of a segment of them are; raises ImageCorrupt, StorageError."""
        assert segment.object is not None
        return self._sources.open_frames(segment)


def _pages_of_segment(segment: Segment) -> Pages:
    flags = NO_PAGES if segment.kind is SegmentKind.ABSENT else PageFlags.PRESENT
    data = segment if segment.kind is SegmentKind.DATA else None
    return Pages(segment.start_addr, segment.end_addr, flags, data)


def _is_needed(pages: Pages) -> bool:
    """Whether pages differ from none where those are zeros."""
    return pages.data is not None or bool(pages.flags & PageFlags.PARENT)


def _lazy(pages: Pages) -> Pages:
    """CRIU marks private anonymous pages so: a restore may bring them later."""
    return pages if pages.data is None else pages._replace(flags=pages.flags | PageFlags.LAZY)
