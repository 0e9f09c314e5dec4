"""The pagemap of a process or of shared memory in CRIU's images: which pages there are, and where.

Entries become runs of our own: PRESENT is DATA, PARENT is PARENT. Pages that are LAZY without being PRESENT stayed with
the process; they are in no image.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from functools import reduce
from itertools import accumulate
from operator import le, lt, or_
from pathlib import Path

from formats.criu.framing import ImageReader, Magic, damage
from formats.criu.images_pb2 import PagemapEntries, PagemapEntry, PagemapHead
from formats.criu.values import PageFlags
from formats.errors import ImageCorrupt, ImageVersionUnsupported
from formats.layout import ADDR_LIMIT, PAGE_BYTES, RunKind
from formats.pagemap import Run
from formats.runs import Range

MAX_ENTRIES = 1 << 24
"""Entries of one pagemap (inclusive), which are held in 25 bytes each."""

_DATA, _PARENT = RunKind.DATA.value, RunKind.PARENT.value
_ELSEWHERE, _NOTHING, _UNUSUAL = 0x80, 0x81, 0x82  # no kinds of runs
_RUN_KINDS = {_DATA: RunKind.DATA, _PARENT: RunKind.PARENT}
_ALL_FLAGS = PageFlags.PARENT | PageFlags.LAZY | PageFlags.PRESENT
_KINDS: dict[int, int] = {
    PageFlags.PRESENT: _DATA,
    PageFlags.PRESENT | PageFlags.LAZY: _DATA,
    PageFlags.PARENT: _PARENT,
    PageFlags.PARENT | PageFlags.LAZY: _PARENT,
    PageFlags.LAZY: _ELSEWHERE,
}
"""By the flags of an entry."""


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
        self.data_pages = 0
        with ImageReader(path, Magic.PAGEMAP) as reader:
            self.pages_id = reader.read(PagemapHead).pages_id
            for batch in reader.gathered(PagemapEntries):
                self._load(batch)

    def runs(self, start_addr: int = 0, end_addr: int = ADDR_LIMIT) -> Iterator[Run]:
        """The runs inside `[start_addr, end_addr)` in order, clipped to that page range."""
        for position in self._positions(start_addr, end_addr):
            kind = _RUN_KINDS.get(self._kinds[position])
            if kind is None:
                continue
            first_addr, last_addr = self._starts_addr[position], self._ends_addr[position]
            page_index = self._page_indexes[position] if kind is RunKind.DATA else 0
            run = Run(first_addr, (last_addr - first_addr) // PAGE_BYTES, kind, page_index)
            if first_addr < start_addr or last_addr > end_addr:
                run = run.clip(start_addr, end_addr)
            yield run

    def counts(self, start_addr: int = 0, end_addr: int = ADDR_LIMIT) -> tuple[int, int]:
        """Pages in a range that are here, and that are in the parent."""
        n_bytes = dict.fromkeys((_DATA, _PARENT, _ELSEWHERE, _NOTHING), 0)
        for position in self._positions(start_addr, end_addr):
            first_addr = max(self._starts_addr[position], start_addr)
            n_bytes[self._kinds[position]] += min(self._ends_addr[position], end_addr) - first_addr
        return n_bytes[_DATA] // PAGE_BYTES, n_bytes[_PARENT] // PAGE_BYTES

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

    def _load(self, batch: PagemapEntries) -> None:
        # Whole columns at a time: there may be millions of entries.
        entries = batch.entries
        flags = [entry.flags for entry in entries]
        if max(flags) > _ALL_FLAGS or _says_more(batch):
            raise ImageVersionUnsupported(
                f"{self._path} has entries of a kind that is not known here, such as compressed pages.",
                hint="Have CRIU dump again without compression.",
                path=str(self._path),
            )
        starts_addr = [entry.start_addr for entry in entries]
        counts = [entry.n_pages or entry.n_pages_32 for entry in entries]
        ends_addr = [start_addr + n_pages * PAGE_BYTES for start_addr, n_pages in zip(starts_addr, counts, strict=True)]
        self._check_places(starts_addr, ends_addr)
        kinds = [_KINDS.get(item, _UNUSUAL) for item in flags]
        if _UNUSUAL in kinds:
            kinds = [
                self._unusual_kind(entry) if kind == _UNUSUAL else kind
                for kind, entry in zip(kinds, entries, strict=True)
            ]
        if len(self._kinds) + len(kinds) > MAX_ENTRIES:
            raise damage(self._path, f"has more than {MAX_ENTRIES} entries")
        stored = (n_pages if kind == _DATA else 0 for kind, n_pages in zip(kinds, counts, strict=True))
        *page_indexes, self.data_pages = accumulate(stored, initial=self.data_pages)
        self._starts_addr.extend(starts_addr)
        self._ends_addr.extend(ends_addr)
        self._page_indexes.extend(page_indexes)
        self._kinds.extend(kinds)

    def _check_places(self, starts_addr: list[int], ends_addr: list[int]) -> None:
        """See to it that all are ranges of whole pages, and ascend."""
        previous_end_addr = self._ends_addr[-1] if self._ends_addr else 0
        if (
            reduce(or_, starts_addr) % PAGE_BYTES == 0
            and starts_addr[0] >= previous_end_addr
            and all(map(lt, starts_addr, ends_addr))
            and all(map(le, ends_addr, starts_addr[1:]))
            and ends_addr[-1] <= ADDR_LIMIT
        ):
            return
        for start_addr, end_addr in zip(starts_addr, ends_addr, strict=True):
            if start_addr % PAGE_BYTES or start_addr == end_addr:
                raise self._corrupt(start_addr, "is not one of whole pages")
            if start_addr < previous_end_addr:
                raise self._corrupt(start_addr, "begins before the one ahead of it ends")
            previous_end_addr = end_addr
        raise self._corrupt(starts_addr[-1], "ends where no memory can be")

    def _unusual_kind(self, entry: PagemapEntry) -> int:
        """What an entry of an old image is, or one that says nothing."""
        if not entry.HasField("flags"):
            return _PARENT if entry.in_parent else _DATA
        if entry.flags & PageFlags.PRESENT:
            raise self._corrupt(entry.start_addr, "is here and in the parent")
        return _PARENT if entry.in_parent else _NOTHING

    def _corrupt(self, start_addr: int, problem: str) -> ImageCorrupt:
        return damage(self._path, f"has an entry at {start_addr:#x} that {problem}")


def _says_more(batch: PagemapEntries) -> bool:
    """Whether an entry has fields that nobody here understands; they are gone then."""
    n_bytes = batch.ByteSize()
    batch.DiscardUnknownFields()
    return batch.ByteSize() != n_bytes
