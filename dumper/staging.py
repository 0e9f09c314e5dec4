"""The staging memory: pages copied shortly before and during the freeze, and the picture they give of the target."""

import time

from dumper.kernel.copy import Copier, PageBuffer, Source
from dumper.kernel.pages import Scanner, SpanTable
from dumper.kernel.recheck import Recheck
from dumper.kernel.runs import RunList
from dumper.kernel.uffd import reports_zapped_huge_pages

SPARE_RUNS = 2 * Scanner.REGIONS  # enough not to grow in the freeze; what is not used is never touched
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
        return copied_pages

    def final_round(self, spans: SpanTable, source: Source, recheck: Recheck | None = None) -> int:
        """The same of the frozen target, with all of the memory, and without write-protecting anything again.

        With `recheck`, older copies are believed only where memory is still the same.
        """
        self.memory.limit_pages(self.memory.size_pages)
        self._scan(spans, reset=False)
        since_ns = time.monotonic_ns()
        if recheck:
            self._classified = recheck.settle(self._classified, source)
        copied_pages = self._copy(source)
        self.copy_ns = time.monotonic_ns() - since_ns
        return copied_pages

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
