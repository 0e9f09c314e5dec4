"""Copies pages out of rounds to another place, with several threads that decompress.

Each frame is read once for all of its pages that are asked for next to one another:

    frames of a round   |  a b c d  |  e f g h  |       a job: one frame, and where its pieces go
    the other place     ... a b . . c d e . . h ...     (a b), (c d)   then   (e), (h)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from formats.closing import Closing
from formats.images import Frames
from formats.layout import PAGE_BYTES
from formats.segments import Segment

_JOBS_PER_THREAD = 4
_OPEN_OBJECTS = 8


@dataclass(slots=True)
class _Piece:
    """Bytes of a frame's content and where they go."""

    content_offset: int
    n_bytes: int
    offset: int


@dataclass(slots=True)
class _Store:
    """A pages file that is being read: the frame whose pieces are gathered, -1 for none."""

    reader: Frames
    frame_index: int = -1
    pieces: list[_Piece] = field(default_factory=list)

    def add(self, content_offset: int, n_bytes: int, offset: int) -> None:
        if self.pieces:
            last = self.pieces[-1]
            end = (last.content_offset + last.n_bytes, last.offset + last.n_bytes)
            if end == (content_offset, offset):
                last.n_bytes += n_bytes
                return
        self.pieces.append(_Piece(content_offset, n_bytes, offset))


class FrameSource(Protocol):
    """Whose segments are copied: a MemoryView, or what else knows where their bytes are."""

    def open_frames(self, segment: Segment) -> Frames:
        """The file that the pages of a DATA segment are in; whoever opens it closes it.

        Raises ImageCorrupt, StorageError.
        """


class PageCopier(Closing):
    """Hands the bytes of DATA segments of one process to `write`; a context manager, for one thread.

    It holds a few frames per thread in memory, and the seek table of each pages file.
    """

    def __init__(self, source: FrameSource, write: Callable[[memoryview, int], None], threads: int) -> None:
        """`source` is whose segments they are, and stays open.

        `write(content, offset)`, with whole pages, is called by so many threads; what it raises, `finish` does."""
        self._source = source
        self._write = write
        self._stores: dict[tuple[int, int | None], _Store] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predump-copy")
        self._jobs: deque[Future[None]] = deque()
        self._max_jobs = threads * _JOBS_PER_THREAD

    def copy(self, segment: Segment, offset: int) -> None:
        """Have a DATA segment written at byte `offset`; it may be written as late as in `finish`.

        Raises ImageCorrupt and StorageError, also those of earlier segments.
        """
        store = self._store_of(segment)
        start_bytes = segment.page_index * PAGE_BYTES
        end_bytes = start_bytes + segment.end_addr - segment.start_addr
        for frame_index, content_offset, n_bytes in store.reader.pieces(start_bytes, end_bytes):
            if frame_index != store.frame_index:
                self._submit(store)
                store.frame_index = frame_index
            store.add(content_offset, n_bytes, offset)
            offset += n_bytes

    def finish(self) -> None:
        """Return once everything is written; raises ImageCorrupt, StorageError."""
        for store in self._stores.values():
            self._submit(store)
        while self._jobs:
            self._jobs.popleft().result()

    def close(self) -> None:
        """Let go of all files and threads; what is not written yet may never be. May be called again."""
        self._pool.shutdown(cancel_futures=True)
        for store in self._stores.values():
            store.reader.close()

    def _submit(self, store: _Store) -> None:
        if not store.pieces:
            return
        if len(self._jobs) >= self._max_jobs:
            self._jobs.popleft().result()
        self._jobs.append(self._pool.submit(self._copy_frame, store.reader, store.frame_index, store.pieces))
        store.frame_index = -1
        store.pieces = []

    def _copy_frame(self, reader: Frames, frame_index: int, pieces: list[_Piece]) -> None:
        content = memoryview(reader.read_frame(frame_index))
        for piece in pieces:
            self._write(content[piece.content_offset : piece.content_offset + piece.n_bytes], piece.offset)

    def _store_of(self, segment: Segment) -> _Store:
        key = segment.round, segment.object
        store = self._stores.get(key)
        if store is None:
            if segment.object is not None:
                self._bound_objects()
            store = self._stores[key] = _Store(self._source.open_frames(segment))
        return store

    def _bound_objects(self) -> None:
        """Close the files of objects if many are open: a process may map thousands, one after the other."""
        objects = [key for key in self._stores if key[1] is not None]
        if len(objects) >= _OPEN_OBJECTS:
            self.finish()
            for key in objects:
                self._stores.pop(key).reader.close()
