"""Pages out of rounds in the order in which they are asked for, their frames read ahead by several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NamedTuple

from formats.closing import Closing
from formats.images import Frames
from formats.layout import PAGE_BYTES
from formats.segments import Segment

_OPEN_OBJECTS = 8
_HELD_FRAMES = 256


class Piece(NamedTuple):
    """Bytes of one frame: `n_bytes` from `offset` on of what `frame` comes to."""

    frame: Future[bytes]
    offset: int
    n_bytes: int

    def content(self) -> bytes:
        """The bytes, once they are there; raises ImageCorrupt, StorageError."""
        whole = self.frame.result()
        return whole if len(whole) == self.n_bytes else whole[self.offset : self.offset + self.n_bytes]


@dataclass(slots=True)
class _Store:
    """A pages file that is being read: the frame asked for last, and those that threads are at."""

    frames: Frames
    index: int = -1
    frame: Future[bytes] | None = None
    unfinished: set[Future[bytes]] = field(default_factory=set)


class FramesAhead(Closing):
    """Reads frames in threads; a context manager, for one thread. Pages of one file should be asked for in their order.

    Of each file the frame asked for last is held (of a bounded number of files), and what the asker holds of the
    others. `asked` counts the frames so far.
    """

    def __init__(self, open_frames: Callable[[Segment], Frames], threads: int) -> None:
        """`open_frames` opens the file that the pages of a DATA segment are in; as MemoryView.open_frames."""
        self.asked = 0
        self._open_frames = open_frames
        self._stores: dict[tuple[int, int | None], _Store] = {}  # the one used last comes last
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predump-ahead")

    def close(self) -> None:
        """Let go of all files and threads. May be called again."""
        self._pool.shutdown(cancel_futures=True)
        for store in self._stores.values():
            store.frames.close()

    def piece(self, segment: Segment, addr: int, end_addr: int) -> Piece:
        """The bytes of a DATA segment from an address in it on, up to `end_addr` or the end of a frame.

        Raises ImageCorrupt, StorageError.
        """
        store = self._store_of(segment)
        start_bytes = segment.page_index * PAGE_BYTES + addr - segment.start_addr
        index, offset, n_bytes = next(store.frames.pieces(start_bytes, start_bytes + end_addr - addr))
        if store.frame is None or index != store.index:
            store.frame = self._pool.submit(store.frames.read_frame, index)
            store.unfinished.add(store.frame)
            store.frame.add_done_callback(store.unfinished.discard)
            store.index = index
            self.asked += 1
        return Piece(store.frame, offset, n_bytes)

    def _store_of(self, segment: Segment) -> _Store:
        key = segment.round, segment.object
        store = self._stores.pop(key, None)
        if store is None:
            if segment.object is not None:
                self._bound_objects()
            store = _Store(self._open_frames(segment))
        self._stores[key] = store
        if len(self._stores) > _HELD_FRAMES:
            self._stores[list(self._stores)[-_HELD_FRAMES - 1]].frame = None
        return store

    def _bound_objects(self) -> None:
        """Close a file if those of many objects are open: a process may map thousands, one after the other."""
        objects = [key for key in self._stores if key[1] is not None]
        for key in objects[: len(objects) - _OPEN_OBJECTS + 1]:
            store = self._stores.pop(key)
            wait(list(store.unfinished))
            store.frames.close()
