"""Writes a pages file out of frames of others, with several threads that compress.

Frames that go on as they are are not decompressed: their file is hashed on the way, front to back, and is right if
that comes to the digest of its manifest. Frames of which parts are needed are decompressed, which checks them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from formats.closing import Closing
from formats.errors import ImageCorrupt
from formats.frameplan import Part, planned
from formats.framereader import FrameReader
from formats.frames import FrameWriter, compress_frames
from formats.layout import PAGE_BYTES, PAGES_FRAME_BYTES
from formats.manifest import FileEntry

_HASHED_BYTES = 1 << 20
_HELD_FRAMES = 64  # decompressed ones that the next parts may be of, 16 MiB
_JOBS_PER_THREAD = 2


class PagesFile(Closing):
    """A pages file of a round, open for its frames. `number` is how parts name it."""

    def __init__(self, number: int, path: Path, entry: FileEntry | None) -> None:
        """Open the file, which must be the one of `entry`; raises ImageCorrupt, StorageError."""
        if entry is None:
            raise ImageCorrupt(f"{path} is not in its manifest, but pages of it are wanted.", path=str(path))
        self.number = number
        self.reader = FrameReader(path, max_frame_bytes=PAGES_FRAME_BYTES, content_unit_bytes=PAGE_BYTES, entry=entry)
        self._sha256 = entry.sha256
        self._digest = hashlib.sha256()
        self._hashed_bytes = 0

    def close(self) -> None:
        """Close the file. May be called again."""
        self.reader.close()

    def parts(self, page_index: int, n_pages: int) -> Iterator[Part]:
        """Pages of the file by their position, cut at its frames; raises ImageCorrupt if it has no such pages."""
        start_bytes = page_index * PAGE_BYTES
        for index, first_byte, n_bytes in self.reader.pieces(start_bytes, start_bytes + n_pages * PAGE_BYTES):
            frame_start, frame_end = self.reader.frame_content_range(index)
            frame_pages = (frame_end - frame_start) // PAGE_BYTES
            yield Part(self.number, index, frame_pages, first_byte // PAGE_BYTES, n_bytes // PAGE_BYTES)

    def copy(self, index: int) -> bytes:
        """A frame as it is stored, not to be trusted before `check_copies`. Frames are asked for in ascending order.

        Raises ImageCorrupt, StorageError.
        """
        start_bytes, end_bytes = self.reader.stored_range(index)
        if start_bytes < self._hashed_bytes:
            raise ImageCorrupt(
                f"{self.reader.path} is damaged: the runs that refer to it are out of order.",
                path=str(self.reader.path),
            )
        self._hash_to(start_bytes)
        frame = self.reader.read_stored(index)
        self._digest.update(frame)
        self._hashed_bytes = end_bytes
        return frame

    def check_copies(self) -> None:
        """Raises ImageCorrupt if a frame that was copied is not what the manifest's digest is of, and StorageError."""
        if not self._hashed_bytes:
            return
        self._hash_to(self.reader.stored_bytes)
        if self._digest.hexdigest() != self._sha256:
            raise self._corrupt("its bytes are not the ones its manifest names")

    def _corrupt(self, problem: str) -> ImageCorrupt:
        path = self.reader.path
        return ImageCorrupt(f"{path} is damaged: {problem}.", path=str(path))

    def _hash_to(self, end_bytes: int) -> None:
        while self._hashed_bytes < end_bytes:
            step_end_bytes = min(end_bytes, self._hashed_bytes + _HASHED_BYTES)
            self._digest.update(self.reader.read_bytes(self._hashed_bytes, step_end_bytes))
            self._hashed_bytes = step_end_bytes


@dataclass(slots=True)
class CopyFigures:
    """What became of the frames: bytes of them in the file as they were copied, and as they were made anew."""

    copied_frames: int = 0
    copied_bytes: int = 0
    made_frames: int = 0
    made_bytes: int = 0


class FrameCopier(Closing):
    """Threads that copy and compress; for one pages file at a time, by one thread. `figures` add up."""

    def __init__(self, threads: int, level: int, on_pages: Callable[[int], None]) -> None:
        """`on_pages` is called with the number of pages of each frame that was written."""
        self.figures = CopyFigures()
        self._level = level
        self._on_pages = on_pages
        self._max_jobs = _JOBS_PER_THREAD * threads + _JOBS_PER_THREAD
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="predump-flatten")
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="predump-hash")  # each file front to back

    def close(self) -> None:
        """Let go of the threads; what is not written yet never will be. May be called again."""
        self._workers.shutdown(cancel_futures=True)
        self._hasher.shutdown(cancel_futures=True)

    def write(self, writer: FrameWriter, parts: Iterable[Part], files: dict[int, PagesFile]) -> None:
        """Write these pages in their order; `files` may grow while `parts` are asked for.

        Returns once they are written and what was copied is checked. Raises ImageCorrupt, StorageError, and what
        `parts` raises.
        """
        try:
            self._write(writer, planned(parts), files)
        except BaseException:
            self.close()  # nobody reads the files any more when the caller closes them
            raise

    def _write(self, writer: FrameWriter, frames: Iterable[list[Part]], files: dict[int, PagesFile]) -> None:
        jobs: deque[tuple[list[Part], Future[bytes]]] = deque()
        held: OrderedDict[tuple[int, int], Future[bytes]] = OrderedDict()
        for frame in frames:
            if len(jobs) >= self._max_jobs:
                self._append(writer, *jobs.popleft())
            if _is_copy(frame):
                job = self._hasher.submit(files[frame[0].source].copy, frame[0].frame_index)
            else:
                contents = [self._content(part, files[part.source].reader, held) for part in frame]
                job = self._workers.submit(self._make, frame, contents)
            jobs.append((frame, job))
        while jobs:
            self._append(writer, *jobs.popleft())
        for file in files.values():
            file.check_copies()

    def _content(
        self, part: Part, reader: FrameReader, held: OrderedDict[tuple[int, int], Future[bytes]]
    ) -> Future[bytes]:
        """The content of the frame that a part is of, decompressed once for parts that are near one another."""
        key = part.source, part.frame_index
        content = held.pop(key, None) or self._workers.submit(reader.read_frame, part.frame_index)
        held[key] = content
        if len(held) > _HELD_FRAMES:
            held.popitem(last=False)
        return content

    def _make(self, frame: list[Part], contents: list[Future[bytes]]) -> bytes:
        # The contents were asked for before this: the workers have them in hand, and wait for nothing themselves.
        pieces = [
            memoryview(content.result())[part.first_page * PAGE_BYTES :][: part.n_pages * PAGE_BYTES]
            for part, content in zip(frame, contents, strict=True)
        ]
        (made,), _ = compress_frames(memoryview(b"".join(pieces)), PAGES_FRAME_BYTES, self._level)
        return made

    def _append(self, writer: FrameWriter, frame: list[Part], job: Future[bytes]) -> None:
        stored = job.result()
        n_pages = sum(part.n_pages for part in frame)
        writer.append([stored], [n_pages * PAGE_BYTES])
        figures = self.figures
        if _is_copy(frame):
            figures.copied_frames += 1
            figures.copied_bytes += len(stored)
        else:
            figures.made_frames += 1
            figures.made_bytes += len(stored)
        self._on_pages(n_pages)


def _is_copy(frame: list[Part]) -> bool:
    return len(frame) == 1 and frame[0].is_whole
