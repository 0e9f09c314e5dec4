"""The page store of a process or memory object in one round: the content of its DATA runs, in their order."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from formats.closing import Closing
from formats.errors import ImageCorrupt
from formats.framereader import FrameReader
from formats.layout import PAGE_BYTES, PAGES_FRAME_BYTES
from formats.manifest import FileEntry

_CACHED_FRAMES = 4


class PageStore(Closing):
    """Reads pages by their position; a context manager, not for use by two threads at once."""

    def __init__(self, path: Path, entry: FileEntry | None = None) -> None:
        """Open the file, which must be the one of `entry`; raises ImageCorrupt, StorageError."""
        self.path = path
        self._reader = FrameReader(
            path,
            max_frame_bytes=PAGES_FRAME_BYTES,
            content_unit_bytes=PAGE_BYTES,
            entry=entry,
        )
        self._frame = lru_cache(maxsize=_CACHED_FRAMES)(self._reader.read_frame)

    def close(self) -> None:
        """Close the file; reading is over. May be called again."""
        self._reader.close()

    @property
    def n_pages(self) -> int:
        """Number of pages in the file."""
        return self._reader.content_bytes // PAGE_BYTES

    def read(self, page_index: int, n_pages: int) -> bytes:
        """The content of `n_pages` pages from position `page_index` on.

        Raises ImageCorrupt if the file is damaged or has no such pages, and StorageError.
        """
        if page_index < 0 or n_pages < 0 or page_index + n_pages > self.n_pages:
            raise ImageCorrupt(
                f"{self.path} has {self.n_pages} pages, but pages {page_index} to "
                f"{page_index + n_pages} are asked for.",
                path=str(self.path),
            )
        position = page_index * PAGE_BYTES
        end = position + n_pages * PAGE_BYTES
        pieces: list[bytes] = []
        while position < end:
            index = self._reader.index_of(position)
            frame_start, frame_end = self._reader.frame_content_range(index)
            content = self._frame(index)
            pieces.append(content[position - frame_start : end - frame_start])
            position = frame_end
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def stored_bytes_before(self, page_index: int) -> int:
        """What the pages before this position take of the file; of a frame that it is in, a part by pages.

        Raises ImageCorrupt if the file has fewer pages.
        """
        position = page_index * PAGE_BYTES
        if page_index < 0 or position > self._reader.content_bytes:
            raise ImageCorrupt(f"{self.path} has {self.n_pages} pages, not {page_index}.", path=str(self.path))
        return self._reader.stored_before(position)
