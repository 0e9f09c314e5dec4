"""What one directory of CRIU's images has of the pages of a process or of shared memory.

pagemap-ID.img   | head: pages_id N | entry | entry | ...
pages-N.img      | pages of the entries that are PRESENT, in their order, as they were in memory |
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from formats.closing import Closing
from formats.criu.framing import damage, open_image
from formats.criu.names import pages_name
from formats.criu.reading.pagemap import CriuPagemap
from formats.files import close_quietly, read_exactly
from formats.layout import PAGE_BYTES, PAGES_FRAME_BYTES
from formats.pagemap import Piece, columns_of, cut
from formats.runcolumns import RunColumns

if TYPE_CHECKING:
    from formats.criu.reading.directories import ImageDirectory


class RawPages(Closing):
    """A file of bare pages; a context manager. Several threads may read at once, but not while one closes it."""

    def __init__(self, path: Path) -> None:
        """Open the file; raises ImageCorrupt, StorageError."""
        self._path = path
        self._fd, self._size_bytes = open_image(path)

    def close(self) -> None:
        """Close the file; reading is over. May be called again."""
        if self._fd >= 0:
            close_quietly(self._fd)
            self._fd = -1

    @property
    def content_bytes(self) -> int:
        """Bytes of the file."""
        return self._size_bytes

    def stored_before(self, content_offset_bytes: int) -> int:
        """As many: pages are stored as they are."""
        return content_offset_bytes

    def read(self, page_index: int, n_pages: int) -> bytes:
        """Pages by their position; raises ImageCorrupt, StorageError."""
        start_bytes, n_bytes = page_index * PAGE_BYTES, n_pages * PAGE_BYTES
        self.check(start_bytes + n_bytes)
        return read_exactly(self._fd, n_bytes, start_bytes, self._path)

    def pieces(self, start_bytes: int, end_bytes: int) -> Iterator[tuple[int, int, int]]:
        """A range cut where what is read at once begins and ends; see formats.images.Frames."""
        self.check(end_bytes)
        position = start_bytes
        while position < end_bytes:
            index, offset = divmod(position, PAGES_FRAME_BYTES)
            n_bytes = min(PAGES_FRAME_BYTES - offset, end_bytes - position)
            yield index, offset, n_bytes
            position += n_bytes

    def read_frame(self, index: int) -> bytes:
        """As many bytes of the file as are read at once; raises ImageCorrupt, StorageError."""
        offset_bytes = index * PAGES_FRAME_BYTES
        return read_exactly(self._fd, min(PAGES_FRAME_BYTES, self._size_bytes - offset_bytes), offset_bytes, self._path)

    def check(self, end_bytes: int) -> None:
        """See to it that the file goes on to there; raises ImageCorrupt."""
        if end_bytes > self._size_bytes:
            raise damage(
                self._path, f"has {self._size_bytes} bytes, but its pagemap names pages up to byte {end_bytes}"
            )


class CriuPages(Closing):
    """The pages of one of them, from files that are opened when they are needed: see formats.images.PageSource."""

    def __init__(self, directory: ImageDirectory, pagemap_name: str) -> None:
        """Without a pagemap of this name in the directory there are no pages."""
        self.round = directory.number
        self._directory = directory
        self._pagemap_name = pagemap_name
        self._pagemap: CriuPagemap | None = None
        self._pages: RawPages | None = None

    def close(self) -> None:
        """Close the file of the pages; reading is over. May be called again."""
        if self._pages is not None:
            self._pages.close()

    def check(self) -> None:
        """See to it that there are as many pages as there must be; raises ImageCorrupt, StorageError."""
        pagemap = self._opened()
        if pagemap is not None and pagemap.data_pages:
            with self.open_frames() as frames:
                frames.check(pagemap.data_pages * PAGE_BYTES)

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """The page range cut at the runs, holes included.

        Raises ImageCorrupt, ImageVersionUnsupported, StorageError.
        """
        pagemap = self._opened()
        return cut(pagemap.runs(start, end) if pagemap else (), start, end)

    def columns_in(self, start: int, end: int) -> Iterator[RunColumns]:
        """The runs in a page range, some thousands at a time. Raises as `pieces`."""
        pagemap = self._opened()
        return columns_of(pagemap.runs(start, end) if pagemap else ())

    def read(self, page_index: int, n_pages: int) -> bytes:
        """Pages by their position in the file of the pages; raises ImageCorrupt, StorageError."""
        if self._pages is None:
            self._pages = self.open_frames()
        return self._pages.read(page_index, n_pages)

    def open_frames(self) -> RawPages:
        """The file of the pages once more, for threads; whoever opens it closes it.

        Raises ImageCorrupt, StorageError.
        """
        pagemap = self._opened()
        if pagemap is None:
            raise ValueError("there are no pages")
        return RawPages(self._directory.path / pages_name(pagemap.pages_id))

    def _opened(self) -> CriuPagemap | None:
        if self._pagemap is None:
            self._pagemap = self._directory.pagemap(self._pagemap_name)
        return self._pagemap
