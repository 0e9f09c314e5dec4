"""The pages of the memory objects of a round, from files that are opened when they are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from formats import runs
from formats.closing import Closing
from formats.errors import ImageCorrupt
from formats.images import Frames, PageSource, Round
from formats.lineage import PageLineage
from formats.manifest import SPARSE_OBJECT_KINDS, MemoryObject
from formats.segments import Segment, SegmentKind

_OPEN_OBJECTS = 8


class ObjectSources(Closing):
    """The memory objects of a round, by id and offset; not for use by two threads at once.

    However many objects there are, the files of a few are open at a time.
    """

    def __init__(self, info: Round) -> None:
        self.round = info.number
        self._info = info
        self._objects = {item.id: item for item in info.manifest.objects}
        self._gaps = {item.id: _gaps_of(item) for item in info.manifest.objects if item.unreadable}
        self._open: dict[int, PageLineage] = {}  # the one used last comes last
        self._in_use: Counter[int] = Counter()

    def close(self) -> None:
        """Close all files; reading is over. May be called again."""
        for pages in self._open.values():
            pages.close()

    def segments(self, number: int, start_bytes: int, end_bytes: int) -> Iterator[Segment]:
        """The page range of object `number` by offset, in order; raises ImageCorrupt, StorageError."""
        held_end_bytes = self._objects[number].pages_end_bytes
        self._in_use[number] += 1
        try:
            for segment in self._pages(number).segments(start_bytes, end_bytes):
                if segment.kind is not SegmentKind.ABSENT and segment.end_addr > held_end_bytes:
                    raise self._corrupt(number, max(segment.start_addr, held_end_bytes))
                yield segment
        finally:
            self._in_use[number] -= 1

    def zeros(self, number: int, start_bytes: int, end_bytes: int) -> Iterator[runs.Range]:
        """Which pages of a hole are known to be zeros, in order."""
        held = self._objects[number]
        end_bytes = min(end_bytes, held.pages_end_bytes)
        if held.kind in SPARSE_OBJECT_KINDS and start_bytes < end_bytes:
            gaps = runs.overlapping(self._gaps.get(number, []), start_bytes, end_bytes)
            yield from runs.subtract([(start_bytes, end_bytes)], gaps)

    def why_absent(self, number: int, offset_bytes: int) -> str:
        """The rest of a sentence on a page of a hole that is not known to be zero."""
        held = self._objects[number]
        name = held.path or "(no path)"
        if offset_bytes >= held.pages_end_bytes:
            return f"lies past the end of {name}, which has {held.size_bytes} bytes"
        for gap in held.unreadable:
            if gap.start_addr <= offset_bytes < gap.end_addr:
                return f"could not be read ({gap.reason})"
        return f"is in no round: it is memory of {name} from byte {offset_bytes:#x} on"

    def read(self, segment: Segment, page_index: int, n_pages: int) -> bytes:
        """Pages of the file that a DATA segment lies in, by their position; raises ImageCorrupt, StorageError."""
        return self._level(segment).read(page_index, n_pages)

    def open_frames(self, segment: Segment) -> Frames:
        """That file once more, as PageSource.open_frames; raises ImageCorrupt, StorageError."""
        return self._level(segment).open_frames()

    def _level(self, segment: Segment) -> PageSource:
        if segment.object is None:
            raise ValueError("it is a segment of no object")
        return self._pages(segment.object).level(segment.round)

    def _pages(self, number: int) -> PageLineage:
        pages = self._open.pop(number, None)
        if pages is None:
            self._make_room()
            pages = PageLineage(f"memory object {number}", self._info.levels_of_object(number), number)
        self._open[number] = pages
        return pages

    def _make_room(self) -> None:
        for number in list(self._open):
            if len(self._open) < _OPEN_OBJECTS:
                return
            if not self._in_use[number]:
                self._open.pop(number).close()

    def _corrupt(self, number: int, offset_bytes: int) -> ImageCorrupt:
        path = self._info.path
        return ImageCorrupt(
            f"{path} is damaged: the page at offset {offset_bytes:#x} of memory object {number} lies past its end.",
            path=str(path),
        )


def _gaps_of(held: MemoryObject) -> list[runs.Range]:
    return list(runs.merge(sorted((gap.start_addr, gap.end_addr) for gap in held.unreadable)))
