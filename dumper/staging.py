"""The staging memory: pages copied shortly before and during the freeze, and the picture they give of the target."""

import time
from collections.abc import Iterator, Sequence

from dumper.kernel.copy import Copier, PageBuffer, Source
from dumper.kernel.pages import Scanner, SpanTable
from dumper.kernel.recheck import Recheck
from dumper.kernel.runs import END_ADDR, RunKind, RunList
from dumper.kernel.uffd import reports_zapped_huge_pages

SPARE_RUNS = 2 * Scanner.REGIONS  # enough not to grow in the freeze; what is not used is never touched
TELLING_PAGES = 512

MICRO_ROUND_SHARE = 0.75  # of the staging memory; the rest is for what the freeze still has to copy


class Staging:
    """Scans a process again and again and copies what was written since into memory touched beforehand.

    `picture` holds the runs of all pages with content as of the last scan: STAGED (the copy is in `memory`), PARENT (an
    earlier round has it), ZERO, and COPY where a copy failed or found no room. Several may share one `memory`.
    """

    def __init__(self, scanner: Scanner, covered: RunList, memory: PageBuffer, spare_runs: int = SPARE_RUNS) -> None:
        """`covered` are the runs of the round before; lists have room for `spare_runs`, and grow beyond that."""
        self._scanner = scanner
        self._covered = covered
        self._classified = RunList(spare_runs)
        self._next_picture = RunList(spare_runs)
        self.memory = memory
        self.picture = RunList(spare_runs)
        self.fits = True
        self.has_picture = False
        if not reports_zapped_huge_pages():
            scanner.distrust_holes()
        self.scan_ns = 0
        self.copy_ns = 0
        self.ns_per_page = 0.0  # of the last copy that was large enough to tell, 0 if there was none

    def scan(self, spans: SpanTable) -> None:
        """Begins a micro-round: looks, while the target runs, at what was written, and resets it. Raises as `copy`."""
        self.memory.limit_pages(int(self.memory.size_pages * MICRO_ROUND_SHARE))
        self._scan(spans, reset=True)

    def copy(self, source: Source) -> int:
        """Ends the micro-round: copies what the scan found into memory; returns the number of pages copied.

        `fits` then tells whether all did. Raises OSError: ESRCH if the memory of the target is gone.
        """
        copied_pages = self._copy(source)
        self.has_picture = True
        if copied_pages >= TELLING_PAGES:
            self.ns_per_page = self.copy_ns / copied_pages
        return copied_pages

    def build_on(self, covered: RunList) -> None:
        """Takes the place of a micro-round: a round was taken of the running target, and `covered` are its runs."""
        self._covered = covered
        self.picture.clear()
        self.picture.extend_packed(covered.packed())
        self.picture.change_kind(RunKind.DATA, RunKind.PARENT)
        self.has_picture = True

    @property
    def pages_not_copied(self) -> int:
        """Pages that the last copy found no room for, or could not read."""
        return self.picture.pages_of(RunKind.COPY)

    def final_scan(self, spans: SpanTable) -> None:
        """Begins the last round, of the frozen target: with all of the memory, and nothing is write-protected again."""
        self.memory.limit_pages(self.memory.size_pages)
        self._scan(spans, reset=False)

    @property
    def pages_to_copy(self) -> int:
        """Pages that the last scan found to be copied."""
        return self._classified.pages_of(RunKind.COPY)

    @property
    def pages_with_older_copy(self) -> int:
        """Pages that it found to be copied already."""
        return self._classified.pages_of(RunKind.PARENT) + self._classified.pages_of(RunKind.STAGED)

    def pages_to_copy_in(self, ranges: Sequence[tuple[int, int]]) -> int:
        """The same, in address ranges (start, end), which ascend."""
        return sum(self._classified.pages_within(RunKind.COPY, start, end) for start, end in ranges)

    def final_copy(self, source: Source, recheck: Recheck | None = None) -> int:
        """Ends the last round as `copy`. With `recheck`, older copies are believed only where memory is the same."""
        since_ns = time.monotonic_ns()
        if recheck:
            self._classified = recheck.settle(self._classified, source)
        copied_pages = self._copy(source)
        self.copy_ns = time.monotonic_ns() - since_ns
        return copied_pages

    def forget_copies(self) -> None:
        """What is staged is to be copied again, too: a clone has it, and `memory` will be cleared."""
        self._classified.change_kind(RunKind.STAGED, RunKind.COPY)

    def leave_to_clone(self, ranges: Sequence[tuple[int, int]], source: Source, recheck: Recheck | None = None) -> int:
        """Ends the last round by copying what lies in address ranges alone, which ascend: a clone does not have it.

        Raises as `copy`.
        """
        since_ns = time.monotonic_ns()
        before_pages, picture = self.memory.n_pages, self._next_picture
        picture.clear()
        self.fits = True
        for part, is_left in _parts(self._classified, ranges):
            if is_left:
                part.move_all_out(picture)
            else:
                self.fits &= Copier(source, recheck.settle(part, source) if recheck else part).stage(
                    self.memory, picture
                )
        self.picture, self._next_picture = picture, self.picture
        self.copy_ns = time.monotonic_ns() - since_ns
        return self.memory.n_pages - before_pages

    def compare_with_clone(self, ranges: Sequence[tuple[int, int]], source: Source, recheck: Recheck) -> None:
        """What `recheck` does, for what was left to the clone. Raises as `copy`."""
        picture = RunList(len(self.picture) + 1)
        for part, is_left in _parts(self.picture, ranges):
            (recheck.settle(part, source) if is_left else part).move_all_out(picture)
        self.picture = picture

    def copy_runs(self, runs: RunList, source: Source) -> None:
        """Makes `runs`, which are used up, the picture: nothing is scanned. Raises as `copy`."""
        since_ns = time.monotonic_ns()
        self._next_picture.clear()
        self.fits = Copier(source, runs).stage(self.memory, self._next_picture)
        self.picture, self._next_picture = self._next_picture, self.picture
        self.copy_ns = time.monotonic_ns() - since_ns

    def _scan(self, spans: SpanTable, *, reset: bool) -> None:
        since_ns = time.monotonic_ns()
        self._classified.clear()
        self._scanner.start(spans, staged=self.picture, covered=self._covered)
        self._scanner.all_runs(self._classified, reset=reset)
        self.scan_ns = time.monotonic_ns() - since_ns

    def _copy(self, source: Source) -> int:
        before_pages = self.memory.n_pages
        self.copy_runs(self._classified, source)
        return self.memory.n_pages - before_pages


def _parts(runs: RunList, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[RunList, bool]]:
    """Uses `runs` up by address: what lies in one of the ranges, and (True) what lies before, between and behind them.

    A part is valid until the next one.
    """
    part = RunList(1 << 12)
    position = at_addr = 0
    for start, end in (*ranges, (END_ADDR, END_ADDR)):
        for first, behind, is_left in ((at_addr, start, True), (start, end, False)):
            part.clear()
            position = runs.move_out(position, first, behind, 0, part)
            if len(part):
                yield part, is_left
        at_addr = end
