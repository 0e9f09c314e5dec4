"""The pages of one process or memory object in one round of predump's own, from a pair of files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from formats.closing import Closing
from formats.framereader import FrameReader
from formats.layout import PAGE_BYTES, PAGES_FRAME_BYTES
from formats.manifest import FileEntry
from formats.pagemap import Pagemap, Piece, Run, cut
from formats.pages import PageStore


class StoredFile(NamedTuple):
    """A file of a round: where it is, and what the manifest says of it, None if it names no such file."""

    path: Path
    entry: FileEntry | None


class RoundPages(Closing):
    """What round `round` has of it; not for use by two threads at once. `pages_file` is where the bytes are."""

    def __init__(self, number: int, pages: StoredFile, pagemap: StoredFile) -> None:
        """A `pagemap` that the manifest does not name has no runs."""
        # The round's manifest is not held: a chain may have a thousand rounds.
        self.round = number
        self.pages_file = pages
        self._pagemap_file = pagemap
        self._pagemap: Pagemap | None = None
        self._pages: PageStore | None = None

    def close(self) -> None:
        """Close the files; reading is over. May be called again."""
        if self._pagemap is not None:
            self._pagemap.close()
        if self._pages is not None:
            self._pages.close()

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """The page range cut at the runs of this round, holes included, in order.

        Raises ImageCorrupt, StorageError.
        """
        return cut(self._runs(start, end), start, end)

    def read(self, page_index: int, n_pages: int) -> bytes:
        """Pages by their position in the pages file; raises ImageCorrupt, StorageError."""
        if self._pages is None:
            self._pages = PageStore(*self.pages_file)
        return self._pages.read(page_index, n_pages)

    def open_frames(self) -> FrameReader:
        """The pages file once more, for threads; whoever opens it closes it. Raises ImageCorrupt, StorageError."""
        path, entry = self.pages_file
        return FrameReader(path, max_frame_bytes=PAGES_FRAME_BYTES, content_unit_bytes=PAGE_BYTES, entry=entry)

    def _runs(self, start: int, end: int) -> Iterator[Run]:
        if self._pagemap is None:
            if self._pagemap_file.entry is None:
                return iter(())
            self._pagemap = Pagemap(*self._pagemap_file)
        return self._pagemap.runs(start, end)
