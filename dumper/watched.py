"""One process that is watched: scanned and reset again and again, with nothing copied."""

import time
from collections.abc import Callable, Sequence

from dumper.kernel.pages import PageCounts, Span, SpanTable
from dumper.kernel.recency import Recency
from dumper.kernel.runs import RunKind, RunList
from dumper.memory_map import Vma, spans_while_running
from dumper.tree import Member
from dumper.workingset import MAX_TICKS
from formats.layout import PAGE_BYTES, RUN

ADDRESS_SPACE_BYTES = 1 << 47
MAX_RUN_PAGES = 1 << 31
PORTION_RUNS = 1 << 16


def _everything_known() -> RunList:
    """All pages there can be: so a scan with it as covered finds nothing to copy but what was written."""
    runs = RunList(1)
    for start_addr in range(0, ADDRESS_SPACE_BYTES, MAX_RUN_PAGES * PAGE_BYTES):
        runs.extend_packed(RUN.pack(start_addr, MAX_RUN_PAGES, RunKind.PARENT, 0))
    return runs


EVERYTHING, NOTHING = _everything_known(), RunList(1)


class Watched:
    """A member of a tree, as of its last scan: its tracked `vmas`, and in each the pages that were `written` since the
    scan before; how many are present. What comes in the first scan of all counts as written.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self.recency = Recency(MAX_TICKS)
        self.vmas: Sequence[Vma] = []
        self.written: Sequence[int] = []
        self.pages_present = self.scan_ns = 0
        self._runs = RunList(PORTION_RUNS)
        self._look_at([])

    def scan(self, tick: int, use: Callable[[RunList], None]) -> None:
        """Scans and resets; `use` gets the runs in portions: COPY for written pages, PARENT for others with content.

        In tick 0 nothing counts for `recency`. Raises one of LOST_ERRORS, and what `Tracker.refresh` raises.
        """
        member = self._member
        assert member.tracker is not None
        vmas = [vma for vma in member.tracker.refresh() if vma.tracked]
        if vmas != self.vmas:
            self._look_at(vmas)
        self._counts.clear()
        self.scan_ns = 0
        member.scanner.start(self._spans, NOTHING, EVERYTHING)
        runs, scanning = self._runs, True
        while scanning:
            runs.clear()
            since_ns = time.monotonic_ns()
            scanning = member.scanner.next_runs(runs, reset=True)
            self.scan_ns += time.monotonic_ns() - since_ns
            self._counts.add(runs)
            if tick:
                self.recency.note(tick, runs)
            use(runs)
        member.scanner.check_memory()
        self.written = self._counts.by_vma(RunKind.COPY)
        self.pages_present = sum(self.written) + sum(self._counts.by_vma(RunKind.PARENT))

    def _look_at(self, vmas: list[Vma]) -> None:
        self.vmas = vmas
        self._spans = SpanTable(spans_while_running(vmas))
        self._counts = PageCounts([Span(vma.mapping.start_addr, vma.mapping.end_addr) for vma in vmas])
