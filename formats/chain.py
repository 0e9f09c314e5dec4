"""The chain of rounds as a reader sees it: the memory of a process as of a round.

`formats.lineage` finds the process's own pages. What is absent there may be in one of that round's memory
objects, which hold the bytes of shared memory and of deleted files once for all processes:

    process           |  data  | (hole) | parent | (hole) |
    its VMA's object  |  data  |  data  |  data  | (hole) |
    memory            process's object's process's  zero
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace

from formats import runs
from formats.checkpoint import Checkpoint, RoundInfo
from formats.closing import Closing
from formats.errors import AddressAbsent, UsageError
from formats.images import Frames, Images
from formats.layout import PAGE_BYTES
from formats.lineage import PageLineage
from formats.manifest import ANONYMOUS_VMA_KINDS, Vma
from formats.segments import Segment, SegmentKind
from formats.sources import ObjectSources

__all__ = [
    "AddressAbsent",
    "Checkpoint",
    "MemoryView",
    "RoundInfo",
    "Segment",
    "SegmentKind",
]


class MemoryView(Closing):
    """Memory of one process as of a round; a context manager, not for use by two threads at once.

    `process` is the process as that round recorded it.
    """

    def __init__(self, images: Images, number: int | None = None, pid: int | None = None) -> None:
        """View round `number` (the selected one by default), process `pid` (the root process).

        Raises UsageError for a round or process that is not there, ParentMissing, ImageCorrupt,
        ImageVersionUnsupported, StorageError.
        """
        info = images.round(number)
        pid = info.manifest.root_pid if pid is None else pid
        process = info.process(pid)
        if process is None:
            pids = ", ".join(str(item.pid) for item in info.manifest.processes[:20])
            raise UsageError(
                f"Round {info.number} of {images.path} has no process {pid}.",
                hint=f"It has: {pids}.",
                pid=pid,
                round=info.number,
            )
        self.process = process
        self._own = PageLineage(f"process {pid}", list(images.levels_of(process, number)))
        self._objects = ObjectSources(info)
        self._uses_objects = any(vma.object is not None for vma in process.vmas)
        self._vma_starts_addr = [vma.start_addr for vma in process.vmas]
        self._gaps = list(runs.merge(sorted((gap.start_addr, gap.end_addr) for gap in process.unreadable)))

    def close(self) -> None:
        """Close all files; reading is over. May be called again."""
        self._own.close()
        self._objects.close()

    @property
    def vmas(self) -> list[Vma]:
        """The VMAs of the process in that round, ascending."""
        return self.process.vmas

    def segments(self, start_addr: int, end_addr: int) -> Iterator[Segment]:
        """All of the page range `[start_addr, end_addr)` in order, with PARENT runs and objects resolved.

        Raises ImageCorrupt, StorageError.
        """
        for segment in self._own.segments(start_addr, end_addr):
            if segment.kind is SegmentKind.ABSENT and self._uses_objects:
                yield from self._behind(segment)
            else:
                yield segment

    def own_segments(self, start_addr: int, end_addr: int, since: int = 0) -> Iterator[Segment]:
        """The same of the process's own pages alone: what lies in an object is ABSENT. Raises as `segments`.

        Pages that are as they were in round `since`, or before, are passed over.
        """
        return self._own.segments(start_addr, end_addr, since)

    def chunks(
        self, start_addr: int, end_addr: int, max_bytes: int = 1 << 20
    ) -> Iterator[tuple[int, int, bytes | None]]:
        """The page range in order as `(start_addr, end_addr, content)`, content None if absent.

        A chunk with content has at most `max_bytes` (at least a page), an absent one any size.
        Raises ImageCorrupt, StorageError.
        """
        if max_bytes < PAGE_BYTES:
            raise ValueError(f"max_bytes is {max_bytes}, less than a page")
        step_pages = max_bytes // PAGE_BYTES
        for segment in self.segments(start_addr, end_addr):
            if segment.kind is SegmentKind.ABSENT:
                yield segment.start_addr, segment.end_addr, None
                continue
            addr = segment.start_addr
            page_index = segment.page_index
            while addr < segment.end_addr:
                n_pages = min(step_pages, (segment.end_addr - addr) // PAGE_BYTES)
                if segment.kind is SegmentKind.DATA:
                    content = self.read_pages(segment, page_index, n_pages)
                else:
                    content = bytes(n_pages * PAGE_BYTES)
                yield addr, addr + n_pages * PAGE_BYTES, content
                addr += n_pages * PAGE_BYTES
                page_index += n_pages

    def open_frames(self, segment: Segment) -> Frames:
        """The file that the pages of a DATA segment are in, for threads; whoever opens it closes it.

        Raises ImageCorrupt, StorageError.
        """
        if segment.object is not None:
            return self._objects.open_frames(segment)
        return self._own.level(segment.round).open_frames()

    def read(self, addr: int, length: int) -> bytes:
        """`length` bytes from any address on; absent pages of anonymous VMAs are zeros.

        The result is held in memory: read large ranges with `chunks`. Raises AddressAbsent for
        addresses outside any VMA, for pages of a file that the target had not changed or that lie
        past its end, and for ranges that could not be read; ImageCorrupt, StorageError.
        """
        end_addr = addr + length
        if addr < 0 or length < 0:
            raise UsageError(f"There are no {length} bytes at address {addr:#x}.")
        if not length:
            return b""
        first_page_addr = addr - addr % PAGE_BYTES
        last_page_end_addr = end_addr + -end_addr % PAGE_BYTES
        self._check_mapped(first_page_addr, last_page_end_addr)
        content = b"".join(
            self._zeros(start, end) if chunk is None else chunk
            for start, end, chunk in self.chunks(first_page_addr, last_page_end_addr)
        )
        return content[addr - first_page_addr : end_addr - first_page_addr]

    def read_pages(self, segment: Segment, page_index: int, n_pages: int) -> bytes:
        """Pages of a DATA segment of this view, by their position in its pages file.

        Raises ImageCorrupt, StorageError.
        """
        if segment.object is not None:
            return self._objects.read(segment, page_index, n_pages)
        return self._own.read(segment.round, page_index, n_pages)

    def vmas_in(self, start_addr: int, end_addr: int) -> Iterator[Vma]:
        """The VMAs that overlap `[start_addr, end_addr)`, ascending."""
        first = max(0, bisect_right(self._vma_starts_addr, start_addr) - 1)
        for position in range(first, len(self.vmas)):
            vma = self.vmas[position]
            if vma.start_addr >= end_addr:
                return
            if vma.end_addr > start_addr:
                yield vma

    def _behind(self, hole: Segment) -> Iterator[Segment]:
        """A range that the process has no pages of, as the objects behind its VMAs have it."""
        position = hole.start_addr
        for vma in self.vmas_in(hole.start_addr, hole.end_addr):
            if vma.object is None:
                continue
            start_addr = max(position, vma.start_addr)
            end_addr = min(hole.end_addr, vma.end_addr)
            if position < start_addr:
                yield replace(hole, start_addr=position, end_addr=start_addr)
            shift = vma.start_addr - vma.offset_bytes
            for piece in self._objects.segments(vma.object, start_addr - shift, end_addr - shift):
                if piece.kind is SegmentKind.ABSENT:
                    yield from self._hole_of_object(vma.object, piece.start_addr, piece.end_addr, shift)
                else:
                    yield replace(piece, start_addr=piece.start_addr + shift, end_addr=piece.end_addr + shift)
            position = end_addr
        if position < hole.end_addr:
            yield replace(hole, start_addr=position)

    def _hole_of_object(self, number: int, start_bytes: int, end_bytes: int, shift: int) -> Iterator[Segment]:
        """Pages that neither the process nor the object has: zeros where that is known."""
        round_number = self._objects.round
        position = start_bytes + shift
        end_addr = end_bytes + shift
        known = ((start + shift, end + shift) for start, end in self._objects.zeros(number, start_bytes, end_bytes))
        for zero_addr, zero_end_addr in runs.subtract(known, runs.overlapping(self._gaps, position, end_addr)):
            if position < zero_addr:
                yield Segment(position, zero_addr, SegmentKind.ABSENT, round_number, 0)
            yield Segment(zero_addr, zero_end_addr, SegmentKind.ZERO, round_number, 0, number)
            position = zero_end_addr
        if position < end_addr:
            yield Segment(position, end_addr, SegmentKind.ABSENT, round_number, 0)

    def _check_mapped(self, start_addr: int, end_addr: int) -> None:
        mapped = ((vma.start_addr, vma.end_addr) for vma in self.vmas_in(start_addr, end_addr))
        for hole_addr, _ in runs.subtract([(start_addr, end_addr)], mapped):
            raise self._absent(hole_addr, "was not mapped")

    def _zeros(self, start_addr: int, end_addr: int) -> bytes:
        """What absent pages read as; raises AddressAbsent if nobody can know."""
        gap = next(runs.overlapping(self._gaps, start_addr, end_addr), (end_addr, end_addr))
        gap_addr = max(gap[0], start_addr)
        for vma in self.vmas_in(start_addr, gap_addr) if start_addr < gap_addr else ():
            page_addr = max(start_addr, vma.start_addr)
            offset_bytes = vma.offset_bytes + page_addr - vma.start_addr
            if vma.object is not None:
                raise self._absent(page_addr, self._objects.why_absent(vma.object, offset_bytes))
            if vma.kind not in ANONYMOUS_VMA_KINDS:
                raise self._absent(
                    page_addr,
                    f"is in no round: it is {vma.kind} memory, "
                    f"{vma.path or '(no path)'} from byte {offset_bytes:#x} on",
                )
        if gap_addr < end_addr:
            reasons = (gap.reason for gap in self.process.unreadable if gap.start_addr <= gap_addr < gap.end_addr)
            raise self._absent(gap_addr, f"could not be read ({next(reasons)})")
        return bytes(end_addr - start_addr)

    def _absent(self, page_addr: int, problem: str) -> AddressAbsent:
        return AddressAbsent(
            f"Page {page_addr:#x} of process {self.process.pid} {problem}.",
            hint="'predump inspect' lists the VMAs and what of them is in the image.",
            addr=page_addr,
            pid=self.process.pid,
        )
