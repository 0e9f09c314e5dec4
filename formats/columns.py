"""The memory of a process in all rounds, cut so that each part is of one kind in each round.

    round 1 (full)   |  data   |  data   |  zero   |  data   |
    round 2          | parent  |  data   | parent  | (hole)  |
    columns           1: {1,2}  1: {1}    0: {1,2}  1: {1}
                                2: {2}

What several rounds have in common is in one part of its column, with a bit for each of these rounds.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from formats import runs
from formats.areas import Area
from formats.closing import Closing
from formats.errors import ImageCorrupt
from formats.images import Frames, Images, PageSource
from formats.layout import PAGE_BYTES, RunKind
from formats.manifest import Process
from formats.pagemap import Run
from formats.segments import Segment, SegmentKind
from formats.sources import ObjectSources

Choice = Callable[[int, Process], Iterable[Area]]
"""Which areas of a process in a round are looked at, ascending."""


class Column(NamedTuple):
    """Memory `[start_addr, end_addr)`: what it is, DATA or ZERO, and in which rounds, each a bit of a number."""

    start_addr: int
    end_addr: int
    parts: list[tuple[Segment, int]]


@dataclass(slots=True)
class _Level:
    """What one round has of the process; `parent` is the position of the level that PARENT runs lead to."""

    number: int
    parent: int | None
    source: PageSource
    areas: list[Area]
    objects: ObjectSources | None


class _Version(NamedTuple):
    """What a page is, as long as nothing changes: of the `page_index` that goes with an address, only the first."""

    kind: SegmentKind
    round: int
    page_index: int = 0
    object: int | None = None


_Behind = tuple[int, _Version | None]
"""Up to where what is behind a page is the same, and what that is, None if it is not known."""


class ProcessRounds(Closing):
    """One process in all rounds; a context manager, not for use by two threads at once.

    `numbers` are the rounds in the order of their bits, the first having the lowest.
    """

    def __init__(self, images: Images, process: Process, choose: Choice) -> None:
        """`process` is it in any of the rounds. Raises ParentMissing, ImageCorrupt, StorageError and the like."""
        self._images = images
        self.numbers = list(images.numbers)
        self._pid = process.pid
        self._levels: list[_Level] = []
        shared: dict[Area, Area] = {}  # most mappings are the same in all rounds
        for one in self.numbers:
            lineage = images.lineage(one)
            info = next(lineage)
            parent = next(lineage, None)
            same = info.process(process.pid)
            areas: list[Area] = []
            if same is not None and same.start_time_ticks == process.start_time_ticks:
                areas = [shared.setdefault(area, area) for area in choose(one, same)]
            objects = ObjectSources(info) if any(area.object is not None for area in areas) else None
            position = None if parent is None else self.numbers.index(parent.number)
            self._levels.append(_Level(one, position, info.pages_of(process), areas, objects))
        self._heirs = [1 << index for index in range(len(self._levels))]
        """The rounds that a page of each round may be passed on to, itself among them."""
        for index in range(len(self._levels) - 1, -1, -1):
            parent_index = self._levels[index].parent
            if parent_index is not None:
                self._heirs[parent_index] |= self._heirs[index]
        self._childrens_parents = self._children = 0

    def close(self) -> None:
        """Close all files; reading is over. May be called again."""
        for level in self._levels:
            level.source.close()
            if level.objects is not None:
                level.objects.close()

    def open_frames(self, segment: Segment) -> Frames:
        """The file that the pages of a DATA segment are in, as MemoryView.open_frames."""
        if segment.object is not None:
            return self._images.round(segment.round).levels_of_object(segment.object)[0].open_frames()
        return self._levels[self.numbers.index(segment.round)].source.open_frames()

    def columns(self) -> Iterator[Column]:
        """All that is known in any round, ascending; raises ImageCorrupt, StorageError."""
        chosen = [[(area.start_addr, area.end_addr) for area in level.areas] for level in self._levels]
        for start_addr, end_addr in runs.merge(heapq.merge(*chosen)):
            yield from self._sweep(start_addr, end_addr)

    def _sweep(self, start_addr: int, end_addr: int) -> Iterator[Column]:
        # A chain may have a thousand rounds, and a page is new in few of them: only what changes at an address is
        # looked at there. Sets of rounds are bits of numbers.
        pieces = [level.source.pieces(start_addr, end_addr) for level in self._levels]
        covers = [_cover(level.areas, start_addr, end_addr) for level in self._levels]
        state = _State()
        ends = [(start_addr, index, is_run) for index in range(len(self._levels)) for is_run in (True, False)]
        heapq.heapify(ends)
        position = start_addr
        while position < end_addr:
            while ends[0][0] <= position:
                _, index, is_run = ends[0]
                if is_run:
                    _, stop, run = next(pieces[index])
                    state.set_run(index, run)
                else:
                    stop, area = next(covers[index])
                    state.set_area(index, area)
                heapq.heapreplace(ends, (stop, index, is_run))
            stop, versions = self._versions(position, ends[0][0], state)
            if versions:
                parts = [
                    (Segment(position, stop, version.kind, version.round, version.page_index, version.object), bits)
                    for version, bits in versions.items()
                ]
                yield Column(position, stop, parts)
            position = stop

    def _versions(self, addr: int, stop: int, state: _State) -> tuple[int, dict[_Version, int]]:
        """What the pages from `addr` on are, with the bits of the rounds where they are that; and up to where."""
        found: dict[_Version, int] = {}
        zeros = state.holes & state.zeros
        for index in _bits(state.holes & state.objects):
            stop, version = _behind(self._levels[index], state.areas[index], addr, stop)
            if version is _ZERO:
                zeros |= 1 << index
            elif version is not None:
                found[version] = found.get(version, 0) | 1 << index
        taken = state.holes
        for index in sorted(state.runs, reverse=True):
            run = state.runs[index]
            rounds = self._heirs[index] & ~taken
            taken |= self._heirs[index]
            if run.kind is RunKind.DATA:
                page_index = run.page_index + (addr - run.start_addr) // PAGE_BYTES
                version = _Version(SegmentKind.DATA, self._levels[index].number, page_index)
                if rounds & state.visible:
                    found[version] = rounds & state.visible
            else:
                zeros |= rounds & state.visible
        for index in _bits(state.parents & (self._children_of(state.holes) | ~taken)):
            raise self._unreachable(addr, self._levels[index])
        if zeros:
            found[_ZERO] = zeros
        return stop, found

    def _children_of(self, rounds: int) -> int:
        """Those whose PARENT runs lead to one of these rounds."""
        if rounds != self._childrens_parents:
            self._childrens_parents, self._children = rounds, 0
            for index, level in enumerate(self._levels):
                if level.parent is not None and rounds >> level.parent & 1:
                    self._children |= 1 << index
        return self._children

    def _unreachable(self, addr: int, level: _Level) -> ImageCorrupt:
        return ImageCorrupt(
            f"Page {addr:#x} of process {self._pid} in round {level.number} refers to its parent round, which does not "
            "have it.",
            addr=addr,
            round=level.number,
        )


_ZERO = _Version(SegmentKind.ZERO, 0)


class _State:
    """What the levels have at an address, by their position: as bits, and in full where that is needed.

    `runs` are those that are not PARENT, `parents` the levels whose run is, `holes` those without a run; `visible` are
    those that are looked at there, and of these `zeros` and `objects` say what holes are.
    """

    def __init__(self) -> None:
        self.runs: dict[int, Run] = {}
        self.areas: dict[int, Area] = {}
        self.parents = self.holes = self.visible = self.zeros = self.objects = 0

    def set_run(self, index: int, run: Run | None) -> None:
        """What a level has from here on."""
        bit = 1 << index
        self.runs.pop(index, None)
        self.parents &= ~bit
        self.holes &= ~bit
        if run is None:
            self.holes |= bit
        elif run.kind is RunKind.PARENT:
            self.parents |= bit
        else:
            self.runs[index] = run

    def set_area(self, index: int, area: Area | None) -> None:
        """The area of a level from here on, None if it is not looked at."""
        bit = 1 << index
        self.areas.pop(index, None)
        self.visible &= ~bit
        self.zeros &= ~bit
        self.objects &= ~bit
        if area is not None:
            self.areas[index] = area
            self.visible |= bit
            self.objects |= bit if area.object is not None else 0
            self.zeros |= bit if area.object is None and area.zeros else 0


def _bits(number: int) -> Iterator[int]:
    """The positions of its bits, ascending."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def _cover(areas: list[Area], start_addr: int, end_addr: int) -> Iterator[tuple[int, Area | None]]:
    """The range cut at areas: where each part ends, and the area that it is in."""
    position = start_addr
    for index in range(bisect_right(areas, start_addr, key=lambda area: area.end_addr), len(areas)):
        area = areas[index]
        if area.start_addr >= end_addr:
            break
        if position < area.start_addr:
            yield area.start_addr, None
        position = min(area.end_addr, end_addr)
        yield position, area
    if position < end_addr:
        yield end_addr, None


def _behind(level: _Level, area: Area, addr: int, stop: int) -> _Behind:
    """What pages of an object are that the process itself does not have, from `addr` on up to `stop` at most."""
    if area.object is None or level.objects is None:
        return stop, None
    offset = addr - area.shift
    piece = next(level.objects.segments(area.object, offset, stop - area.shift))
    stop = piece.end_addr + area.shift
    if piece.kind is SegmentKind.DATA:
        return stop, _Version(SegmentKind.DATA, piece.round, piece.page_index, area.object)
    if piece.kind is SegmentKind.ZERO:
        return stop, _ZERO
    zeros = next(level.objects.zeros(area.object, offset, piece.end_addr), None)
    if zeros is None or not area.zeros:
        return stop, None
    if zeros[0] > offset:
        return zeros[0] + area.shift, None
    return zeros[1] + area.shift, _ZERO
