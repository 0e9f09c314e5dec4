"""What the suites try and find, counted while they run: `pytest --tally FILE` writes it down as JSON.

`docs/reliability.md` is made of these figures. A test counts what it finds before it asserts anything about it.
"""

from __future__ import annotations

import json
from collections import Counter
from enum import StrEnum
from pathlib import Path

from tests.oracle import Comparison


class Count(StrEnum):
    """What is counted, in the order and words of the report."""

    MEMORY_CASES = "cases in the matrix of memory kinds"
    SEQUENCES = "random sequences of operations"
    OPERATIONS = "operations in them"
    PAGES_COMPARED = "pages compared with the stopped process"
    MISMATCHES = "pages that differed"
    FAULT_POINTS = "named fault points"
    KILLS_AT_POINTS = "kills at a fault point"
    KILLS_AT_RANDOM = "kills at a random instant"
    STORAGE_FAULTS = "storage faults (full, read-only, cannot be written, removed)"
    POWER_CUTS = "power cuts between two writes of a commit"
    ROUNDS_IN_A_ROW = "rounds on one target without a leak"
    IMAGES_TRIED = "damaged and hostile images tried"
    IMAGES_MISREAD = "of them accepted with wrong bytes, or not refused by the contract"
    WATCHED_WRITES = "writes under the write watch"
    WATCHED_WRITES_MISSED = "of them missed"
    TARGETS_HARMED = "targets harmed"


class Tally:
    """Adds up over a session of tests."""

    def __init__(self) -> None:
        self._counts: Counter[Count] = Counter()

    def add(self, what: Count, number: int = 1) -> None:
        """Counts `number` more; 0 shows that it was looked for."""
        self._counts[what] += number

    def compared(self, found: Comparison) -> None:
        """Counts what the oracle compared and found."""
        self.add(Count.PAGES_COMPARED, found.pages_compared)
        self.add(Count.MISMATCHES, len(found.mismatches))

    def write(self, path: Path) -> None:
        """All counts, in the order of the report."""
        counts = {what.value: self._counts[what] for what in Count if what in self._counts}
        path.write_text(json.dumps(counts, indent=1) + "\n")
