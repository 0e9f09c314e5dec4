"""How often each part of a process's memory was written: counted round by round over the runs of its pagemaps.

In a round that builds on an earlier one, DATA and ZERO runs are what was written since then. A round that holds
everything says of no page that it was written: its pages count as seen for the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from analysis.history.regions import MappedOverTime, Region, cut_into_cells, heaviest
from analysis.history.writecount import Presence, RegionTotals, WriteCounter
from analysis.subject import process_of
from analysis.survey import RoundFigures
from formats.checkpoint import Checkpoint, RoundInfo
from formats.manifest import FreezeBy, Process
from formats.roundpages import RoundPages

ROUNDS_MAX = 500
PROCESSES_MAX = 64
REGIONS_MAX = 20_000  # of all processes together
CELLS_MAX = 20_000  # the same
VALUES_MAX = 2_000_000  # cells times rounds

Progress = Callable[[int, int], None]
"""Called with bytes done, and bytes to do."""


@dataclass(frozen=True, slots=True)
class RoundSeen:
    """A round without its processes; `parent` is the one that it builds on, None if it holds everything."""

    figures: RoundFigures
    parent: int | None
    freeze_by: FreezeBy | None


@dataclass(slots=True)
class ProcessHistory:
    """A process of the last round, with its memory in all rounds.

    `totals` belong to `regions`, one each. `presence` and `cells` have an entry for each round: what it says of the
    process, and a byte for each cell of the regions that have some, in their order (WriteCounter.count).
    `regions_left_out` is how many more regions there are, and `elsewhere_pages` how many pages were written in them.
    """

    process: Process
    regions: list[Region]
    totals: list[RegionTotals]
    regions_left_out: int
    presence: list[Presence]
    cells: list[bytes]
    elsewhere_pages: int = 0


@dataclass(slots=True)
class _Followed:
    """A process that is followed through the rounds, the last one first."""

    process: Process
    mapped: MappedOverTime
    sources: dict[int, RoundPages]


class History:
    """A checkpoint up to a round: `rounds` ascending, `last` the round itself, and the processes of that one.

    At most ROUNDS_MAX rounds and PROCESSES_MAX processes: `rounds_left_out`, `processes_left_out`.
    """

    def __init__(self, checkpoint: Checkpoint, number: int | None, pid: int | None, progress: Progress) -> None:
        """Read the manifests up to round `number` (the selected one), for process `pid` (all of them).

        Raises UsageError for a round or process that is not there, ParentMissing if a round is gone that it needs,
        ImageCorrupt, ImageVersionUnsupported, StorageError.
        """
        self.last = checkpoint.round(number)
        numbers = [one for one in checkpoint.numbers if one <= self.last.number]
        self.rounds_left_out = max(len(numbers) - ROUNDS_MAX, 0)
        if pid is None:
            root_pid = self.last.manifest.root_pid
            chosen = sorted(self.last.manifest.processes, key=lambda process: process.pid != root_pid)
        else:
            chosen = [process_of(checkpoint, self.last, pid)]
        self.processes_left_out = max(len(chosen) - PROCESSES_MAX, 0)
        self._followed = [_Followed(process, MappedOverTime(process.vmas), {}) for process in chosen[:PROCESSES_MAX]]
        self.rounds: list[RoundSeen] = []
        numbers = numbers[self.rounds_left_out :]
        next_in_lineage = self.last.number
        for done, info in enumerate(checkpoint.rounds_of(reversed(numbers))):
            progress(done, len(numbers))
            if info.number == next_in_lineage:
                parent = checkpoint.parent_of(info)
                next_in_lineage = parent.number if parent else 0
            self._see(info)
        self.rounds.reverse()

    def processes(self, progress: Progress) -> list[ProcessHistory]:
        """Go through the pagemaps; raises ImageCorrupt, StorageError."""
        regions_left_out = [len(one.mapped.regions) + one.mapped.left_out for one in self._followed]
        kept = heaviest(list(chain.from_iterable(one.mapped.regions for one in self._followed)), REGIONS_MAX)
        cut_into_cells(kept, min(CELLS_MAX, VALUES_MAX // len(self.rounds)))
        kept_ids = set(map(id, kept))
        sources = [source for one in self._followed for source in one.sources.values()]
        total_bytes = sum(source.pagemap_bytes for source in sources)
        done_bytes = 0
        found = []
        for followed, n_regions in zip(self._followed, regions_left_out, strict=True):
            regions = [region for region in followed.mapped.regions if id(region) in kept_ids]
            counter = WriteCounter(regions)
            history = ProcessHistory(followed.process, regions, counter.totals, n_regions - len(regions), [], [])
            for round_ in self.rounds:
                presence = self._presence(followed, round_)
                history.presence.append(presence)
                source = followed.sources.get(round_.figures.number)
                history.cells.append(counter.count(source, presence))
                done_bytes += source.pagemap_bytes if source else 0
                progress(done_bytes, total_bytes)
            history.elsewhere_pages = counter.elsewhere_pages
            found.append(history)
        return found

    def _see(self, info: RoundInfo) -> None:
        manifest = info.manifest
        parent = manifest.parent.round if manifest.parent and not manifest.full else None
        self.rounds.append(RoundSeen(RoundFigures.of(manifest), parent, manifest.freeze_by))
        for followed in self._followed:
            same = info.process(followed.process.pid)
            if same is not None and same.start_time_ticks == followed.process.start_time_ticks:
                followed.sources[info.number] = info.pages_of(same)
                followed.mapped.add(same.vmas)

    def _presence(self, followed: _Followed, round_: RoundSeen) -> Presence:
        if round_.figures.number not in followed.sources:
            return Presence.ABSENT
        # Its parent may be of the rounds that are left out.
        is_first = round_.parent is None or (
            round_.parent >= self.rounds[0].figures.number and round_.parent not in followed.sources
        )
        return Presence.FIRST if is_first else Presence.LATER
