"""Pages that are written again and again: `run --defer-hot` leaves them for the freeze.

The round then refers to the older copy of such a page, as if it had not been written, and no later round may do so: the
page is copied by the dump, or by a round in which it has cooled down.
"""

from collections import deque
from dataclasses import dataclass

from dumper.kernel.runs import RunKind, RunList, Sweep

REMEMBERED_ROUNDS = 3
HOT_ROUNDS = 2  # of those remembered, and the one that is being taken: most of the last ones


@dataclass(frozen=True, slots=True)
class LeftOut:
    """`runs` of a round, those of `deferred` pages among them: their copies are older than the round."""

    runs: RunList
    deferred: RunList


class Deferral:
    """One round's share of it: `settle` takes what each portion of a scan found, ascending.

    written: what the scan found written; deferred: what of it is left for the freeze.
    """

    def __init__(self, hot: RunList, before: LeftOut) -> None:
        """`hot` pages were written in most of the last rounds."""
        self._hot, self._known, self._before = Sweep(hot), Sweep(before.runs), Sweep(before.deferred)
        self.written = RunList(1 << 12)
        self.deferred = RunList(1 << 12)

    def settle(self, runs: RunList) -> RunList:
        """What is to become of these runs of the scan."""
        self.written.extend_packed(runs.only(RunKind.COPY).packed())
        return runs.deferring(self._hot, self._known, self._before, self.deferred)


class HotPages:
    """What the last rounds found written of one process."""

    def __init__(self) -> None:
        self._written: deque[RunList] = deque(maxlen=REMEMBERED_ROUNDS)

    def hot(self) -> RunList:
        """Those that most of the last rounds found written, if the next one does, too."""
        return RunList.common(self._written, HOT_ROUNDS)

    def add(self, deferral: Deferral) -> None:
        """A round was taken. (One that holds everything says nothing of writes, and defers nothing.)"""
        self._written.append(deferral.written)
