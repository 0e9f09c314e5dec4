"""Searches the memory of processes in one round or in all: what matches, where, and in which rounds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby

from analysis.places import Places
from analysis.search.oneround import RoundBlocks
from analysis.search.patterns import Pattern
from analysis.search.scan import Block, Match, Scanner, blocks
from analysis.selection import VmaSelection
from formats import runs
from formats.areas import Area, areas_of
from formats.chain import MemoryView
from formats.closing import Closing
from formats.columns import ProcessRounds
from formats.errors import UsageError
from formats.framesahead import FramesAhead
from formats.images import Images
from formats.layout import PAGE_BYTES
from formats.manifest import Manifest, Process

_FRAMES_PER_THREAD = 4
_PROGRESS_STEP_BYTES = 16 << 20

Progress = Callable[[int, int], None]
"""Called with bytes of page content that were searched, and that are to be searched."""
PlacesOf = Callable[[Manifest, MemoryView], Places]
"""Makes names for the addresses of a process as of a round."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where to search: round `number` (None: the selected one) or `all_rounds`, process `pid` (None: the root) or
    `all_processes`, and in these the mappings of `selection`.
    """

    number: int | None = None
    pid: int | None = None
    all_rounds: bool = False
    all_processes: bool = False
    selection: VmaSelection = field(default_factory=VmaSelection)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """`context_bytes` before and behind a match come with it; `threads` decompress."""

    context_bytes: int = 0
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where else a match is: shared memory may be mapped several times."""

    pid: int
    addr: int


class Search:
    """A search; `searched_bytes` counts what was gone through so far, `zero_bytes` what of it was zeros.

    Each page content is searched once, in however many rounds it is. With `all_processes` so is shared memory, for the
    first process that maps it.
    """

    def __init__(
        self, images: Images, pattern: Pattern, scope: Scope, places_of: PlacesOf, options: SearchOptions
    ) -> None:
        """Raises UsageError for a round or process that is not there; ImageCorrupt, StorageError and the like."""
        self.searched_bytes = 0
        self.zero_bytes = 0
        self._images = images
        self._pattern = pattern
        self._scope = scope
        self._places_of = places_of
        self._options = options
        self._total_bytes = 0
        self._last: dict[tuple[int, int], int] = {}
        """The last round of each process, by pid and start."""
        self._plan()

    @property
    def n_processes(self) -> int:
        """How many processes are searched."""
        return len(self._last)

    def results(self, progress: Progress) -> Generator[tuple[ProcessSearch, Match], None, None]:
        """The matches of one process after the other, ascending by address, each with the search that found it.

        Raises UsageError for a place that is unknown in all processes, ImageCorrupt, StorageError.
        """
        unknown: list[UsageError] = []
        once = _SharedOnce() if self._scope.all_processes else None
        for (pid, _), number in sorted(self._last.items()):
            with ProcessSearch(self._images, self._scope, pid, number, self._places_of, once) as search:
                try:
                    scanner = Scanner(self._pattern.matcher(search.places), self._options.context_bytes)
                except UsageError as error:
                    unknown.append(error)
                    continue
                searched_bytes, zero_bytes = self.searched_bytes, self.zero_bytes

                def report(
                    scanner: Scanner = scanner, searched_bytes: int = searched_bytes, zero_bytes: int = zero_bytes
                ) -> None:
                    self.searched_bytes = searched_bytes + scanner.searched_bytes
                    self.zero_bytes = zero_bytes + scanner.zero_bytes
                    progress(min(self.searched_bytes - self.zero_bytes, self._total_bytes), self._total_bytes)

                try:
                    for match in search.matches(scanner, report, self._options.threads):
                        yield search, match
                finally:
                    report()
        if len(unknown) == self.n_processes:
            raise unknown[0]

    def _plan(self) -> None:
        """Find out which processes there are to search, and how much."""
        scope = self._scope
        if not scope.all_rounds:
            info = self._images.round(scope.number)
            pid = info.manifest.root_pid if scope.pid is None else scope.pid
            wanted = info.manifest.processes if scope.all_processes else [info.process(pid)]
            self._add(info.number, info.manifest, [process for process in wanted if process is not None])
            if not self._last:
                MemoryView(self._images, scope.number, pid).close()  # says what is wrong
            return
        pid = self._images.round().manifest.root_pid if scope.pid is None else scope.pid
        for info in self._images.rounds:
            one = info.process(pid)
            wanted = info.manifest.processes if scope.all_processes else [one]
            self._add(info.number, info.manifest, [process for process in wanted if process is not None])
        if not self._last:
            raise UsageError(f"No round of {self._images.path} has a process {pid}.", pid=pid)

    def _add(self, number: int, manifest: Manifest, processes: list[Process]) -> None:
        objects = {item.id: item.pages_data * PAGE_BYTES for item in manifest.objects}
        for process in processes:
            self._last[process.pid, process.start_time_ticks] = number
            for vma in self._scope.selection.of(process.vmas):
                pages = vma.pages_data if self._scope.all_rounds else vma.pages_data + vma.pages_parent
                self._total_bytes += pages * PAGE_BYTES
                if vma.object is not None:
                    self._total_bytes += objects.pop(vma.object, 0)


