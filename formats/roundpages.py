"""The pages of one process or memory object in one round of predump's own, from a pair of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from formats.closing import Closing
from formats.framereader import FrameReader
from formats.layout import PAGE_BYTES, PAGES_FRAME_BYTES
from formats.manifest import FileEntry
from formats.pagemap import Pagemap, Piece, Run, cut
from formats.pages import PageStore
from formats.runcolumns import RunColumns


class StoredFile(NamedTuple):
    """A file of a round: where it is, and what the manifest says of it, None if it names no such file."""

    path: Path
    entry: FileEntry | None


class RoundPages(Closing):
    """What round `round` has of it; not for use by two threads at once. `pages_file` is where the bytes are."""

    def __init__(self, number: int, pages: StoredFile, pagemap: StoredFile, contents: Sequence[bytes] = ()) -> None:
        """A `pagemap` that the manifest does not name has no runs. `contents` are those of the frames of `pages`.

        They are given out if it is all of them.
        """
        # The round's manifest is not held: a chain may have a thousand rounds.
        self.round = number
        self.pages_file = pages
        self._contents = contents
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

    @property
    def pagemap_bytes(self) -> int:
        """Size of the file with the runs, as the manifest has it; 0 where there is none."""
        entry = self._pagemap_file.entry
        return entry.stored_bytes if entry else 0

    def columns(self) -> Iterator[RunColumns]:
        """All runs of this round, as `Pagemap.columns` has them. Raises ImageCorrupt, StorageError."""
        pagemap = self._opened_pagemap()
        return pagemap.columns() if pagemap else iter(())

    def columns_in(self, start: int, end: int) -> Iterator[RunColumns]:
        """Runs in a page range, as `Pagemap.columns_in` has them. Raises ImageCorrupt, StorageError."""
        pagemap = self._opened_pagemap()
        return pagemap.columns_in(start, end) if pagemap else iter(())

    def read(self, page_index: int, n_pages: int) -> bytes:
        """Pages by their position in the pages file; raises ImageCorrupt, StorageError."""
        return self._opened_pages().read(page_index, n_pages)

    def stored_bytes_before(self, page_index: int) -> int:
        """What pages take of the pages file, as `PageStore.stored_bytes_before`. Raises ImageCorrupt, StorageError."""
        return self._opened_pages().stored_bytes_before(page_index)

    def open_frames(self) -> FrameReader:
        """The pages file once more, for threads; whoever opens it closes it. Raises ImageCorrupt, StorageError."""
        path, entry = self.pages_file
        return FrameReader(
            path,
            max_frame_bytes=PAGES_FRAME_BYTES,
            content_unit_bytes=PAGE_BYTES,
            entry=entry,
            contents=self._contents,
        )

    def _runs(self, start: int, end: int) -> Iterator[Run]:
        pagemap = self._opened_pagemap()
        return pagemap.runs(start, end) if pagemap else iter(())

    def _opened_pagemap(self) -> Pagemap | None:
        if self._pagemap is None and self._pagemap_file.entry is not None:
            self._pagemap = Pagemap(*self._pagemap_file)
        return self._pagemap

    def _opened_pages(self) -> PageStore:
        if self._pages is None:
            self._pages = PageStore(*self.pages_file)
        return self._pages
