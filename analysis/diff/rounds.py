"""Two rounds of a checkpoint, or of two: what became of processes, their mappings, their pages and their state.

Nothing is read but where both rounds have bytes that may differ. What is held does not grow with the memory of a
process: counts by mapping, and as many ranges of bytes as are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from analysis.diff.byteranges import ByteRange, ByteRanges
from analysis.diff.pages import Difference, ObjectsSeen, PageChange, PageComparer
from analysis.diff.processes import ProcessPair, pair_processes
from analysis.diff.state import StateChange, state_changes
from analysis.diff.touched import TouchedPages
from analysis.diff.vmas import VmaPair, is_same_process, pair_vmas
from analysis.files.filledmemory import FilledMemory
from analysis.files.mappedfiles import MappedFiles
from analysis.places import Places
from analysis.selection import VmaSelection
from analysis.symbols.symbols import Symbols
from formats.chain import MemoryView
from formats.errors import UsageError
from formats.images import Images, Round
from formats.manifest import Process

_PIDS_IN_HINT = 20

ProgressCallback = Callable[[int, int], None]
"""Called with bytes done and bytes to do."""


@dataclass(frozen=True, slots=True)
class BytesWanted:
    """That ranges of bytes are told, too: at most `max_ranges` in all.

    Files that the processes had mapped are looked for below `root`: they have symbols, and pages that are in no round.
    `notice` takes what the user should know of them: a word for programs, and a sentence.
    """

    max_ranges: int
    root: Path
    notice: Callable[[str, str], None]


@dataclass(slots=True)
class PageCounts:
    """Pages by what became of them; analysis.diff.pages.PageChange says what that is."""

    pages_changed: int = 0
    pages_added: int = 0
    pages_gone: int = 0
    pages_unknown: int = 0

    @property
    def differing(self) -> int:
        """All of them that are not the same."""
        return self.pages_changed + self.pages_added + self.pages_gone

    @property
    def total(self) -> int:
        """Those and the ones that may be others, for all that is known."""
        return self.differing + self.pages_unknown

    def add(self, change: PageChange, n_pages: int) -> None:
        """Count pages of one kind."""
        match change:
            case PageChange.CHANGED:
                self.pages_changed += n_pages
            case PageChange.ADDED:
                self.pages_added += n_pages
            case PageChange.GONE:
                self.pages_gone += n_pages
            case PageChange.UNKNOWN:
                self.pages_unknown += n_pages

    def add_all(self, others: PageCounts) -> None:
        """Count what others have counted."""
        self.pages_changed += others.pages_changed
        self.pages_added += others.pages_added
        self.pages_gone += others.pages_gone
        self.pages_unknown += others.pages_unknown


@dataclass(frozen=True, slots=True)
class MappingDiff:
    """A mapping in both rounds, or in one, and its pages."""

    pair: VmaPair
    counts: PageCounts


@dataclass(slots=True)
class ProcessDiff:
    """A process in both rounds, or in one.

    `mappings` are those that were selected, ascending, the same ones as well. `ranges`, `pages_left` and
    `pages_unread` are those of analysis.diff.byteranges.ByteRanges, where bytes were asked for.
    """

    pair: ProcessPair
    mappings: list[MappingDiff] = field(default_factory=list)
    counts: PageCounts = field(default_factory=PageCounts)
    state: list[StateChange] = field(default_factory=list)
    ranges: list[ByteRange] = field(default_factory=list)
    pages_left: int = 0
    pages_unread: int = 0

    @property
    def differs(self) -> bool:
        """Whether anything of it is not the same, as far as is known."""
        came_or_ended = self.pair.before is None or self.pair.after is None
        return bool(came_or_ended or self.counts.differing or self.state or any(map(is_news, self.mappings)))


def is_news(mapping: MappingDiff) -> bool:
    """Whether it came, is gone, or is not what it was, beside its pages."""
    before, after = mapping.pair.before, mapping.pair.after
    if before is None or after is None:
        return True
    shift = mapping.pair.shift
    was = before.start_addr + shift, before.end_addr + shift, before.perms, before.path
    return was != (after.start_addr, after.end_addr, after.perms, after.path)


class RoundDiff:
    """Compares two rounds, `before` and `after` of `images`, process by process."""

    def __init__(
        self,
        before: tuple[Images, int | None],
        after: tuple[Images, int | None],
        selection: VmaSelection | None = None,
        wanted: BytesWanted | None = None,
    ) -> None:
        """Images and the numbers of their rounds (None: the selected one); the same images for a chain.

        Of the mappings in `selection` (all by default). Raises what `Images.round` raises.
        """
        self.images = before[0], after[0]
        self._one_chain = before[0] is after[0]
        self.before: Round = before[0].round(before[1])
        self.after: Round = after[0].round(after[1])
        self._selection = selection or VmaSelection()
        self._wanted = wanted
        self._ranges_left = wanted.max_ranges if wanted else 0
        self._told: set[str] = set()
        self._objects = ObjectsSeen(self.before.manifest, self.after.manifest)
        self._rounds = self.before.manifest, self.after.manifest

    def pairs(self, pid: int | None = None, to_pid: int | None = None) -> list[ProcessPair]:
        """All processes, or the one of that pid before; with `to_pid` compared with that one after.

        Raises UsageError if there is no such process.
        """
        if to_pid is not None:
            pid = self.before.manifest.root_pid if pid is None else pid
            return [ProcessPair(_process(self.before, pid), _process(self.after, to_pid))]
        pairs = pair_processes(*self._rounds, one_chain=self._one_chain)
        if pid is None:
            return pairs
        found = [pair for pair in pairs if pair.before is not None and pair.before.pid == pid]
        found = found or [pair for pair in pairs if pair.after is not None and pair.after.pid == pid]
        return found or [ProcessPair(_process(self.before, pid), None)]

    def process(self, pair: ProcessPair, on_progress: ProgressCallback | None = None) -> ProcessDiff:
        """Compare one; raises ImageCorrupt, ImageVersionUnsupported, ParentMissing, StorageError."""
        result = ProcessDiff(pair)
        if pair.before is None or pair.after is None:
            return result
        result.state += state_changes(self._rounds, pair)
        mappings = [item for item in pair_vmas(pair.before, pair.after) if self._selection.has(item.vma)]
        progress = _Progress(mappings, on_progress)
        with ExitStack() as opened:
            old = opened.enter_context(MemoryView(self.images[0], self.before.number, pair.before.pid))
            new = opened.enter_context(MemoryView(self.images[1], self.after.number, pair.after.pid))
            ranges, filled = self._for_bytes(old, new, opened)
            touched = self._touched(pair.before, pair.after, opened)
            comparer = PageComparer(old, new, self._objects, filled, touched, one_chain=self._one_chain)
            for item in mappings:
                counts = PageCounts()
                for difference in progress.through(item, comparer):
                    counts.add(difference.change, difference.n_pages)
                    if ranges is not None:
                        ranges.add(difference)
                counts.pages_added += sum(comparer.count_held(part, later=True) for part in item.came)
                counts.pages_gone += sum(comparer.count_held(part, later=False) for part in item.gone)
                result.mappings.append(MappingDiff(item, counts))
                result.counts.add_all(counts)
        if ranges is not None:
            result.ranges = ranges.ranges
            result.pages_left, result.pages_unread = ranges.pages_left, ranges.pages_unread
            self._ranges_left -= len(ranges.ranges)
        return result

    def _touched(self, before: Process, after: Process, opened: ExitStack) -> TouchedPages | None:
        if not self._one_chain or not is_same_process(before, after):
            return None
        touched = TouchedPages.between(self.images[0], (self.before.number, self.after.number), after)
        return opened.enter_context(touched) if touched else None

    def _for_bytes(
        self, before: MemoryView, after: MemoryView, opened: ExitStack
    ) -> tuple[ByteRanges | None, tuple[FilledMemory, FilledMemory] | None]:
        """Where ranges of bytes are gathered, and what has the pages that are in no round; None if none is wanted."""
        if self._wanted is None:
            return None, None
        root = self._wanted.root
        files = MappedFiles(self.before.manifest, before, root), MappedFiles(self.after.manifest, after, root)
        filled = FilledMemory(before, files[0], self._tell), FilledMemory(after, files[1], self._tell)
        for memory in filled:
            opened.enter_context(memory)
        places = Places(after.vmas, Symbols(after, files[1], self._tell))
        return ByteRanges(self._ranges_left, places), filled

    def _tell(self, subject: str, message: str) -> None:
        """Each message once, however many processes it is about."""
        if self._wanted is not None and message not in self._told:
            self._told.add(message)
            self._wanted.notice(subject, message)


class _Progress:
    """How far the comparison of a process's mappings is."""

    def __init__(self, mappings: list[VmaPair], callback: ProgressCallback | None) -> None:
        self._total_bytes = sum(span.end_addr - span.start_addr for item in mappings for span in item.spans)
        self._done_bytes = self._base_bytes = 0
        self._callback = callback

    def through(self, item: VmaPair, comparer: PageComparer) -> Iterator[Difference]:
        """The differences in the spans of a mapping."""
        for span in item.spans:
            self._base_bytes = self._done_bytes - span.start_addr
            yield from comparer.differences(span, self._up_to)
            self._done_bytes += span.end_addr - span.start_addr

    def _up_to(self, addr: int) -> None:
        if self._callback is not None:
            self._callback(self._base_bytes + addr, self._total_bytes)


def _process(info: Round, pid: int) -> Process:
    process = info.process(pid)
    if process is None:
        pids = ", ".join(str(item.pid) for item in info.manifest.processes[:_PIDS_IN_HINT])
        raise UsageError(f"{info.path} has no process {pid}.", hint=f"It has: {pids}.", pid=pid, round=info.number)
    return process
