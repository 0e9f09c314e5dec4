"""read -> take out zero pages -> compress -> write: three kinds of threads with bounded queues between them.

The caller reads; some threads compress; one writes, in the order of submission.
"""

import queue
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from dumper.kernel.copy import PageBuffer
from formats.closing import Closing
from formats.frames import FrameWriter, compress_frames
from formats.layout import FRAME_PAGES, PAGE_BYTES

BATCH_PAGES = 1024
BUFFERS_BESIDE_COMPRESSORS = 3  # one being read into, one being written, one to spare

Frames = tuple[list[bytes], list[int]]


class _Job(NamedTuple):
    frames: Future[Frames]
    written: Future[None]
    buffer: PageBuffer


class PagePipeline(Closing):
    """Takes buffers of pages and appends them to a pages file, compressed at `level`."""

    def __init__(self, *, level: int, compress_threads: int) -> None:
        self._level = level
        self._compressors = ThreadPoolExecutor(compress_threads, thread_name_prefix="compress")
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

    def give_back(self, buffer: PageBuffer) -> None:
        """Returns a buffer that turned out to hold nothing."""
        self._free.put(buffer)

    def submit(self, file: FrameWriter, buffer: PageBuffer) -> None:
        """Compresses and appends the pages in `buffer`, which is free again afterwards."""
        frames = self._compressors.submit(compress_frames, buffer.content(), FRAME_PAGES * PAGE_BYTES, self._level)
        self._jobs.append(_Job(frames, self._writer.submit(self._write, file, frames, buffer), buffer))

    def flush(self) -> None:
        """Waits until everything submitted is written. Raises what writing raised (StorageError)."""
        while self._jobs:
            self._jobs.popleft().written.result()

    def drop(self) -> None:
        """Forgets what was submitted, and waits until nothing works on it any more."""
        for job in self._jobs:
            if job.written.cancel():
                self._free.put(job.buffer)
            job.frames.cancel()
        wait([job.frames for job in self._jobs])
        wait([job.written for job in self._jobs])
        self._jobs.clear()

    def close(self) -> None:
        """Ends the threads; what they have not begun is dropped."""
        self._compressors.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)

    def _write(self, file: FrameWriter, frames: Future[Frames], buffer: PageBuffer) -> None:
        try:
            file.append(*frames.result())
        finally:
            self._free.put(buffer)
