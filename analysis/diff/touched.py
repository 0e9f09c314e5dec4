"""Which pages can differ between two rounds of a chain: those that all rounds in between refer to their parents for do
not. So nobody needs to find out where the bytes of all the others are, which in a long chain is most of the work.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from formats import runs
from formats.closing import Closing
from formats.images import Images, PageSource
from formats.layout import RunKind
from formats.manifest import Process


class TouchedPages(Closing):
    """Of a process in two rounds, of which the one builds on the other; not for use by two threads at once."""

    def __init__(self, levels: list[PageSource]) -> None:
        """`levels` are the newer round and those that it builds on, as far as they are newer than the older one."""
        self._levels = levels

    @staticmethod
    def between(images: Images, numbers: tuple[int, int], process: Process) -> TouchedPages | None:
        """Of two rounds in any order; None if the newer one does not build on the older one.

        Raises what `Images.lineage` raises.
        """
        levels: list[PageSource] = []
        for info in images.lineage(max(numbers)):
            if info.number <= min(numbers):
                return TouchedPages(levels) if info.number == min(numbers) else None
            levels.append(info.pages_of(process))
        return None

    def close(self) -> None:
        """Close all files; reading is over. May be called again."""
        for level in self._levels:
            level.close()

    def ranges(self, start_addr: int, end_addr: int) -> Iterator[runs.Range]:
        """Those of a page range, ascending; raises ImageCorrupt, StorageError."""
        # A page that one of them has was touched, whatever the others say.
        return runs.merge(heapq.merge(*(_changed(level, start_addr, end_addr) for level in self._levels)))


def _changed(level: PageSource, start_addr: int, end_addr: int) -> Iterator[runs.Range]:
    """Where a round does not refer to the one before it."""
    for piece_addr, piece_end_addr, run in level.pieces(start_addr, end_addr):
        if run is None or run.kind is not RunKind.PARENT:
            yield piece_addr, piece_end_addr
