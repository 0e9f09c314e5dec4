"""Where the pages of a process come from that it asks for: frames of the image, unpacked ahead by other threads."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from formats.chain import MemoryView
from formats.closing import Closing
from formats.dataruns import DataRuns, data_runs
from formats.framereader import FrameReader
from formats.layout import PAGE_BYTES
from formats.roundpages import RoundPages
from formats.runs import Range
from formats.segments import Segment
from restorer.memory.frames import Job, Portion

_FRAMES_AHEAD = 6
_HELD_FRAMES = 24  # of 256 KiB
_Key = tuple[int, int]  # round, frame


class Source(Closing):
    """The pages of a process of the image, in some ranges of it; a context manager, for one thread."""

    def __init__(self, view: MemoryView, levels: Sequence[RoundPages], ranges: Sequence[Range], threads: int) -> None:
        """`levels` are its pages in the round of `view`, and in those that this builds on; both stay open."""
        self.view = view
        self._levels = {level.round: level for level in levels}
        self._ranges = ranges
        self._frames: dict[int, FrameReader] = {}
        self._held: OrderedDict[_Key, Future[bytes]] = OrderedDict()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predump-ahead")
        self._listed = self._pool.submit(self._list)

    @property
    def is_listed(self) -> bool:
        """Whether it is known where everything is, which takes time that nobody should wait."""
        return self._listed.done()

    def close(self) -> None:
        """Close the files. May be called again."""
        self._pool.shutdown(cancel_futures=True)
        for frames in self._frames.values():
            frames.close()

    def all_of_it(self) -> Iterator[tuple[Portion, Job, bytes]]:
        """Every frame with its content, what was written last first; when it is listed.

        Raises ImageCorrupt, StorageError.
        """
        waiting: deque[tuple[int, Portion, Job]] = deque()
        for number, portion, job in self._jobs():
            waiting.append((number, portion, job))
            self._read_ahead(number, job.frame_index)
            if len(waiting) > _FRAMES_AHEAD:
                yield self._with_content(*waiting.popleft())
        while waiting:
            yield self._with_content(*waiting.popleft())

    def read(self, segment: Segment) -> Iterator[tuple[int, memoryview]]:
        """A DATA segment of the view by the frames that it is in: addresses of the image, and what belongs there.

        Raises ImageCorrupt, StorageError.
        """
        addr = segment.start_addr
        first_bytes = segment.page_index * PAGE_BYTES
        pieces = self._frames_of(segment.round).pieces(first_bytes, first_bytes + segment.end_addr - addr)
        for frame_index, offset_bytes, n_bytes in pieces:
            content = memoryview(self._content(segment.round, frame_index))
            yield addr, content[offset_bytes : offset_bytes + n_bytes]
            addr += n_bytes

    def _jobs(self) -> Iterator[tuple[int, Portion, Job]]:
        for number, found in self._listed.result():
            portion = Portion(self._frames_of(number), found)
            for job in portion.jobs():
                yield number, portion, job

    def _list(self) -> list[tuple[int, DataRuns]]:
        owner = f"process {self.view.process.pid}"
        found = data_runs(owner, list(self._levels.values()), self._ranges)
        return sorted(((level.round, runs) for level, runs in found), key=lambda one: -one[0])

    def _with_content(self, number: int, portion: Portion, job: Job) -> tuple[Portion, Job, bytes]:
        return portion, job, self._content(number, job.frame_index)

    def _frames_of(self, number: int) -> FrameReader:
        if number not in self._frames:
            self._frames[number] = self._levels[number].open_frames()
        return self._frames[number]

    def _read_ahead(self, number: int, frame_index: int) -> None:
        if (number, frame_index) not in self._held:
            self._hold((number, frame_index), self._pool.submit(self._frames_of(number).read_frame, frame_index))

    def _content(self, number: int, frame_index: int) -> bytes:
        key = number, frame_index
        if key not in self._held:  # not in the line behind others
            made: Future[bytes] = Future()
            made.set_result(self._frames_of(number).read_frame(frame_index))
            self._hold(key, made)
        return self._held[key].result()

    def _hold(self, key: _Key, content: Future[bytes]) -> None:
        self._held[key] = content
        while len(self._held) > _HELD_FRAMES:
            self._held.popitem(last=False)