class ProcessSearch(Closing):
    """The search in one process; a context manager. `places` names its addresses as of the last round that has it."""

    def __init__(
        self, images: Images, scope: Scope, pid: int, number: int, places_of: PlacesOf, once: _SharedOnce | None
    ) -> None:
        """`number` is its last round, or the one that is searched."""
        self.pid = pid
        self._images = images
        self._selection = scope.selection
        self._once = once
        self._number = number
        self._view = MemoryView(images, number, pid)
        self.places = places_of(images.round(number).manifest, self._view)
        self._all_rounds = scope.all_rounds

    def close(self) -> None:
        """Close all files. May be called again."""
        self._view.close()

    def matches(self, scanner: Scanner, report: Callable[[], None], threads: int) -> Iterator[Match]:
        """All of them, ascending; `report` is called now and then. Raises ImageCorrupt, StorageError."""
        with ExitStack() as stack:
            if self._all_rounds:
                rounds = stack.enter_context(ProcessRounds(self._images, self._view.process, self._areas))
                frames = stack.enter_context(FramesAhead(rounds.open_frames, threads))
                found = blocks(rounds.columns(), frames, threads * _FRAMES_PER_THREAD)
            else:
                one = stack.enter_context(RoundBlocks(self._view, threads))
                found = one.blocks(self._areas(self._number, self._view.process))
            yield from scanner.scan(_reporting(found, report))

    def rounds_of(self, match: Match) -> list[int]:
        """The rounds that a match is in, ascending."""
        if not self._all_rounds:
            return [self._number]
        return [number for bit, number in enumerate(self._images.numbers) if match.rounds >> bit & 1]

    def places_of(self, match: Match) -> Places:
        """Names for the addresses around a match."""
        if self.places.vma_at(match.addr) is not None:
            return self.places
        process = self._images.round(self.rounds_of(match)[-1]).process(self.pid)
        return Places(process.vmas if process else [])

    def elsewhere(self, match: Match) -> list[Mapped]:
        """Where else the same shared memory was mapped in the last round of a match, if it counts only once."""
        if self._once is None:
            return []
        vma = self.places_of(match).vma_at(match.addr)
        if vma is None or vma.object is None or not vma.is_shared:
            return []
        manifest = self._images.round(self.rounds_of(match)[-1]).manifest
        offset_bytes = vma.offset_bytes + match.addr - vma.start_addr
        found = [
            Mapped(process.pid, other.start_addr + offset_bytes - other.offset_bytes)
            for process in manifest.processes
            for other in process.vmas
            if other.object == vma.object
            and other.is_shared
            and 0 <= offset_bytes - other.offset_bytes < other.end_addr - other.start_addr
        ]
        return [mapped for mapped in found if mapped != Mapped(self.pid, match.addr)]

    def _areas(self, number: int, process: Process) -> Iterator[Area]:
        areas = areas_of(process, self._selection.of(process.vmas))
        return areas if self._once is None else self._once.new(number, areas)


class _SharedOnce:
    """Leaves out shared memory that was searched for another process, or at another address."""

    def __init__(self) -> None:
        self._searched: dict[tuple[int, int], list[runs.Range]] = {}

    def new(self, number: int, areas: Iterator[Area]) -> Iterator[Area]:
        """Of areas of a round, what is new; from now on it is not."""
        for area in areas:
            if area.object is None or not area.shared:
                yield area
                continue
            searched = self._searched.get((number, area.object), [])
            offsets = (area.start_addr - area.shift, area.end_addr - area.shift)
            for start, end in runs.subtract([offsets], searched):
                yield area._replace(start_addr=start + area.shift, end_addr=end + area.shift)
            self._searched[number, area.object] = list(runs.merge(sorted([*searched, offsets])))


def _reporting(found: Iterator[Block], report: Callable[[], None]) -> Iterator[Block]:
    reported_addr = 0
    for block in found:
        yield block
        if block.end_addr - reported_addr >= _PROGRESS_STEP_BYTES or block.end_addr < reported_addr:
            report()
            reported_addr = block.end_addr


def rounds_text(numbers: list[int]) -> str:
    """Numbers of rounds as people write them: "2-5, 7"."""
    texts = []
    for _, group in groupby(enumerate(numbers), key=lambda item: item[1] - item[0]):
        members = [number for _, number in group]
        texts.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else str(members[0]))
    return ", ".join(texts)
