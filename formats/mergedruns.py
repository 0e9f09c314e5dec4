"""The runs of segments: written to a pagemap, those that belong together as one, and counted by VMA."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from formats.errors import ImageCorrupt
from formats.layout import PAGE_BYTES, RUN, RUN_MAX_PAGES, RunKind
from formats.manifest import Vma
from formats.pagemap import PagemapWriter
from formats.segments import Segment, SegmentKind


class RunMerger:
    """Writes the runs of segments that ascend; those that belong together become one. Counts their pages."""

    def __init__(self, pagemap: PagemapWriter) -> None:
        self.data_pages = 0
        self.zero_pages = 0
        self._pagemap = pagemap
        self._start_addr = self._end_addr = 0
        self._kind = RunKind.ZERO

    def add(self, segment: Segment) -> None:
        """Raises StorageError."""
        kind = RunKind.DATA if segment.kind is SegmentKind.DATA else RunKind.ZERO
        if (segment.start_addr, kind) != (self._end_addr, self._kind):
            self.finish()
            self._start_addr, self._kind = segment.start_addr, kind
        self._end_addr = segment.end_addr

    def finish(self) -> None:
        """Write what has been added; raises StorageError."""
        while self._start_addr < self._end_addr:
            n_pages = min((self._end_addr - self._start_addr) // PAGE_BYTES, RUN_MAX_PAGES)
            is_data = self._kind is RunKind.DATA
            self._pagemap.append(RUN.pack(self._start_addr, n_pages, self._kind, self.data_pages if is_data else 0))
            if is_data:
                self.data_pages += n_pages
            else:
                self.zero_pages += n_pages
            self._start_addr += n_pages * PAGE_BYTES


class VmaCounts:
    """Counts pages of data and of zeros in each VMA."""

    def __init__(self, vmas: list[Vma], pagemap_path: Path) -> None:
        self._vmas = vmas
        self._data_pages = [0] * len(vmas)
        self._zero_pages = [0] * len(vmas)
        self._path = pagemap_path

    def counted(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        """The same segments, which ascend. Raises ImageCorrupt for one that is not in VMAs."""
        index = 0
        for segment in segments:
            counts = self._data_pages if segment.kind is SegmentKind.DATA else self._zero_pages
            position = segment.start_addr
            while position < segment.end_addr:
                while index < len(self._vmas) and self._vmas[index].end_addr <= position:
                    index += 1
                if index == len(self._vmas) or self._vmas[index].start_addr > position:
                    raise ImageCorrupt(
                        f"{self._path} is damaged: a run covers {position:#x}, in no VMA.", path=str(self._path)
                    )
                end_addr = min(segment.end_addr, self._vmas[index].end_addr)
                counts[index] += (end_addr - position) // PAGE_BYTES
                position = end_addr
            yield segment

    def vmas(self) -> list[Vma]:
        """The VMAs with what was counted."""
        return [
            replace(vma, pages_data=data_pages, pages_zero=zero_pages, pages_parent=0)
            for vma, data_pages, zero_pages in zip(self._vmas, self._data_pages, self._zero_pages, strict=True)
        ]
