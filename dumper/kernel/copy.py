"""Bytes of a target: read into reused buffers, and zero pages taken out of them."""

import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dumper.kernel.native import checked, ffi, lib
from dumper.kernel.runs import RunKind, RunList
from formats.closing import Closing
from formats.layout import PAGE_BYTES

SPARE_RUNS = 1 << 16  # of a list: what cannot be read cuts runs in pieces
PAGES_FOR_TWO = 1 << 13  # of fewer, a second thread saves nothing that could be measured


class PageBuffer:
    """Page-aligned memory for `capacity_pages` pages, touched beforehand so that no copy waits for it."""

    def __init__(self, capacity_pages: int) -> None:
        self.memory = mmap.mmap(
            -1,
            capacity_pages * PAGE_BYTES,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE,
        )
        self.c = ffi.new("struct pd_buffer *")
        self.c.bytes = ffi.cast("uint8_t *", ffi.from_buffer(self.memory))
        self.c.capacity_pages = capacity_pages

    @property
    def n_pages(self) -> int:
        """Pages in the buffer."""
        return int(self.c.n_pages)

    @property
    def capacity_pages(self) -> int:
        """Most pages that fit."""
        return int(self.c.capacity_pages)

    @property
    def size_pages(self) -> int:
        """Most pages that fit without a limit."""
        return len(self.memory) // PAGE_BYTES

    def limit_pages(self, capacity_pages: int) -> None:
        """Lets no more than so many pages in; never more than the memory holds."""
        self.c.capacity_pages = min(capacity_pages, self.size_pages)

    def clear(self) -> None:
        """Empties the buffer and keeps its memory."""
        self.c.n_pages = 0

    def content(self) -> memoryview:
        """The bytes of the pages in the buffer, not copied."""
        return memoryview(self.memory)[: self.n_pages * PAGE_BYTES]


class StagingMemory(PageBuffer, Closing):
    """A buffer into which a second thread copies, too, where there is much to copy and a processor for it."""

    def __init__(self, capacity_pages: int) -> None:
        super().__init__(capacity_pages)
        self.helper: ThreadPoolExecutor | None = None
        if len(os.sched_getaffinity(0)) > 1:
            self.helper = ThreadPoolExecutor(1, thread_name_prefix="copy")
            self.helper.submit(int).result()  # it is there, and waits

    def close(self) -> None:
        """Ends the thread."""
        if self.helper:
            self.helper.shutdown()
            self.helper = None


class FileMaps:
    """Mappings whose pages are read from the file behind them: (start_addr, end_addr, fd, fd_offset_bytes), sorted."""

    def __init__(self, maps: Sequence[tuple[int, int, int, int]] = ()) -> None:
        self.c = ffi.new("struct pd_file_map[]", [(s, e, offset, fd, 0) for s, e, fd, offset in maps])
        self.count = len(maps)


class Source:
    """Where pages come from: a process, files behind its mappings, and what was staged before.

    `tid` is any live thread of it (0: the process itself is not read, only what was staged), `mem_fd` an open
    /proc/TID/mem for the pages that process_vm_readv(2) refuses.
    """

    def __init__(self, tid: int, mem_fd: int, files: FileMaps, staging: PageBuffer | None = None) -> None:
        self._keep = (files, staging)
        self.c: Any = ffi.new(
            "struct pd_source *",
            {
                "tid": tid,
                "mem_fd": mem_fd,
                "files": files.c,
                "n_files": files.count,
                "staging": staging.c.bytes if staging else ffi.NULL,
            },
        )


class Copier:
    """Moves the pages of a run list into buffers, in order."""

    LOST_RUNS = 1 << 13

    def __init__(self, source: Source, runs: RunList) -> None:
        self._source = source
        self._runs = runs
        self._next = ffi.new("uint64_t *")
        self._lost = RunList(self.LOST_RUNS)
        self.lost: list[tuple[int, int]] = []  # pages that could not be read, (start_addr, end_addr)

    def _copy(self, out_kind: RunKind, buffer: PageBuffer, out: RunList) -> bool:
        result = checked(lib.pd_copy(self._source.c, self._runs.c, self._next, out_kind, buffer.c, out.c, self._lost.c))
        if len(self._lost):
            self.lost += self._lost.ranges()
            self._lost.clear()
        return bool(result)

    def stage(self, buffer: PageBuffer, out: RunList) -> bool:
        """Copies everything into the staging memory; False if some runs did not fit and are still to be copied.

        What could not be read stays a COPY run, too. Raises OSError: ESRCH if the process is gone.
        """
        out.reserve(len(out) + len(self._runs) + SPARE_RUNS)
        n_pages = self._runs.pages_of(RunKind.COPY)
        if n_pages >= PAGES_FOR_TWO and n_pages <= buffer.capacity_pages - buffer.n_pages:
            helper = buffer.helper if isinstance(buffer, StagingMemory) else None
            if helper:
                return self._stage_with(helper, n_pages, buffer, out)
        return not self._copy(RunKind.STAGED, buffer, out)

    def _stage_with(self, helper: ThreadPoolExecutor, n_pages: int, buffer: PageBuffer, out: RunList) -> bool:
        """The same by two threads, each half of the pages; they fit."""
        half = n_pages // 2
        before, behind = self._runs.split_at_page(RunKind.COPY, half)
        further = RunList(len(behind) + SPARE_RUNS)
        place = ffi.new("struct pd_buffer *", (buffer.c.bytes, buffer.n_pages + half, buffer.capacity_pages))
        job = helper.submit(Copier(self._source, behind)._to, place, further)
        try:
            self._runs = before
            full = self._to(buffer.c, out)
        finally:
            full_behind = job.result()
        buffer.c.n_pages = place.n_pages
        further.move_all_out(out)
        return not (full or full_behind)

    def _to(self, place: Any, out: RunList) -> int:
        kind = RunKind.STAGED
        return checked(lib.pd_copy(self._source.c, self._runs.c, self._next, kind, place, out.c, self._lost.c))

    def fill(self, buffer: PageBuffer, out: RunList) -> bool:
        """Fills the buffer with the next pages as DATA; False when there is nothing left after it.

        Raises OSError: ESRCH if the process is gone.
        """
        return self._copy(RunKind.DATA, buffer, out)


def pack(runs: RunList, buffer: PageBuffer, first_index: int, out: RunList) -> None:
    """Takes zero pages out of `buffer` and appends the final runs to `out`; data pages count from `first_index`."""
    out.reserve(len(out) + len(runs) + buffer.n_pages)
    if lib.pd_pack(runs.c, buffer.c, first_index, out.c):
        raise AssertionError("pack: the output was made large enough above")
