"""A round's runs: for each range of pages of a process or memory object, where its bytes are.

The content of the file is packed `layout.RUN` records, ascending by address, in frames of up to
2048 records, so that one page is found by decoding a handful of frames.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import accumulate, compress, islice
from operator import gt, or_
from pathlib import Path

from formats import layout
from formats.closing import Closing
from formats.errors import ImageCorrupt
from formats.framefile import FrameFile
from formats.framereader import FrameReader
from formats.frames import FrameWriter, compress_frames
from formats.layout import ADDR_LIMIT, PAGE_BYTES, RunKind
from formats.manifest import FileEntry
from formats.runcolumns import IS_KIND, RunColumns

_COMPRESSION_LEVEL = 3
_CACHED_FRAMES = 16
_COLUMN_RUNS = 2048
_OPPOSITE = bytes(number == 0 for number in range(256))
_KINDS = {kind.value: kind for kind in RunKind}


@dataclass(frozen=True, slots=True)
class Run:
    """Pages that share one kind: `n_pages` from `start_addr` on.

    `page_index` is the position of the first page in the pages file of the round (DATA only).
    """

    start_addr: int
    n_pages: int
    kind: RunKind
    page_index: int

    @property
    def end_addr(self) -> int:
        """First address behind the run."""
        return self.start_addr + self.n_pages * PAGE_BYTES

    def clip(self, start_addr: int, end_addr: int) -> Run:
        """The part of the run inside `[start_addr, end_addr)`, which overlaps it."""
        start_addr = max(start_addr, self.start_addr)
        end_addr = min(end_addr, self.end_addr)
        skipped_pages = (start_addr - self.start_addr) // PAGE_BYTES
        return Run(
            start_addr,
            (end_addr - start_addr) // PAGE_BYTES,
            self.kind,
            self.page_index + skipped_pages if self.kind is RunKind.DATA else 0,
        )


Piece = tuple[int, int, Run | None]
"""A part of a page range: its start and end, and the run that covers all of it, None for a hole."""


def cut(found: Iterable[Run], start: int, end: int) -> Iterator[Piece]:
    """The page range `[start, end)` cut at the runs that were `found` in it, holes included, in order."""
    position = start
    for run in found:
        if position < run.start_addr:
            yield position, run.start_addr, None
        position = run.end_addr
        yield run.start_addr, position, run
    if position < end:
        yield position, end, None


def columns_of(found: Iterable[Run]) -> Iterator[RunColumns]:
    """The same runs, some thousands at a time."""
    found = iter(found)
    while some := list(islice(found, _COLUMN_RUNS)):
        kinds = bytes(run.kind for run in some)
        yield RunColumns(
            [run.start_addr for run in some], [run.end_addr for run in some], kinds, [run.page_index for run in some]
        )


class PagemapWriter:
    """Writes packed run records, ascending by address; not for use by two threads at once.

    `run_count` counts the records appended.
    """

    def __init__(self, file: FrameFile) -> None:
        self.path = file.path
        self.run_count = 0
        self._frames = FrameWriter(file)
        self._buffer = bytearray()

    def append(self, records: bytes | memoryview) -> None:
        """Add whole records of layout.RUN; raises PredumpError."""
        size_bytes = memoryview(records).nbytes
        if size_bytes % layout.RUN.size:
            raise ValueError(f"{size_bytes} bytes are not whole run records")
        self._buffer += records
        self.run_count += size_bytes // layout.RUN.size
        self._flush(len(self._buffer) // layout.PAGEMAP_FRAME_BYTES * layout.PAGEMAP_FRAME_BYTES)

    def close(self) -> FileEntry:
        """Write what is buffered, and the end of the file; raises PredumpError."""
        self._flush(len(self._buffer))
        return self._frames.close()

    def abort(self) -> None:
        """Leave the file unfinished as it is; does nothing after `close`."""
        self._frames.abort()

    def remove(self) -> None:
        """Take the file back; raises PredumpError."""
        self._frames.remove()

    def _flush(self, n_bytes: int) -> None:
        if not n_bytes:
            return
        with memoryview(self._buffer) as view, view[:n_bytes] as content:
            frames, contents_bytes = compress_frames(content, layout.PAGEMAP_FRAME_BYTES, _COMPRESSION_LEVEL)
        self._frames.append(frames, contents_bytes)
        del self._buffer[:n_bytes]


@dataclass(frozen=True, slots=True)
class _Frame:
    """The checked records of one frame, column by column; Run objects are made when asked for.

    `first_page_index` is the page_index of the first DATA run (None if the frame has none), and
    `next_page_index` the one that must follow the last.
    """

    columns: RunColumns
    first_page_index: int | None
    next_page_index: int | None

    def run(self, position: int) -> Run:
        columns = self.columns
        start_addr = columns.starts_addr[position]
        n_pages = (columns.ends_addr[position] - start_addr) // PAGE_BYTES
        return Run(start_addr, n_pages, _KINDS[columns.kinds[position]], columns.page_indexes[position])


class Pagemap(Closing):
    """Reads the runs of one process or object; a context manager, not for use by two threads at once.

    Each frame is checked as a whole before a run of it is given out, and its fit with the frame
    before it while runs are iterated.
    """

    def __init__(self, path: Path, entry: FileEntry | None = None) -> None:
        """Open the file, which must be the one of `entry`; raises ImageCorrupt, StorageError."""
        self.path = path
        self._reader = FrameReader(
            path,
            max_frame_bytes=layout.PAGEMAP_FRAME_BYTES,
            content_unit_bytes=layout.RUN.size,
            entry=entry,
        )
        self._frame = lru_cache(maxsize=_CACHED_FRAMES)(self._decode_frame)
        self._first_addrs: dict[int, int] = {}
        self._latest_index = 0

    def close(self) -> None:
        """Close the file; reading is over. May be called again."""
        self._reader.close()

    @property
    def run_count(self) -> int:
        """Number of runs in the file."""
        return self._reader.content_bytes // layout.RUN.size

    def find(self, addr: int) -> Run | None:
        """The run that holds an address, None for a hole; raises ImageCorrupt, StorageError.

        Decompresses about log2 of the frames the first time, and one frame later on.
        """
        if not self._reader.frame_count:
            return None
        frame = self._frame(self._frame_index_of(addr))
        position = bisect_right(frame.columns.starts_addr, addr) - 1
        if position < 0 or addr >= frame.columns.ends_addr[position]:
            return None
        return frame.run(position)

    def runs(self, start_addr: int = 0, end_addr: int = ADDR_LIMIT) -> Iterator[Run]:
        """The runs inside `[start_addr, end_addr)` in order, clipped to that page range.

        Raises ImageCorrupt, StorageError.
        """
        if start_addr >= end_addr:
            return
        for frame in self._frames(self._frame_index_of(start_addr)):
            inside = frame.columns.inside(start_addr, end_addr)
            for position in inside:
                run = frame.run(position)
                if run.start_addr < start_addr or run.end_addr > end_addr:
                    run = run.clip(start_addr, end_addr)
                yield run
            if inside.stop < len(frame.columns.starts_addr):
                return

    def columns(self) -> Iterator[RunColumns]:
        """All runs in order, some thousands at a time: for who walks through millions of them.

        Raises ImageCorrupt, StorageError.
        """
        for frame in self._frames(0):
            yield frame.columns

    def columns_in(self, start_addr: int, end_addr: int) -> Iterator[RunColumns]:
        """Those of `runs`, some thousands at a time, but never none. Raises ImageCorrupt, StorageError."""
        if start_addr >= end_addr:
            return
        for frame in self._frames(self._frame_index_of(start_addr)):
            inside = frame.columns.inside(start_addr, end_addr)
            if inside:
                yield frame.columns.clip(start_addr, end_addr)
            if inside.stop < len(frame.columns.starts_addr):
                return

    def _frames(self, first_index: int) -> Iterator[_Frame]:
        """Frames from this one on, each of which fits the one before it."""
        previous_end_addr = 0
        page_index = 0 if first_index == 0 else None
        for index in range(first_index, self._reader.frame_count):
            frame = self._frame(index)
            if frame.columns.starts_addr[0] < previous_end_addr:
                raise self._corrupt(index, "begins before the frame ahead of it ends")
            previous_end_addr = frame.columns.ends_addr[-1]
            if frame.next_page_index is not None:
                if page_index not in {None, frame.first_page_index}:
                    raise self._corrupt(index, "does not go on counting data pages")
                page_index = frame.next_page_index
            yield frame

    def _frame_index_of(self, addr: int) -> int:
        """The last frame that begins at or below an address, 0 if none does."""
        latest = self._latest_index
        if self._first_addr(latest) <= addr < self._first_addr(latest + 1):
            return latest
        frame_indexes = range(self._reader.frame_count)
        found = max(0, bisect_right(frame_indexes, addr, key=self._first_addr) - 1)
        self._latest_index = found
        return found

    def _first_addr(self, index: int) -> int:
        """Where a frame begins; behind the last one no address lies."""
        addr = self._first_addrs.get(index)
        if addr is None:
            if index >= self._reader.frame_count:
                return ADDR_LIMIT
            (addr, *_) = layout.RUN.unpack_from(self._reader.read_frame(index))
            assert isinstance(addr, int)
            self._first_addrs[index] = addr
        return addr

    def _decode_frame(self, index: int) -> _Frame:
        # Whole columns at a time: a frame has 2048 records, and a lookup wants one of them.
        content = self._reader.read_frame(index)
        words, halves = array("Q", content), array("I", content)
        if sys.byteorder == "big":
            words.byteswap()
            halves.byteswap()
        # layout.RUN: a word, two halves, a word. What is gone through several times is made numbers once.
        starts_addr, counts, page_indexes = (column.tolist() for column in (words[0::3], halves[2::6], words[2::3]))
        numbers = halves[3::6]
        if not _KINDS.keys() >= set(numbers):
            raise self._corrupt(index, "has a run of an unknown kind")
        kinds = bytes(numbers.tolist())
        if min(counts) == 0 or reduce(or_, starts_addr) % PAGE_BYTES:
            raise self._corrupt(index, "has a run that is not one of whole pages")
        ends_addr = [start_addr + n_pages * PAGE_BYTES for start_addr, n_pages in zip(starts_addr, counts, strict=True)]
        if any(map(gt, ends_addr, starts_addr[1:])) or ends_addr[-1] > ADDR_LIMIT:
            raise self._corrupt(index, "has runs out of order")
        is_data = kinds.translate(IS_KIND[RunKind.DATA])
        if any(compress(page_indexes, is_data.translate(_OPPOSITE))):
            raise self._corrupt(index, "has a page index without a page")
        data_indexes = list(compress(page_indexes, is_data))
        first_page_index = data_indexes[0] if data_indexes else None
        next_page_index = None
        if first_page_index is not None:
            *expected, next_page_index = accumulate(compress(counts, is_data), initial=first_page_index)
            if expected != data_indexes:
                raise self._corrupt(index, "does not count data pages")
        columns = RunColumns(starts_addr, ends_addr, kinds, page_indexes)
        return _Frame(columns, first_page_index, next_page_index)

    def _corrupt(self, index: int, problem: str) -> ImageCorrupt:
        return ImageCorrupt(f"{self.path} is damaged: frame {index} {problem}.", path=str(self.path))
