"""What one round has anew of memory that is there as of the round before: a process may write at random.

Nothing is looked at page by page: a process stands still meanwhile, and there may be many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from formats import runs
from formats.dataruns import DataRuns
from formats.layout import RunKind
from formats.roundpages import RoundPages
from formats.runcolumns import covered, of_kind
from restorer.memory.fill import bring
from restorer.shell import Shell

_MAX_RUNS = 1 << 16


def write_pages(shell: Shell, pages: RoundPages, ranges: Sequence[runs.Range], threads: int) -> int:
    """All DATA pages of the round in the ranges, which ascend and are disjoint; how many there were.

    Raises ImageCorrupt, StorageError, OSError.
    """
    n_pages = 0
    found = DataRuns()
    for start_addr, end_addr in ranges:
        for columns in pages.columns_in(start_addr, end_addr):
            found.add(columns)
            if len(found) >= _MAX_RUNS:
                n_pages += bring(shell, pages, found, threads)
                found = DataRuns()
    return n_pages + (bring(shell, pages, found, threads) if found else 0)


def empty_ranges(pages: RoundPages, ranges: Sequence[runs.Range]) -> Iterator[runs.Range]:
    """Where in the ranges the round has no page at all. Raises ImageCorrupt, StorageError."""
    return runs.subtract(ranges, covered(pages.columns()))


def zero_ranges(pages: RoundPages, ranges: Sequence[runs.Range]) -> Iterator[runs.Range]:
    """Where in the ranges it has pages of zeros. Raises as `empty_ranges`."""
    zeros = (one for frame in of_kind(pages.columns(), RunKind.ZERO) for one in zip(*frame, strict=True))
    return runs.intersect(ranges, zeros)
