"""Pages of two rounds, compared: by where they are stored as far as that says it, else byte by byte.

Both sides are cut at each other's borders, so that a piece is of one kind on each:

    before   |   data of round 1    |    zero    |      absent     |
    after    | data of 1 | data of 3        |  data of 3 | absent  |
              the same     compared   read     read        the same
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from analysis.diff.sides import Holding, Piece, Side
from analysis.diff.touched import TouchedPages
from analysis.diff.vmas import Part, Span, is_same_process
from analysis.files.filledmemory import FilledMemory
from formats import runs
from formats.chain import AddressAbsent, MemoryView, SegmentKind
from formats.layout import PAGE_BYTES, PAGES_FRAME_BYTES
from formats.manifest import Manifest

_NEAR_BYTES = 4 << 20
"""To go on over pages that are the same takes less time than to begin anew behind them."""
_CHUNK_BYTES = 4 * PAGES_FRAME_BYTES


class PageChange(StrEnum):
    """What became of pages. What reads the same is no change, whether or not it was written."""

    CHANGED = "changed"
    """Both rounds have them, with other bytes."""
    ADDED = "added"
    """Only the later one has them: they were not mapped, or not populated, or those of a file."""
    GONE = "gone"
    """Only the earlier one has them."""
    UNKNOWN = "unknown"
    """One of the rounds cannot tell what they hold."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Pages `[start_addr, end_addr)`, as addressed before, that became something else.

    `before` and `after` are their bytes, both None where one of them is in no round. `span` is what they are in.
    """

    span: Span
    start_addr: int
    end_addr: int
    change: PageChange
    before: bytes | None = None
    after: bytes | None = None

    @property
    def n_pages(self) -> int:
        """Number of its pages."""
        return (self.end_addr - self.start_addr) // PAGE_BYTES


class ObjectsSeen:
    """Which parts of memory objects have been compared: each is, once, however many processes map it."""

    def __init__(self, before: Manifest, after: Manifest) -> None:
        self._seen: dict[tuple[int | None, int | None], list[runs.Range]] = {}
        files = [{(item.device, item.inode) for item in manifest.objects} for manifest in (before, after)]
        self._only_before = {item.id for item in before.objects if (item.device, item.inode) not in files[1]}
        self._only_after = {item.id for item in after.objects if (item.device, item.inode) not in files[0]}

    def is_only(self, number: int, *, later: bool) -> bool:
        """Whether an object is in that one of the rounds only."""
        return number in (self._only_after if later else self._only_before)

    def fresh(self, objects: tuple[int | None, int | None], start_bytes: int, end_bytes: int) -> list[runs.Range]:
        """What of the range of a pair of objects was not asked for before; from now on it was."""
        seen = self._seen.setdefault(objects, [])
        fresh = list(runs.subtract([(start_bytes, end_bytes)], runs.overlapping(seen, start_bytes, end_bytes)))
        if fresh:
            first = bisect_left(seen, start_bytes, key=lambda item: item[1])
            end = bisect_right(seen, end_bytes, key=lambda item: item[0])
            touched = [*seen[first:end], (start_bytes, end_bytes)]
            seen[first:end] = [(min(start for start, _ in touched), max(end for _, end in touched))]
        return fresh


class PageComparer:
    """Compares two views of a process; for one thread."""

    def __init__(
        self,
        before: MemoryView,
        after: MemoryView,
        objects: ObjectsSeen,
        filled: tuple[FilledMemory, FilledMemory] | None = None,
        touched: TouchedPages | None = None,
        *,
        one_chain: bool,
    ) -> None:
        """`one_chain`: both are of one checkpoint, where the same place in the same round has the same bytes.

        `filled` has, where it is given, the bytes of pages of files that are in no round. `touched` knows which pages
        of the process can differ, if anything does.
        """
        self._touched = touched
        self._filled = filled
        self._before, self._after = Side(before), Side(after)
        self._objects = objects
        self._one_chain = one_chain
        self._one_process = one_chain and is_same_process(before.process, after.process)

    def differences(self, span: Span, on_read: Callable[[int], None]) -> Iterator[Difference]:
        """What of a span became something else, ascending, a MiB at a time at most.

        `on_read` is called with the address up to which bytes were compared. Raises ImageCorrupt, StorageError.
        """
        if self._touched is None:
            yield from self._differences(span, on_read)
            return
        for start_addr, end_addr in runs.near(self._touched.ranges(span.start_addr, span.end_addr), _NEAR_BYTES):
            yield from self._differences(span._replace(start_addr=start_addr, end_addr=end_addr), on_read)

    def _differences(self, span: Span, on_read: Callable[[int], None]) -> Iterator[Difference]:
        for start_addr, end_addr, before, after in self._in_step(span):
            for part_addr, part_end_addr in self._to_compare(span, start_addr, end_addr, before, after):
                change = _change(before.holding, after.holding)
                if change is None:
                    continue
                if change is PageChange.UNKNOWN:
                    yield Difference(span, part_addr, part_end_addr, change)
                    continue
                if Holding.NONE in (before.holding, after.holding):
                    yield from self._of_file(span, part_addr, part_end_addr, change)
                    continue
                for addr in range(part_addr, part_end_addr, _CHUNK_BYTES):
                    n_bytes = min(_CHUNK_BYTES, part_end_addr - addr)
                    old = self._before.content(before, addr, n_bytes)
                    new = self._after.content(after, addr + span.shift, n_bytes)
                    on_read(addr + n_bytes)
                    for first, end in _differing_pages(old, new):
                        yield Difference(span, addr + first, addr + end, change, old[first:end], new[first:end])

    def _of_file(self, span: Span, start_addr: int, end_addr: int, change: PageChange) -> Iterator[Difference]:
        """Pages of which one of the rounds has none, since they were those of a file."""
        if self._filled is None:
            yield Difference(span, start_addr, end_addr, change)
            return
        for addr in range(start_addr, end_addr, _CHUNK_BYTES):
            n_bytes = min(_CHUNK_BYTES, end_addr - addr)
            sides: tuple[bytes | None, bytes | None] = None, None
            with suppress(AddressAbsent):
                sides = self._filled[0].read(addr, n_bytes), self._filled[1].read(addr + span.shift, n_bytes)
            yield Difference(span, addr, addr + n_bytes, change, *sides)

    def count_held(self, part: Part, *, later: bool) -> int:
        """Pages that the later or earlier round has of a part of a mapping that is in this round only.

        They are the process's own, and those of an object that only this round has, if not counted before. Raises
        ImageCorrupt, StorageError.
        """
        side = self._after if later else self._before
        n_bytes = 0
        for piece in side.pieces(*part):
            if piece.is_own:
                n_bytes += piece.end_addr - piece.start_addr
            elif (
                piece.object is not None
                and piece.holding is Holding.DATA
                and self._objects.is_only(piece.object, later=later)
            ):
                shift = part.vma.offset_bytes - part.vma.start_addr
                pair = (None, piece.object) if later else (piece.object, None)
                n_bytes += runs.total(self._objects.fresh(pair, piece.start_addr + shift, piece.end_addr + shift))
        return n_bytes // PAGE_BYTES

    def _in_step(self, span: Span) -> Iterator[tuple[int, int, Piece, Piece]]:
        """The pieces of both sides, each pair over one range of addresses as they were before."""
        shift = span.shift
        befores = self._before.pieces(span.before, span.start_addr, span.end_addr, span.after)
        afters = self._after.pieces(span.after, span.start_addr + shift, span.end_addr + shift, span.before)
        before, after = next(befores), next(afters)
        position = span.start_addr
        while True:
            end_addr = min(before.end_addr, after.end_addr - shift)
            yield position, end_addr, before, after
            if end_addr == span.end_addr:
                return
            position = end_addr
            if before.end_addr == end_addr:
                before = next(befores)
            if after.end_addr - shift == end_addr:
                after = next(afters)

    def _is_stored_once(self, before: Piece, after: Piece) -> bool:
        """Whether both pieces are in one and the same pages file."""
        old, new = before.segment, after.segment
        if old is None or new is None or old.kind is not SegmentKind.DATA:
            return False
        is_one_file = (old.kind, old.round, old.object) == (new.kind, new.round, new.object)
        return is_one_file and (self._one_process if old.object is None else self._one_chain)

    def _to_compare(self, span: Span, start_addr: int, end_addr: int, before: Piece, after: Piece) -> list[runs.Range]:
        """Of a piece of both sides, what may differ and was not compared elsewhere."""
        if self._is_stored_once(before, after) and (
            before.page_index(start_addr) == after.page_index(start_addr + span.shift)
        ):
            return []
        objects = span.before.object, span.after.object
        if objects[0] is None or objects[1] is None or before.is_own or after.is_own:
            return [(start_addr, end_addr)]
        shift = span.before.offset_bytes - span.before.start_addr
        fresh = self._objects.fresh(objects, start_addr + shift, end_addr + shift)
        return [(start - shift, end - shift) for start, end in fresh]


def _change(before: Holding, after: Holding) -> PageChange | None:
    """What becomes of pages whose bytes, where both have bytes, are not the same; None where they cannot differ."""
    match before, after:
        case (Holding.KERNEL, _) | (_, Holding.KERNEL):
            return None
        case (Holding.UNKNOWN, _) | (_, Holding.UNKNOWN):
            return PageChange.UNKNOWN
        case (Holding.NONE, Holding.DATA | Holding.ZERO) | (Holding.EMPTY, Holding.DATA):
            return PageChange.ADDED
        case (Holding.DATA | Holding.ZERO, Holding.NONE) | (Holding.DATA, Holding.EMPTY):
            return PageChange.GONE
        case (Holding.DATA, _) | (_, Holding.DATA):
            return PageChange.CHANGED
    return None


def _differing_pages(before: bytes, after: bytes) -> Iterator[runs.Range]:
    """Ranges of pages that are not the same in two chunks of one size."""
    if before == after:
        return
    start = -1
    for position in range(0, len(before), PAGE_BYTES):
        end = position + PAGE_BYTES
        if before[position:end] == after[position:end]:
            if start >= 0:
                yield start, position
            start = -1
        elif start < 0:
            start = position
    if start >= 0:
        yield start, len(before)
