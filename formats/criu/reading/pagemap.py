"""The pagemap of a process or of shared memory in CRIU's images: which pages there are, and where.

Entries become runs of our own: PRESENT is DATA, PARENT is PARENT. Pages that are LAZY without being PRESENT stayed with
the process; they are in no image.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.unknown_fields import UnknownFieldSet

from formats.criu.framing import ImageReader, Magic
from formats.criu.images_pb2 import PagemapEntry, PagemapHead
from formats.criu.values import PageFlags
from formats.errors import ImageCorrupt, ImageVersionUnsupported
from formats.layout import ADDR_LIMIT, PAGE_BYTES, RunKind
from formats.pagemap import Run
from formats.runs import Range

MAX_ENTRIES = 1 << 24
"""Entries of one pagemap (inclusive), which are held in 25 bytes each."""

_ELSEWHERE = 0
_PRESENT, _PARENT, _LAZY = PageFlags.PRESENT.value, PageFlags.PARENT.value, PageFlags.LAZY.value
_KNOWN = _PRESENT | _PARENT | _LAZY


class CriuPagemap:
    """The entries of a file, checked as a whole; for any number of threads.

    `pages_id` names the file of the pages, which has `data_pages` of them.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ImageCorrupt, ImageVersionUnsupported, StorageError."""
        self._path = path
        self._starts_addr = array("Q")
        self._ends_addr = array("Q")
        self._page_indexes = array("Q")
        self._kinds = bytearray()
        with ImageReader(path, Magic.PAGEMAP) as reader:
            self.pages_id = reader.read(PagemapHead).pages_id
            self._load(reader.rest(PagemapEntry))

    def runs(self, start_addr: int = 0, end_addr: int = ADDR_LIMIT) -> Iterator[Run]:
        """The runs inside `[start_addr, end_addr)` in order, clipped to that page range."""
        for position in self._positions(start_addr, end_addr):
            kind = self._kinds[position]
            if kind == _ELSEWHERE:
                continue
            first_addr, last_addr = self._starts_addr[position], self._ends_addr[position]
            run = Run(first_addr, (last_addr - first_addr) // PAGE_BYTES, RunKind(kind), self._page_indexes[position])
            if first_addr < start_addr or last_addr > end_addr:
                run = run.clip(start_addr, end_addr)
            yield run

    def elsewhere(self) -> Iterator[Range]:
        """Pages that the process had and no image has, in order."""
        for position, kind in enumerate(self._kinds):
            if kind == _ELSEWHERE:
                yield self._starts_addr[position], self._ends_addr[position]

    def _positions(self, start_addr: int, end_addr: int) -> Iterator[int]:
        for position in range(bisect_right(self._ends_addr, start_addr), len(self._kinds)):
            if self._starts_addr[position] >= end_addr:
                return
            yield position

    def _load(self, entries: Iterator[PagemapEntry]) -> None:
        previous_end_addr = 0
        page_index = 0  # of the next page that is here
        for entry in entries:
            start_addr = entry.start_addr
            n_pages = entry.n_pages if entry.HasField("n_pages") else entry.n_pages_32
            end_addr = start_addr + n_pages * PAGE_BYTES
            kind = self._kind(entry)
            if start_addr % PAGE_BYTES or not n_pages:
                raise self._corrupt(start_addr, "is not one of whole pages")
            if start_addr < previous_end_addr:
                raise self._corrupt(start_addr, "begins before the one ahead of it ends")
            if end_addr > ADDR_LIMIT:
                raise self._corrupt(start_addr, "ends where no memory can be")
            previous_end_addr = end_addr
            if kind is not None:
                self._add(start_addr, end_addr, kind, page_index if kind == RunKind.DATA else 0)
                page_index += n_pages if kind == RunKind.DATA else 0
        self.data_pages = page_index

    def _add(self, start_addr: int, end_addr: int, kind: int, page_index: int) -> None:
        """The next entry, which may go on where the last one ends: then the pages of both follow one another, too."""
        if self._kinds and self._kinds[-1] == kind and self._ends_addr[-1] == start_addr:
            self._ends_addr[-1] = end_addr
            return
        if len(self._kinds) >= MAX_ENTRIES:
            raise ImageCorrupt(f"{self._path} has more than {MAX_ENTRIES} entries.", path=str(self._path))
        self._starts_addr.append(start_addr)
        self._ends_addr.append(end_addr)
        self._page_indexes.append(page_index)
        self._kinds.append(kind)

    def _kind(self, entry: PagemapEntry) -> int | None:
        """What an entry stands for, None if it says nothing of its pages."""
        flags = entry.flags
        if len(UnknownFieldSet(entry)) or flags & ~_KNOWN:
            raise ImageVersionUnsupported(
                f"{self._path} has an entry at {entry.start_addr:#x} of a kind that is not known here, such as "
                "compressed pages.",
                hint="Have CRIU dump again without compression.",
                path=str(self._path),
            )
        if entry.in_parent:
            flags |= _PARENT
        elif not entry.HasField("flags"):
            flags = _PRESENT
        if flags & _PARENT and flags & _PRESENT:
            raise self._corrupt(entry.start_addr, "is here and in the parent")
        if flags & _PRESENT:
            return RunKind.DATA.value
        if flags & _PARENT:
            return RunKind.PARENT.value
        return _ELSEWHERE if flags & _LAZY else None

    def _corrupt(self, start_addr: int, problem: str) -> ImageCorrupt:
        return ImageCorrupt(f"{self._path} is damaged: the entry at {start_addr:#x} {problem}.", path=str(self._path))
