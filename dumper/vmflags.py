"""VmFlags of the mappings of a frozen process, which only /proc/PID/smaps tells: too slow to read in the freeze.

It walks all page tables, 10 ms for each GiB. So it is read before the freeze and after it: flags that are the same then
are taken for those of the freeze, and of all others it is said where they are from. Where processes are handed over,
the dump has those from before the freeze if the mappings are the same; whether the flags are, too, is looked at while
it is on its way.
"""

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import Executor, Future

from dumper.proc import GONE_ERRORS
from dumper.proc.smaps import GUARD_FLAG, parse_smaps_flags, read_smaps
from formats.runs import overlapping

MISSING_FLAG = "um"  # a userfaultfd brings its pages
OUR_FLAG = "uw"  # registered for write-protection: gone with the tracking
USERFAULTFD_FLAGS = frozenset((OUR_FLAG, MISSING_FLAG, "ui"))

FROM_AFTER = "VmFlags are from right after the freeze: the mapping is new"
FROM_BEFORE = "VmFlags are from right before the freeze: the mapping was gone after it"
CHANGED = "VmFlags changed around the freeze: these are from after it"
EARLY = "VmFlags are from right before the freeze"
UNKNOWN = "VmFlags could not be read"


class _Reading:
    """Flags by address, as of one look, without what tracking adds. `has_guards`: some mapping has guard pages."""

    def __init__(self, mappings: list[tuple[int, int, str]]) -> None:
        kinds = {flags: flags.split() for _, _, flags in mappings}  # few, of however many mappings
        own = {flags: " ".join(flag for flag in words if flag != OUR_FLAG) for flags, words in kinds.items()}
        self._mappings = [(end, own[flags]) for _, end, flags in mappings]
        self.ranges = [(start, end) for start, end, _ in mappings]
        self._starts_addr = [start for start, _, _ in mappings]
        self.are_brought = any(MISSING_FLAG in words for words in kinds.values())
        self.has_guards = any(GUARD_FLAG in words for words in kinds.values())
        watched = {flags for flags, words in kinds.items() if USERFAULTFD_FLAGS & set(words)}
        ours = {flags for flags in watched if USERFAULTFD_FLAGS & set(kinds[flags]) == {OUR_FLAG}}
        self.watched_by_others = bool(watched - ours)
        self.watched = [(start, end) for start, end, flags in mappings if flags in ours]

    def labelled(self) -> list[tuple[int, int, str]]:
        """Mappings with their flags."""
        return [(*place, flags) for place, (_, flags) in zip(self.ranges, self._mappings, strict=True)]

    def is_of(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether it is of these mappings, (start_addr, end_addr) each, and of no others."""
        return self.ranges == list(ranges)

    def at(self, addr: int) -> str:
        """Flags of the mapping there; "" if there is none."""
        position = bisect_right(self._starts_addr, addr) - 1
        if position < 0:
            return ""
        end_addr, flags = self._mappings[position]
        return flags if addr < end_addr else ""


class VmFlags:
    """One reading before the freeze and one after it. Where the process stands still, one is enough."""

    def __init__(self, tid: int, *, stands_still: bool) -> None:
        """Raises OSError: ENOENT or ESRCH if the process is gone."""
        self._before = _read(tid)
        self._after = self._before if stands_still else None
        self._reading: Future[_Reading] | None = None

    def read_aside(self, tid: int, by: Executor) -> None:
        """Begins what `read_again` does in another thread: of a process that stands still, in time to spare."""
        if self._after is None:
            self._reading = by.submit(_read, tid)

    def renew(self, tid: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Before the freeze: looks again if the mappings are others by now. Raises as `__init__`."""
        if not self._before.is_of(ranges):
            self._before = _read(tid)

    def is_of(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether the first look saw these mappings: (start_addr, end_addr) each."""
        return self._before.is_of(ranges)

    def changed(self) -> list[tuple[int, int]]:
        """Mappings whose flags are others at the second look, which `read_aside` began."""
        if self._reading is None:  # the first look was in the freeze
            return []
        try:
            after = self._reading.result()
        except GONE_ERRORS:
            return []
        here, there = (set(one.labelled()) for one in (self._before, after))
        return sorted((start, end) for start, end, _ in here ^ there)

    def read_again(self, tid: int, *, stands_still: bool) -> None:
        """After the freeze; one that has ended meanwhile tells nothing more."""
        if self._after is not None:
            return
        try:
            self._after = self._reading.result() if self._reading else _read(tid)
        except GONE_ERRORS:
            self._after = _Reading([])
        if stands_still:
            self._before = self._after

    @property
    def has_any_guards(self) -> bool:
        """Whether any mapping had guard pages at the first look."""
        return self._before.has_guards

    def are_watched_by_others(self, tracked: Sequence[tuple[int, int]]) -> bool:
        """Whether a userfaultfd had some mapping at the first look, other than for the tracking of these ranges.

        They ascend. A mapping that overlaps with one of them is taken for it: it may have grown since.
        """
        watched = self._before.watched
        return self._before.watched_by_others or not all(any(overlapping(tracked, *one)) for one in watched)

    @property
    def are_brought(self) -> bool:
        """Whether pages of some mapping came through a userfaultfd at the first look: those that lack are not zeros."""
        return self._before.are_brought

    def before(self, addr: int) -> str:
        """Flags of the mapping at an address at the first look, "" if there was none."""
        return self._before.at(addr)

    def has_guards(self, addr: int) -> bool:
        """Whether the mapping had guard pages at the first look."""
        return GUARD_FLAG in self._before.at(addr).split()

    def got_guards(self, addr: int) -> bool:
        """Whether it had some at the second look only."""
        return not self.has_guards(addr) and GUARD_FLAG in self.of(addr)[0].split()

    def of(self, addr: int) -> tuple[str, str]:
        """Flags of the mapping at an address, and a note where they are not sure to be those of the freeze."""
        before, after = self._before.at(addr), self._after.at(addr) if self._after else ""
        if not self._after:
            return before, EARLY
        if before == after:
            return after, "" if after else UNKNOWN
        if not before:
            return after, FROM_AFTER
        return (after, CHANGED) if after else (before, FROM_BEFORE)


def _read(tid: int) -> _Reading:
    try:
        return _Reading(parse_smaps_flags(read_smaps(tid)))
    except PermissionError:
        return _Reading([])
