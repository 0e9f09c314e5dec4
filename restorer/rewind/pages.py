"""Pages that differ from those of a dump: read, compared and kept before the first of them is written.

Both are in memory then, what is to be written and what was there: nothing is read from the image any more, and what was
written can be undone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from dumper.kernel.remote import Call, Sys
from formats import runs
from formats.framesahead import FramesAhead
from formats.layout import PAGE_BYTES
from formats.segments import Segment, SegmentKind
from restorer.rewind.findings import RewindRefused

AHEAD = 16  # pieces of at most a frame
PIECE_BYTES = 1 << 18
DISCARD_BYTES = 1 << 16  # so much and more is given back to the kernel instead of being filled with zeros
ZEROS = bytes(PIECE_BYTES)
MADV_DONTNEED_LOCKED = 24  # as MADV_DONTNEED, of locked memory too


class Place(Protocol):
    """Where pages are: the memory of the process, or a memory object, by offset."""

    def read(self, addr: int, n_bytes: int) -> bytes:
        """So many bytes; raises OSError."""

    def write(self, addr: int, content: bytes) -> None:
        """Raises OSError."""


@dataclass(frozen=True, slots=True)
class Change:
    """Pages of a place, from `addr` on: what is to be there, and what is. None is a hole: never touched."""

    place: Place
    addr: int
    n_bytes: int
    new: bytes | None
    old: bytes | None


class Changes:
    """All of them, in the order in which they are made; they are held in memory, up to `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self.items: list[Change] = []

    @property
    def n_pages(self) -> int:
        """How many pages differ, one for each part of a page that is written by itself."""
        return sum(-(-item.n_bytes // PAGE_BYTES) for item in self.items)

    @property
    def room_bytes(self) -> int:
        """What may still be held."""
        return self._max_bytes - self._held_bytes

    def take(self, others: Changes) -> None:
        """Those of another one, too."""
        self._held_bytes += others._held_bytes
        self.items += others.items

    def add(self, change: Change) -> None:
        """Raises RewindRefused if there are too many."""
        self._held_bytes += len(change.new or b"") + len(change.old or b"")
        if self._held_bytes > self._max_bytes:
            raise RewindRefused(
                f"more of the process has changed than there is memory to hold ({self._max_bytes >> 20} MiB)",
                hint="Nothing was changed. Free some memory, or restore the round as a new process.",
            )
        self.items.append(change)

    def make(self, discard: Callable[[list[Call]], object], undo: ExitStack) -> None:
        """Writes all of them; `discard` makes calls in the process. Raises OSError."""
        undo.callback(self._unmake, discard)
        discard(_discard_calls(item for item in self.items if item.new is None))
        for item in self.items:
            if item.new is not None:
                item.place.write(item.addr, item.new)

    def _unmake(self, discard: Callable[[list[Call]], object]) -> None:
        """Also of what was not made yet, which changes nothing."""
        discard(_discard_calls(item for item in self.items if item.old is None))
        for item in reversed(self.items):
            if item.old is not None:
                item.place.write(item.addr, item.old)


def _discard_calls(items: Iterable[Change]) -> list[Call]:
    ranges = runs.merge(sorted((item.addr, item.addr + item.n_bytes) for item in items))
    return [Call(Sys.MADVISE, (start, end - start, MADV_DONTNEED_LOCKED)) for start, end in ranges]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Pages of a place as the image has them: `segments` in order, whose bytes `ahead` reads.

    present: ranges that have pages now, ascending. filled: absent pages are not zeros but those of a file.
    """

    place: Place
    segments: Iterable[Segment]
    ahead: FramesAhead
    present: list[runs.Range]
    filled: bool = False
    can_discard: bool = True


def compare(wanted: Wanted, changes: Changes, on_bytes: Callable[[int], None]) -> None:
    """Adds what differs; `on_bytes` hears of each part that was looked at.

    Raises RewindRefused, ImageCorrupt, StorageError, OSError.
    """
    for start_addr, end_addr, content in _pieces(wanted):
        if content is not None:
            _compare_data(wanted, start_addr, content, changes)
        else:
            for one_addr, one_end_addr in _present_in(wanted, start_addr, end_addr):
                _compare_empty(wanted, one_addr, one_end_addr, changes)
        on_bytes(end_addr - start_addr)


def _present_in(wanted: Wanted, start_addr: int, end_addr: int) -> Iterator[runs.Range]:
    return runs.intersect([(start_addr, end_addr)], runs.overlapping(wanted.present, start_addr, end_addr))


def _pieces(wanted: Wanted) -> Iterator[tuple[int, int, bytes | None]]:
    """The segments in order, cut at frames, with their bytes; None for pages that were not there."""
    waiting = deque(islice(source := _asked(wanted), AHEAD))
    while waiting:
        start_addr, end_addr, content = waiting.popleft()
        yield start_addr, end_addr, content() if content else None
        waiting.extend(islice(source, 1))


def _asked(wanted: Wanted) -> Iterator[tuple[int, int, Callable[[], bytes] | None]]:
    for segment in wanted.segments:
        addr = segment.start_addr
        while addr < segment.end_addr:
            if segment.kind is SegmentKind.DATA:
                piece = wanted.ahead.piece(segment, addr, min(segment.end_addr, addr + PIECE_BYTES))
                yield addr, addr + piece.n_bytes, piece.content
                addr += piece.n_bytes
            elif segment.kind is SegmentKind.ZERO and wanted.filled:
                end_addr = min(segment.end_addr, addr + PIECE_BYTES)
                zeros = ZEROS[: end_addr - addr]
                yield addr, end_addr, lambda zeros=zeros: zeros  # type: ignore[misc]
                addr = end_addr
            else:
                yield addr, segment.end_addr, None
                addr = segment.end_addr


def _compare_data(wanted: Wanted, addr: int, content: bytes, changes: Changes) -> None:
    end_addr = addr + len(content)
    present = list(_present_in(wanted, addr, end_addr))
    for one_addr, one_end_addr in present:
        new = content[one_addr - addr : one_end_addr - addr]
        old = wanted.place.read(one_addr, len(new))
        if new != old:
            _add_differences(wanted.place, one_addr, new, old, changes)
    for one_addr, one_end_addr in runs.subtract([(addr, end_addr)], present):
        new = content[one_addr - addr : one_end_addr - addr]
        if wanted.filled or new.count(0) != len(new):
            changes.add(Change(wanted.place, one_addr, len(new), new, None if wanted.can_discard else bytes(len(new))))


def _compare_empty(wanted: Wanted, addr: int, end_addr: int, changes: Changes) -> None:
    """Pages that are there now and were not."""
    while addr < end_addr:
        n_bytes = min(PIECE_BYTES, end_addr - addr)
        old = wanted.place.read(addr, n_bytes)
        if wanted.filled or (wanted.can_discard and end_addr - addr >= DISCARD_BYTES):
            changes.add(Change(wanted.place, addr, n_bytes, None, old))
        elif old != ZEROS[:n_bytes]:
            _add_differences(wanted.place, addr, ZEROS[:n_bytes], old, changes)
        addr += n_bytes


def _add_differences(place: Place, addr: int, new: bytes, old: bytes, changes: Changes) -> None:
    """Each run of pages that differ."""
    first = None
    for offset in range(0, len(new) + 1, PAGE_BYTES):
        differs = new[offset : offset + PAGE_BYTES] != old[offset : offset + PAGE_BYTES]
        if differs and first is None:
            first = offset
        elif not differs and first is not None:
            changes.add(Change(place, addr + first, offset - first, new[first:offset], old[first:offset]))
            first = None
