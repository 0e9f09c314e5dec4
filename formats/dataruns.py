"""Where all the bytes of a process's own pages are, pages file by pages file, so that each is read once, in its order.

round 3   |  data  | parent | parent |  data  |      of round 3: its two runs of DATA
round 2            |  data  | parent |               then of round 2: one run
round 1                     |  data  |               then of round 1
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress

from formats import runs
from formats.layout import PAGE_BYTES, RunKind
from formats.lineage import PageLineage
from formats.roundpages import RoundPages
from formats.runcolumns import IS_KIND, RunColumns, of_kind
from formats.segments import Segment, SegmentKind

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

    def append(self, segment: Segment) -> None:
        """One more."""
        self.starts_addr.append(segment.start_addr)
        self.ends_addr.append(segment.end_addr)
        self.page_indexes.append(segment.page_index)


def data_runs(
    owner: str, levels: Sequence[RoundPages], ranges: Iterable[runs.Range]
) -> Iterator[tuple[RoundPages, DataRuns]]:
    """What there is of DATA in some page ranges, as of the round of the first level; a round may come more than once.

    No run goes beyond the range that it is in, even if another follows. `owner` and `levels` are those of PageLineage.
    Raises ImageCorrupt, StorageError.
    """
    newest, lineage = levels[0], PageLineage(owner, levels)
    level_of = {level.round: level for level in levels}
    found: dict[int, DataRuns] = defaultdict(DataRuns)
    for start_addr, end_addr in ranges:
        parents: list[runs.Range] = []
        for columns in newest.columns_in(start_addr, end_addr):
            found[newest.round].add(columns)
            if len(found[newest.round]) >= _MAX_RUNS:
                yield newest, found.pop(newest.round)
            parents += (part for parts in of_kind([columns], RunKind.PARENT) for part in zip(*parts, strict=True))
        for segment in lineage.behind(parents):
            if segment.kind is SegmentKind.DATA:
                found[segment.round].append(segment)
                if len(found[segment.round]) >= _MAX_RUNS:
                    yield level_of[segment.round], found.pop(segment.round)
    for number, rest in found.items():
        if rest:
            yield level_of[number], rest
