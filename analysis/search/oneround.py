"""The memory of a process in one round as blocks to search, put together by several threads.

In a chain of many rounds the pages of a block lie scattered over as many files; each frame of these is read once or so,
since blocks ascend:

    block       | 1 1 1 3 1 2 1 1 3 |     numbers of the rounds that hold its pages
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import NamedTuple

from analysis.search.scan import LONG_ZERO_BYTES, Block
from formats.areas import Area
from formats.chain import MemoryView
from formats.closing import Closing
from formats.framesahead import Piece
from formats.images import Frames
from formats.layout import PAGE_BYTES
from formats.segments import Segment, SegmentKind

_BLOCK_BYTES = 512 << 10
_BLOCKS_PER_THREAD = 2
_OPEN_OBJECTS = 8
_HELD_FRAMES = 256
_THE_ROUND = 1
"""The bit of the only one."""


class _Stored(NamedTuple):
    """A part of a block that lies in a pages file from byte `start_bytes` of its content on."""

    file: _File
    start_bytes: int
    n_bytes: int


class _File:
    """A pages file, and the frame that was read last."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self.forget()

    def forget(self) -> None:
        """Let go of the frame."""
        self._latest: tuple[int, int, memoryview] = 0, 0, memoryview(b"")

    def content(self, start_bytes: int, n_bytes: int) -> list[memoryview]:
        """For any thread. Raises ImageCorrupt, StorageError."""
        first_byte, end_byte, frame = self._latest
        if first_byte <= start_bytes and start_bytes + n_bytes <= end_byte:
            return [frame[start_bytes - first_byte : start_bytes - first_byte + n_bytes]]
        found = []
        for index, offset, piece_bytes in self.frames.pieces(start_bytes, start_bytes + n_bytes):
            frame = memoryview(self.frames.read_frame(index))
            self._latest = start_bytes - offset, start_bytes - offset + len(frame), frame
            found.append(frame[offset : offset + piece_bytes])
            start_bytes += piece_bytes
        return found


class RoundBlocks(Closing):
    """A context manager, for one thread."""

    def __init__(self, view: MemoryView, threads: int) -> None:
        """`view` is of the round, and stays open."""
        self._view = view
        self._files: dict[tuple[int, int | None], _File] = {}  # the one used last comes last
        self._unfinished: set[Future[bytes]] = set()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predump-search")
        self._n_ahead = threads * _BLOCKS_PER_THREAD

    def close(self) -> None:
        """Let go of all files and threads. May be called again."""
        self._pool.shutdown(cancel_futures=True)
        for file in self._files.values():
            file.frames.close()

    def blocks(self, areas: Iterable[Area]) -> Iterator[Block]:
        """What is known in the areas, which ascend. Raises ImageCorrupt, StorageError."""
        queue: deque[Block] = deque()
        for block in self._blocks(areas):
            queue.append(block)
            if len(queue) > self._n_ahead:
                yield queue.popleft()
        yield from queue

    def _blocks(self, areas: Iterable[Area]) -> Iterator[Block]:
        parts: list[_Stored | int] = []
        start_addr = end_addr = 0
        for segment in self._known(areas):
            is_zero = segment.kind is SegmentKind.ZERO
            is_long_zero = is_zero and segment.end_addr - segment.start_addr > LONG_ZERO_BYTES
            if parts and (is_long_zero or segment.start_addr != end_addr):
                yield self._block(start_addr, end_addr, parts)
                parts = []
            if is_long_zero:
                n_bytes = segment.end_addr - segment.start_addr
                yield Block(segment.start_addr, segment.end_addr, [([n_bytes], _THE_ROUND)])
                continue
            file = None if is_zero else self._file_of(segment)
            addr = segment.start_addr
            while addr < segment.end_addr:
                start_addr = start_addr if parts else addr
                end_addr = min(segment.end_addr, start_addr + _BLOCK_BYTES)
                start_bytes = segment.page_index * PAGE_BYTES + addr - segment.start_addr
                parts.append(_Stored(file, start_bytes, end_addr - addr) if file else end_addr - addr)
                addr = end_addr
                if end_addr - start_addr == _BLOCK_BYTES:
                    yield self._block(start_addr, end_addr, parts)
                    parts = []
        if parts:
            yield self._block(start_addr, end_addr, parts)

    def _known(self, areas: Iterable[Area]) -> Iterator[Segment]:
        for area in areas:
            for segment in self._view.segments(area.start_addr, area.end_addr):
                if segment.kind is not SegmentKind.ABSENT:
                    yield segment
                elif area.zeros and area.object is None:
                    yield Segment(segment.start_addr, segment.end_addr, SegmentKind.ZERO, segment.round, 0)

    def _block(self, start_addr: int, end_addr: int, parts: list[_Stored | int]) -> Block:
        content = self._pool.submit(_put_together, parts)
        self._unfinished.add(content)
        content.add_done_callback(self._unfinished.discard)
        n_zeros = sum(part for part in parts if isinstance(part, int))
        return Block(start_addr, end_addr, [([Piece(content, 0, end_addr - start_addr)], _THE_ROUND)], n_zeros)

    def _file_of(self, segment: Segment) -> _File:
        key = segment.round, segment.object
        file = self._files.pop(key, None)
        if file is None:
            if segment.object is not None:
                self._bound_objects()
            file = _File(self._view.open_frames(segment))
        self._files[key] = file
        if len(self._files) > _HELD_FRAMES:
            self._files[next(islice(reversed(self._files), _HELD_FRAMES, None))].forget()
        return file

    def _bound_objects(self) -> None:
        """Close a file if those of many objects are open: a process may map thousands, one after the other."""
        objects = [key for key in self._files if key[1] is not None]
        for key in objects[: len(objects) - _OPEN_OBJECTS + 1]:
            wait(list(self._unfinished))
            self._files.pop(key).frames.close()


def _put_together(parts: list[_Stored | int]) -> bytes:
    found: list[bytes | memoryview] = []
    for part in parts:
        if isinstance(part, int):
            found.append(bytes(part))
        else:
            found += part.file.content(part.start_bytes, part.n_bytes)
    return b"".join(found)
