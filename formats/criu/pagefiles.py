"""The pages of a process or of shared memory in CRIU's form: a pagemap, and a file of bare pages.

    pagemap-42.img   | head: pages 1 | present, 2 pages | parent, 5 pages | present, 1 page |
    pages-1.img      | page | page | page |

Pages of zeros are holes of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import Message

from formats.criu.framing import Magic, write_messages
from formats.criu.images_pb2 import PagemapEntry, PagemapHead
from formats.criu.values import PageFlags
from formats.errors import StorageError
from formats.files import Buffer, close_quietly, close_written, create_file, write_at
from formats.layout import PAGE_BYTES
from formats.pagecopy import FrameSource, PageCopier
from formats.segments import Segment

NO_PAGES = PageFlags(0)
_MAX_PAGES = (1 << 32) - 1  # of an entry, for a CRIU that knows no larger number


class Pages(NamedTuple):
    """Pages `[start_addr, end_addr)`: none, in the parent, or present, with the bytes of `data` or zeros for None."""

    start_addr: int
    end_addr: int
    flags: PageFlags
    data: Segment | None = None


class PageFiles:
    """Writes such pairs of files into a directory, one after the other; `threads` decompress."""

    def __init__(self, directory: Path, threads: int, on_copied: Callable[[int], None]) -> None:
        """`on_copied` is called with the number of further bytes of page content."""
        self._directory = directory
        self._threads = threads
        self._on_copied = on_copied
        self._pairs = 0

    def write(self, owner: str, pages: Iterable[Pages], source: FrameSource) -> None:
        """Write pagemap-OWNER.img and the next pages-N.img; `source` is where the data is.

        Raises ImageCorrupt, StorageError.
        """
        self._pairs += 1
        path = self._directory / f"pages-{self._pairs}.img"
        fd = create_file(path)
        try:
            with PageCopier(
                source, lambda content, offset: write_at(fd, content, offset, path), self._threads
            ) as copier:
                messages = _Messages(self._pairs, pages, copier, self._on_copied)
                write_messages(self._directory / f"pagemap-{owner}.img", Magic.PAGEMAP, messages)
                copier.finish()
            try:
                os.ftruncate(fd, messages.offset_bytes)
            except OSError as error:
                raise StorageError.from_os_error("write", path, error) from error
        except BaseException:
            close_quietly(fd)
            raise
        close_written(fd, path)


def _put(fd: int, path: Path, content: Buffer, offset: int) -> None:
    write_at(fd, content, offset, path)


class _Messages:
    """The pagemap of some pages, which are copied on the way."""

    def __init__(
        self, pages_id: int, pages: Iterable[Pages], copier: PageCopier, on_copied: Callable[[int], None]
    ) -> None:
        self.offset_bytes = 0  # where the next page goes
        self._pages_id = pages_id
        self._pages = pages
        self._copier = copier
        self._on_copied = on_copied

    def __iter__(self) -> Iterator[Message]:
        yield PagemapHead(pages_id=self._pages_id)
        for start_addr, end_addr, flags in _merged(map(self._copied, self._pages)):
            n_pages = (end_addr - start_addr) // PAGE_BYTES
            yield PagemapEntry(start_addr=start_addr, n_pages_32=n_pages, flags=flags, n_pages=n_pages)

    def _copied(self, item: Pages) -> Pages:
        if item.flags & PageFlags.PRESENT:
            if item.data is not None:
                self._copier.copy(item.data, self.offset_bytes)
                self._on_copied(item.end_addr - item.start_addr)
            self.offset_bytes += item.end_addr - item.start_addr
        return item


def _merged(pages: Iterable[Pages]) -> Iterator[tuple[int, int, PageFlags]]:
    """Start, end and flags, with one entry for neighbours that are alike."""
    start_addr = end_addr = 0
    flags = NO_PAGES
    for item in pages:
        if item.start_addr == end_addr and item.flags == flags:
            end_addr = item.end_addr
            continue
        yield from _entries(start_addr, end_addr, flags)
        start_addr, end_addr, flags, _ = item
    yield from _entries(start_addr, end_addr, flags)


def _entries(start_addr: int, end_addr: int, flags: PageFlags) -> Iterator[tuple[int, int, PageFlags]]:
    if flags == NO_PAGES:
        return
    for start in range(start_addr, end_addr, _MAX_PAGES * PAGE_BYTES):
        yield start, min(end_addr, start + _MAX_PAGES * PAGE_BYTES), flags
