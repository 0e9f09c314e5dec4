"""PAGEMAP_SCAN: which pages a target has, which were written, and what that means for an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from dumper.kernel.native import checked, ffi, lib, new_array
from dumper.kernel.probes import PAGE_IS_GUARD, knows_category
from dumper.kernel.runs import RunKind, RunList
from formats.layout import PAGE_BYTES


class SpanFlag(IntFlag):
    """How the pages of a span are looked at; `csrc/cdef.h` says what each means."""

    NONE = 0
    SHARED = lib.PD_SPAN_SHARED
    UNSEEN = lib.PD_SPAN_UNSEEN
    FILE = lib.PD_SPAN_FILE
    WHOLE = lib.PD_SPAN_WHOLE
    BY_FD = lib.PD_SPAN_BY_FD
    CHANGES = lib.PD_SPAN_CHANGES
    WATCH = lib.PD_SPAN_WATCH


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch [start_addr, end_addr) of the address space that is looked at in one way."""

    start_addr: int
    end_addr: int
    flags: SpanFlag = SpanFlag.NONE
    fd: int = -1
    fd_offset_bytes: int = 0


class SpanTable:
    """Spans as a C array."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.c = ffi.new(
            "struct pd_span[]",
            [(s.start_addr, s.end_addr, int(s.flags), s.fd, s.fd_offset_bytes) for s in spans],
        )
        self.count = len(spans)


class Scanner:
    """Walks through spans and says what there is, in portions of a fixed size.

    `pagemap_fd` is an open /proc/PID/pagemap. It stays bound to the memory it was opened on: after an exec of the
    target a scan fails with ESRCH.
    """

    REGIONS = 1 << 17

    def __init__(self, pagemap_fd: int) -> None:
        self._pagemap_fd = pagemap_fd
        self._regions = new_array("struct pd_region", self.REGIONS)
        self._used = ffi.new("uint64_t *")
        self._mode = ffi.new("struct pd_scan_mode *")
        self._mode.excluded = PAGE_IS_GUARD if knows_category(PAGE_IS_GUARD) else 0
        self._cursor: Any = None
        self._spans = SpanTable([])
        self._n_regions = 0

    def start(self, spans: SpanTable, staged: RunList, covered: RunList) -> None:
        """Begins a scan. `staged` and `covered` say what is known of pages that were not written."""
        self._spans = spans
        self._cursor = ffi.new("struct pd_cursor *")
        self._lists = staged, covered  # a sweep does not keep its runs alive
        self._staged, self._covered = staged.sweep(), covered.sweep()
        self._n_regions = self._used[0] = 0

    @property
    def can_scan_changes(self) -> bool:
        """Whether spans may have SpanFlag.CHANGES: guard pages must be told from others for it."""
        return bool(self._mode.excluded)

    def distrust_holes(self) -> None:
        """From now on holes are looked for by themselves; see struct pd_scan_mode."""
        self._mode.distrust_holes = True

    def next_runs(self, out: RunList, *, reset: bool) -> bool:
        """Appends the runs of the next portion to `out`, as many as fit; False at the end of the spans.

        With `reset`, pages reported as written are write-protected again in the same atomic step.

        Raises:
            OSError: ESRCH if the memory is gone (exit or exec); other errors of ioctl_pagemap_scan(2).
        """
        if self._used[0] == self._n_regions:
            if self._cursor.span == self._spans.count:
                return False
            self._used[0] = 0
            self._n_regions = 0
            self._mode.reset = reset
            self._n_regions = checked(
                lib.pd_scan(
                    self._pagemap_fd,
                    self._mode,
                    self._spans.c,
                    self._spans.count,
                    self._cursor,
                    self._regions,
                    self.REGIONS,
                )
            )
        lib.pd_classify(self._regions, self._n_regions, self._used, self._staged, self._covered, out.c)
        return True

    def check_memory(self) -> None:
        """Raises OSError ESRCH if the memory that the pagemap belongs to is gone (exit or exec)."""
        cursor = ffi.new("struct pd_cursor *")
        first_page = SpanTable([Span(0, PAGE_BYTES)])
        self._mode.reset = False
        checked(lib.pd_scan(self._pagemap_fd, self._mode, first_page.c, 1, cursor, self._regions, 1))

    def ranges(self, start_addr: int, end_addr: int, category: int) -> list[tuple[int, int]]:
        """(start_addr, end_addr) of the pages of a category (PAGE_IS_*) in a range. Raises as `next_runs`."""
        found: list[tuple[int, int]] = []
        while start_addr < end_addr:
            count = checked(
                lib.pd_scan_category(self._pagemap_fd, start_addr, end_addr, category, self._regions, self.REGIONS)
            )
            found += [(int(r.start_addr), int(r.end_addr)) for r in self._regions[0:count]]
            start_addr = end_addr if count < self.REGIONS else found[-1][1]
        return found

    def all_runs(self, out: RunList, *, reset: bool) -> None:
        """Appends all that is left to `out`, which grows as needed. Raises as `next_runs`."""
        while self.next_runs(out, reset=reset):
            if self._used[0] < self._n_regions:
                out.reserve(2 * out.capacity)


class PageCounts:
    """Pages by VMA and kind, added up over the runs of a round."""

    def __init__(self, vmas: Sequence[Span]) -> None:
        self._table = SpanTable(vmas)
        self._counts = ffi.new("uint64_t[]", lib.PD_RUN_KINDS * max(1, len(vmas)))

    def clear(self) -> None:
        """Begins anew."""
        ffi.memmove(self._counts, bytes(ffi.sizeof(self._counts)), ffi.sizeof(self._counts))

    def add(self, runs: RunList) -> None:
        """Counts `runs`, which are sorted by address as the VMAs are."""
        lib.pd_count_pages(runs.c.runs, len(runs), self._table.c, self._table.count, self._counts)

    def of_vma(self, index: int, kind: RunKind) -> int:
        """Pages of one kind in the VMA at `index`."""
        return int(self._counts[lib.PD_RUN_KINDS * index + kind])

    def by_vma(self, kind: RunKind) -> list[int]:
        """Pages of one kind in each VMA."""
        counts: list[int] = ffi.unpack(self._counts, len(self._counts))
        return counts[kind :: lib.PD_RUN_KINDS][: self._table.count]
