"""Where all the bytes of a process's own pages are, round by round and column by column.

round 3   |  data  | parent | parent |  data  |      of round 3: its two runs of DATA
round 2            |  data  | parent |               then of round 2: one run
round 1                     |  data  |               then of round 1
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from operator import ne

from formats import runs
from formats.layout import PAGE_BYTES, RunKind
from formats.lineage import unreachable
from formats.roundpages import RoundPages
from formats.runcolumns import IS_KIND, RunColumns, of_kind

_MAX_RUNS = 1 << 16


def _column() -> array[int]:
    return array("Q")


@dataclass(slots=True)
class DataRuns:
    """Runs of DATA of one pages file, ascending: `[start_addr, end_addr)`, and the index of the first page of each."""

    starts_addr: array[int] = field(default_factory=_column)
    ends_addr: array[int] = field(default_factory=_column)
    page_indexes: array[int] = field(default_factory=_column)

    def __len__(self) -> int:
        return len(self.starts_addr)

    @property
    def n_pages(self) -> int:
        """Sum of their sizes."""
        return (sum(self.ends_addr) - sum(self.starts_addr)) // PAGE_BYTES

    def add(self, columns: RunColumns) -> None:
        """Those of some runs that are DATA."""
        selector = columns.kinds.translate(IS_KIND[RunKind.DATA])
        self.starts_addr.extend(compress(columns.starts_addr, selector))
        self.ends_addr.extend(compress(columns.ends_addr, selector))
        self.page_indexes.extend(compress(columns.page_indexes, selector))


def data_runs(
    owner: str, levels: Sequence[RoundPages], ranges: Iterable[runs.Range]
) -> Iterator[tuple[RoundPages, DataRuns]]:
    """What there is of DATA in some page ranges, as of the round of the first level; a round may come more than once.

    No run goes beyond the range that it is in, even if another follows. `owner` and `levels` are those of PageLineage.
    Raises ImageCorrupt, StorageError.
    """
    wanted = list(ranges)
    for depth, level in enumerate(levels):
        found = DataRuns()
        older: list[runs.Range] = []
        for start_addr, end_addr in wanted:
            position = start_addr
            for columns in level.columns_in(start_addr, end_addr):
                if depth:
                    _demand_no_hole(owner, level, position, columns)
                position = columns.ends_addr[-1]
                found.add(columns)
                older += (part for parts in of_kind([columns], RunKind.PARENT) for part in zip(*parts, strict=True))
                if len(found) >= _MAX_RUNS:
                    yield level, found
                    found = DataRuns()
            if depth and position < end_addr:
                raise unreachable(owner, position, level.round)
        if found:
            yield level, found
        wanted = older
    if wanted:
        raise unreachable(owner, wanted[0][0], levels[-1].round)


def _demand_no_hole(owner: str, level: RoundPages, position: int, columns: RunColumns) -> None:
    """A later round has sent us here for all of it. Raises ImageCorrupt."""
    starts_addr, ends_addr = columns.starts_addr, columns.ends_addr
    for hole_addr in compress((position, *ends_addr), map(ne, (position, *ends_addr), starts_addr)):
        raise unreachable(owner, hole_addr, level.round)
