"""What a frame of a pages file has for a process, all of which is brought when it has been unpacked once.

frames of a round   |  a b c d  |  e f g h  |       a job: one frame, and the runs with pages in it
memory              ... a b . . c d e . . h ...     (a b), (c d e)   then   (c d e), (h)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import repeat
from operator import add, floordiv, gt, sub
from typing import NamedTuple

from dumper.kernel.fill import RunTable
from formats.dataruns import DataRuns
from formats.errors import ImageCorrupt
from formats.framereader import FrameReader
from formats.layout import PAGE_BYTES


class Job(NamedTuple):
    """A frame, the index of its first page, and which runs have pages in it."""

    frame_index: int
    first_page: int
    end_page: int
    first_run: int
    end_run: int


class Portion:
    """Runs of a round, and the pages file that they are in, which stays open."""

    def __init__(self, frames: FrameReader, found: DataRuns) -> None:
        """Raises ImageCorrupt if they are not in the order of their addresses there."""
        self.frames = frames
        self.found = found
        self.table = RunTable(found.starts_addr, found.ends_addr, found.page_indexes)
        sizes_bytes = map(sub, found.ends_addr, found.starts_addr)
        self._end_pages = list(map(add, found.page_indexes, map(floordiv, sizes_bytes, repeat(PAGE_BYTES))))
        if any(map(gt, self._end_pages, found.page_indexes[1:])):
            raise self._corrupt("its pages are not in the order of their addresses")

    def jobs(self) -> Iterator[Job]:
        """In the order of the frames, none of which is in vain. Raises ImageCorrupt."""
        indexes = self.found.page_indexes
        frame_index, run = -1, 0
        while run < len(indexes):
            frame_index = max(frame_index + 1, self.frames.index_of(indexes[run] * PAGE_BYTES))
            if frame_index >= self.frames.frame_count:
                raise self._corrupt(f"it has no page {indexes[run]}")
            first_page, end_page = (n_bytes // PAGE_BYTES for n_bytes in self.frames.frame_content_range(frame_index))
            end_run = bisect_left(indexes, end_page, run + 1)
            yield Job(frame_index, first_page, end_page, run, end_run)
            run = end_run if self._end_pages[end_run - 1] <= end_page else end_run - 1

    def parts(self, job: Job) -> Iterator[tuple[int, int, int]]:
        """What the frame has, run by run: `[start_addr, end_addr)`, and the first byte in the frame's content."""
        found = self.found
        for run in range(job.first_run, job.end_run):
            first_page = max(job.first_page, found.page_indexes[run])
            end_page = min(job.end_page, self._end_pages[run])
            if first_page < end_page:
                start_addr = found.starts_addr[run] + (first_page - found.page_indexes[run]) * PAGE_BYTES
                end_addr = start_addr + (end_page - first_page) * PAGE_BYTES
                yield start_addr, end_addr, (first_page - job.first_page) * PAGE_BYTES

    def _corrupt(self, problem: str) -> ImageCorrupt:
        return ImageCorrupt(f"{self.frames.path} is damaged: {problem}.", path=str(self.frames.path))
