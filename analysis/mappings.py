"""The mappings of a process as a round has them: pages by kind, what they take on disk, how often they were written.

Nothing is read for it but the manifest and one seek table: DATA pages are stored in the order of their addresses, so
those of a mapping lie in one piece behind those of the mappings before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise

from analysis.selection import VmaSelection
from analysis.written import WrittenPages
from formats import runs
from formats.errors import PredumpError
from formats.images import Round
from formats.layout import PAGE_BYTES
from formats.manifest import ANONYMOUS_VMA_KINDS, SPARSE_OBJECT_KINDS, Process, Vma


class PageKind(StrEnum):
    """Where the pages of a mapping are, as far as the manifest tells."""

    DATA = "data"
    PARENT = "parent"
    ZERO = "zero"
    OBJECT = "object"
    """In the memory object behind the mapping, as far as that has so many."""
    FILE = "file"
    """Not in the image: clean pages of a file, of a device, of shared memory before the dump."""
    HOLE = "hole"
    """Memory without a file that was never touched."""
    UNREADABLE = "unreadable"


class Order(StrEnum):
    """What mappings can be sorted by: all but the address from the largest down."""

    ADDRESS = "address"
    SIZE = "size"
    PRESENT = "present"
    DATA = "data"
    STORED = "stored"
    WRITTEN = "written"


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping.

    `stored_bytes` are its part of the frames that hold its DATA pages, None if the round does not tell;
    `pages_rewritten` are pages that rounds found written, summed up, None where no round could tell.
    """

    vma: Vma
    pages: dict[PageKind, int]
    stored_bytes: int | None
    pages_rewritten: int | None

    @property
    def pages_own(self) -> int:
        """Pages that the process itself has here."""
        return self.pages[PageKind.DATA] + self.pages[PageKind.PARENT] + self.pages[PageKind.ZERO]

    @property
    def pages_present(self) -> int:
        """Pages with content."""
        return self.pages_own + self.pages[PageKind.OBJECT]

    @property
    def times_written(self) -> float | None:
        """How often each of its own pages was written, on average, as far as rounds saw it."""
        if self.pages_rewritten is None or not self.pages_own:
            return None
        return self.pages_rewritten / self.pages_own


class Mappings:
    """All mappings of a process, by their place in `process.vmas`; each is made when asked for: there may be many."""

    def __init__(self, info: Round, process: Process, written: WrittenPages) -> None:
        """`written` is of the same process. Of damaged files it is not known what mappings take there."""
        self._vmas = process.vmas
        self._written = written
        self._objects = {item.id: item for item in info.manifest.objects}
        self._gaps = list(runs.merge(sorted((gap.start_addr, gap.end_addr) for gap in process.unreadable)))
        self._stored_bytes = _stored_bytes(info, process)

    def __len__(self) -> int:
        return len(self._vmas)

    def mapping(self, index: int) -> Mapping:
        """One of them."""
        return Mapping(
            vma=self._vmas[index],
            pages=self._pages_of(self._vmas[index]),
            stored_bytes=self._stored_bytes[index] if self._stored_bytes else None,
            pages_rewritten=self._written.pages[index] if self._written.n_rounds else None,
        )

    def chosen(self, selection: VmaSelection, order: Order = Order.ADDRESS) -> list[int]:
        """Those that are meant, in that order; of equals the one with the lower address comes first."""
        found = [index for index, vma in enumerate(self._vmas) if selection.has(vma)]
        if order is not Order.ADDRESS:
            found.sort(key=lambda index: _RANK[order](self.mapping(index)), reverse=True)
        return found

    def _pages_of(self, vma: Vma) -> dict[PageKind, int]:
        absent = max(vma.pages_absent, 0)
        gaps = runs.intersect([(vma.start_addr, vma.end_addr)], self._gaps_in(vma))
        unreadable = min(runs.total(gaps) // PAGE_BYTES, absent)
        absent -= unreadable
        held = self._objects.get(vma.object) if vma.object is not None else None
        in_object = min(held.pages_data + held.pages_zero, absent) if held else 0
        absent -= in_object
        sparse = vma.kind in ANONYMOUS_VMA_KINDS or (held is not None and held.kind in SPARSE_OBJECT_KINDS)
        return {
            PageKind.DATA: vma.pages_data,
            PageKind.PARENT: vma.pages_parent,
            PageKind.ZERO: vma.pages_zero,
            PageKind.OBJECT: in_object,
            PageKind.FILE: 0 if sparse else absent,
            PageKind.HOLE: absent if sparse else 0,
            PageKind.UNREADABLE: unreadable,
        }

    def _gaps_in(self, vma: Vma) -> Iterator[runs.Range]:
        return runs.overlapping(self._gaps, vma.start_addr, vma.end_addr)


def _stored_bytes(info: Round, process: Process) -> list[int] | None:
    """What each mapping takes of the file of pages, None if that does not fit the manifest."""
    ends_bytes = list(accumulate((vma.pages_data * PAGE_BYTES for vma in process.vmas), initial=0))
    if not ends_bytes[-1]:
        return [0] * len(process.vmas)
    try:
        with closing(info.pages_of(process).open_frames()) as frames:
            if frames.content_bytes != ends_bytes[-1]:
                return None
            stored = list(map(frames.stored_before, ends_bytes))
    except PredumpError:
        return None  # `analysis.survey` says what is wrong with it
    return [end - start for start, end in pairwise(stored)]


_RANK: dict[Order, Callable[[Mapping], float]] = {
    Order.SIZE: lambda mapping: mapping.vma.n_pages,
    Order.PRESENT: lambda mapping: mapping.pages_present,
    Order.DATA: lambda mapping: mapping.pages[PageKind.DATA],
    Order.STORED: lambda mapping: mapping.stored_bytes or 0,
    Order.WRITTEN: lambda mapping: mapping.times_written or 0,
}
