"""Older copies compared with memory, page by page, by their bytes or by a hash of them."""

from collections.abc import Callable
from typing import Any

from dumper.kernel.copy import Copier, PageBuffer, Source
from dumper.kernel.native import ffi, lib, new_array
from dumper.kernel.runs import RunList
from formats.layout import PAGE_BYTES


class PageHashes:
    """XXH64 of `n_pages` pages, by place; places may be filled in any order, by several threads."""

    def __init__(self, n_pages: int) -> None:
        self.c: Any = new_array("uint64_t", n_pages)

    def put(self, pages: memoryview, offset: int) -> None:
        """Takes down the hashes of some pages that lie at byte `offset`."""
        lib.pd_hash_pages(ffi.from_buffer(pages), len(pages) // PAGE_BYTES, self.c + offset // PAGE_BYTES)


def _grown(call: Callable[[RunList], int], capacity: int) -> RunList:
    """What `call` puts into a list, which gets as large as it needs."""
    out = RunList(capacity)
    while call(out):
        out = RunList(2 * out.capacity)
    return out


class Recheck:
    """Finds out which of the pages that have an older copy still have its content, while their process stands still."""

    BUFFER_PAGES = 1 << 10  # what fits the processor's caches

    def __init__(self, stored: RunList, hashes: PageHashes) -> None:
        """`stored` are pages that earlier rounds hold: ZERO runs, and DATA runs whose `page_index` is in `hashes`."""
        self._stored = stored
        self._hashes = hashes
        self._buffer = PageBuffer(self.BUFFER_PAGES)

    def settle(self, runs: RunList, source: Source) -> RunList:
        """`runs`, with COPY instead of PARENT and STAGED where memory differs from the copy that they speak of.

        Raises OSError: ESRCH if the process is gone.
        """
        confirmed = self._confirm(runs, source)
        return _grown(lambda out: lib.pd_settle(runs.c, confirmed.sweep(), out.c), len(runs) + 2 * len(confirmed) + 1)

    def _confirm(self, runs: RunList, source: Source) -> RunList:
        """The runs whose copies are still right."""
        confirmed = RunList(len(runs) + 1)
        claimed, stored = runs.sweep(), self._stored.sweep()
        copier = Copier(source, _grown(lambda out: lib.pd_claims(runs.c, out.c), len(runs) + 1))
        copied = RunList(1 << 15)
        more = True
        while more:
            self._buffer.clear()
            copied.clear()
            more = copier.fill(self._buffer, copied)
            confirmed.reserve(len(confirmed) + self._buffer.n_pages)
            full = lib.pd_confirm(
                copied.c, self._buffer.c, claimed, source.c.staging, stored, self._hashes.c, confirmed.c
            )
            if full:
                raise AssertionError("confirm: the output was made large enough above")
        return confirmed
