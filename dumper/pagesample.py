"""What pages of a target come to, found by reading and compressing a few of them as a round does."""

import random
import time
from collections.abc import Sequence

from dumper.kernel.copy import Copier, PageBuffer, Source, pack
from dumper.kernel.runs import RunKind, RunList
from dumper.projection import PageCost
from formats.frames import compress_frames
from formats.layout import FRAME_PAGES, PAGE_BYTES

STRETCHES = 8  # of a frame each: a sample
ROOM_RUNS = 1 << 15  # a copier works in batches, and wants room for whatever one may yield


class Picker:
    """Chooses stretches of pages out of many, evenly, while their runs pass by in portions."""

    def __init__(self, kinds: Sequence[RunKind], pages_expected: int) -> None:
        """`pages_expected`: about how many pages of `kinds` there will be."""
        self._kinds = kinds
        self._seen_pages = 0
        step = max(FRAME_PAGES, pages_expected / STRETCHES)
        starts = range(min(STRETCHES, 1 + pages_expected // FRAME_PAGES))
        self._left = [int((i + random.random()) * step) if pages_expected > step else 0 for i in starts]

    def pick(self, runs: RunList) -> RunList:
        """Those of the portion, as COPY runs: mostly none."""
        picked = RunList(1)
        end = self._seen_pages + sum(map(runs.pages_of, self._kinds))
        while self._left and self._left[0] < end:
            first = self._left.pop(0) - self._seen_pages
            picked = picked.united_with(runs.part(self._kinds, first, FRAME_PAGES))
        self._seen_pages = end
        return picked


class PageSample:
    """Sums over pages that were read and compressed; times are those of the processor, whoever else wants it."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._buffer = PageBuffer(STRETCHES * FRAME_PAGES)
        self._copied = RunList(ROOM_RUNS)
        self.pages = 0
        self.stored_bytes = 0
        self._copy_ns = self._compress_ns = 0

    def take(self, source: Source, runs: RunList) -> None:
        """Reads the COPY runs and compresses them. Raises OSError ESRCH if the process is gone."""
        if not len(runs):
            return
        copied, packed = self._copied, RunList(1)
        copied.clear()
        self._buffer.clear()
        began_ns = time.thread_time_ns()
        Copier(source, runs).fill(self._buffer, copied)
        copied_ns = time.thread_time_ns()
        self.pages += self._buffer.n_pages
        pack(copied, self._buffer, 0, packed)
        frames, _ = compress_frames(self._buffer.content(), FRAME_PAGES * PAGE_BYTES, self._level)
        self._compress_ns += time.thread_time_ns() - copied_ns
        self._copy_ns += copied_ns - began_ns
        self.stored_bytes += sum(map(len, frames))

    def cost(self) -> PageCost | None:
        """Of a page, on average; None as long as none was read."""
        if not self.pages:
            return None
        return PageCost(
            copy_ns=self._copy_ns / self.pages,
            compress_ns=self._compress_ns / self.pages,
            stored_bytes=self.stored_bytes / self.pages,
        )
