"""read -> take out zero pages -> compress -> write: three kinds of threads with bounded queues between them.

The caller reads; some threads compress; one writes, in the order of submission. The latter two keep to limits, but for
the time in which a target waits for them.
"""

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import NamedTuple

from dumper.kernel.copy import PageBuffer
from dumper.limits import NS_PER_S, Limits, RateLimit, plan_cpu
from formats.closing import Closing
from formats.frames import FrameWriter, compress_frames
from formats.layout import FRAME_PAGES, PAGE_BYTES

BATCH_PAGES = 1024
BUFFERS_BESIDE_COMPRESSORS = 3  # one being read into, one being written, one to spare
HASTY_LEVEL = -5  # takes half the time of level 1, also of what hardly can be compressed
LEAST_PRIORITY = 19
NO_LIMITS = Limits()

Frames = tuple[list[bytes], list[int]]


class _Job(NamedTuple):
    frames: Future[Frames]
    written: Future[None]
    buffer: PageBuffer


class PagePipeline(Closing):
    """Takes buffers of pages and appends them to a pages file, compressed at `level`."""

    def __init__(self, *, level: int, compress_threads: int, limits: Limits = NO_LIMITS) -> None:
        self._level = level
        self._threads = compress_threads
        self._rate = RateLimit(limits.bytes_per_s, time.monotonic_ns()) if limits.bytes_per_s else None
        self._plan = plan_cpu(limits, len(os.sched_getaffinity(0)), compress_threads)
        self._hurry = threading.Event()
        self._eager = self._compressors = ThreadPoolExecutor(compress_threads, thread_name_prefix="compress")
        if limits.cpu_share is not None:
            self._compressors = ThreadPoolExecutor(self._plan.threads, "compress-nice", initializer=_be_nice)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._jobs: deque[_Job] = deque()
        self._free: queue.SimpleQueue[PageBuffer] = queue.SimpleQueue()
        for _ in range(compress_threads + BUFFERS_BESIDE_COMPRESSORS):
            self._free.put(PageBuffer(BATCH_PAGES))

    def acquire(self) -> PageBuffer:
        """An empty buffer, as soon as there is one. Raises what writing raised (StorageError)."""
        buffer = self._free.get()
        buffer.clear()
        try:
            while self._jobs and self._jobs[0].written.done():
                self._jobs.popleft().written.result()
        except BaseException:
            self._free.put(buffer)
            raise
        return buffer

    def make_haste(self) -> None:
        """From now on the pages count that are through, not the bytes that they become."""
        if self._level:  # level 0 compresses nothing
            self._level = min(self._level, HASTY_LEVEL)

    def batch_pages(self, n_pages: int) -> int:
        """How many pages to submit at once, of so many: every thread gets some, in whole frames."""
        per_thread = -(-n_pages // self._threads)
        return min(BATCH_PAGES, max(1, -(-per_thread // FRAME_PAGES)) * FRAME_PAGES)

    def give_back(self, buffer: PageBuffer) -> None:
        """Returns a buffer that turned out to hold nothing."""
        self._free.put(buffer)

    def submit(self, file: FrameWriter, buffer: PageBuffer) -> None:
        """Compresses and appends the pages in `buffer`, which is free again afterwards."""
        compressors = self._eager if self._hurry.is_set() else self._compressors
        frames = compressors.submit(self._compress, buffer)
        self._jobs.append(_Job(frames, self._writer.submit(self._write, file, frames, buffer), buffer))

    def flush(self) -> None:
        """Waits until everything submitted is written. Raises what writing raised (StorageError)."""
        while self._jobs:
            self._jobs.popleft().written.result()

    @contextmanager
    def unlimited(self) -> Iterator[None]:
        """Inside, somebody waits for what is submitted: no limit holds."""
        was_set = self._hurry.is_set()
        self._hurry.set()
        try:
            yield
        finally:
            if not was_set:
                self._hurry.clear()

    def drop(self) -> None:
        """Forgets what was submitted, and waits until nothing works on it any more."""
        for job in self._jobs:
            if job.written.cancel():
                self._free.put(job.buffer)
            job.frames.cancel()
        with self.unlimited():
            wait([job.frames for job in self._jobs])
            wait([job.written for job in self._jobs])
        self._jobs.clear()

    def close(self) -> None:
        """Ends the threads; what they have not begun is dropped."""
        with self.unlimited():
            self._compressors.shutdown(cancel_futures=True)
            self._eager.shutdown(cancel_futures=True)
            self._writer.shutdown(cancel_futures=True)

    def _compress(self, buffer: PageBuffer) -> Frames:
        since_ns = time.thread_time_ns()
        frames = compress_frames(buffer.content(), FRAME_PAGES * PAGE_BYTES, self._level)
        self._pause(self._plan.pause_ns(time.thread_time_ns() - since_ns))
        return frames

    def _write(self, file: FrameWriter, frames: Future[Frames], buffer: PageBuffer) -> None:
        try:
            blocks, lengths = frames.result()
            if self._rate and not self._hurry.is_set():
                self._pause(self._rate.take(sum(map(len, blocks)), time.monotonic_ns()))
            file.append(blocks, lengths)
        finally:
            self._free.put(buffer)

    def _pause(self, ns: int) -> None:
        """Ends early when somebody waits."""
        if ns:
            self._hurry.wait(ns / NS_PER_S)


def _be_nice() -> None:
    """For the calling thread alone: priorities are of threads, setpriority(2)."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEAST_PRIORITY)
