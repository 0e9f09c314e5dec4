"""Checkpoints of CRIU's as rounds: see formats.images.

d1 (no parent)  <-  d2 (parent -> d1)  <-  d3 (parent -> d2), which was named
  round 1               round 2               round 3
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from formats.criu.reading.directories import ImageDirectory, lineage
from formats.criu.reading.manifests import manifest_of
from formats.criu.reading.pages import CriuPages
from formats.errors import ParentMissing, PredumpError, UsageError
from formats.images import PageSource
from formats.manifest import Manifest, Process

_HELD_ROUNDS = 2


class CriuRound:
    """A directory of images; see formats.images.Round and Outline."""

    def __init__(self, levels: list[ImageDirectory], manifest: Manifest, missing: Path | None) -> None:
        """`levels` are the directory and those that it builds on, the nearest first, without one that is `missing`."""
        self.number = levels[0].number
        self.path = levels[0].path
        self.manifest = manifest
        self._levels = levels
        self._missing = missing
        self._processes = {process.pid: process for process in manifest.processes}

    def process(self, pid: int) -> Process | None:
        """A process of this round, None if it is not in it."""
        return self._processes.get(pid)

    def pages_of(self, process: Process) -> CriuPages:
        """The pages that this round has of a process of it or of a later round."""
        return self._levels[0].pages(process.pid)

    def is_known_as(self, _sha256: str) -> bool:
        """What a link leads to is what is meant: CRIU has no digests."""
        return True

    def file_problems(self) -> Iterator[PredumpError]:
        """What is wrong with files of pages, as far as their sizes tell, and if what it builds on is missing."""
        if self._missing is not None and len(self._levels) == 1:
            yield parent_missing(self.path, self._missing)
        sources = [self.pages_of(process) for process in self.manifest.processes]
        sources += [self._levels[0].shared_pages(held.id) for held in self.manifest.objects]
        for source in sources:
            try:
                source.check()
            except PredumpError as error:
                yield error

    def levels_of_object(self, number: int) -> list[CriuPages]:
        """The pages of a memory object here and where PARENT runs lead to, the nearest first."""
        return [level.shared_pages(number) for level in self._levels]


class CriuCheckpoint:
    """A directory of images and those that it builds on; see formats.images.Images."""

    def __init__(self, path: Path) -> None:
        """Raises ImageCorrupt, StorageError."""
        found, self._missing = lineage(path)
        self.path = path
        self.numbers = list(range(1, len(found) + 1))
        self.selected = len(found)
        self._levels = [
            ImageDirectory(number, item) for number, item in zip(reversed(self.numbers), found, strict=True)
        ]
        self._held: dict[int, CriuRound] = {}  # the one read last comes last

    @property
    def rounds(self) -> Iterator[CriuRound]:
        """All rounds, ascending; raises the error of the first damaged one."""
        return map(self.round, self.numbers)

    def round(self, number: int | None = None) -> CriuRound:
        """A round by its number, or the last.

        Raises UsageError if there is none, ImageCorrupt, ImageVersionUnsupported, StorageError.
        """
        number = self.selected if number is None else number
        if not 1 <= number <= len(self._levels):
            raise UsageError(
                f"{self.path} has no round {number}.",
                hint=f"Its rounds are 1 to {len(self._levels)}.",
                path=str(self.path),
                round=number,
            )
        info = self._held.pop(number, None) or self._load(number)
        while len(self._held) >= _HELD_ROUNDS:
            del self._held[next(iter(self._held))]
        self._held[number] = info
        return info

    def outline(self, number: int) -> CriuRound:
        """The round: there is nothing that is quicker to read. Raises as `round`."""
        return self.round(number)

    def lineage(self, number: int | None = None) -> Iterator[CriuRound]:
        """A round, the one before it, and so on to the first; raises as `round`, and ParentMissing."""
        number = self.selected if number is None else number
        yield self.round(number)
        yield from map(self.round, range(number - 1, 0, -1))
        if self._missing is not None:
            raise parent_missing(self._levels[-1].path, self._missing)

    def levels_of(self, process: Process, number: int | None = None) -> Iterator[PageSource]:
        """The pages of a process in a round of it, and in those of `lineage`; raises as that."""
        return (info.pages_of(process) for info in self.lineage(number))

    def _load(self, number: int) -> CriuRound:
        levels = self._levels[-number:]
        # A pre-dump does not say which of its processes is the root, but the dump does that was named.
        root_pid = self.round().manifest.root_pid if number != self.selected else None
        manifest = manifest_of(levels, is_full=number == 1 and self._missing is None, root_pid=root_pid)
        return CriuRound(levels, manifest, self._missing)


def parent_missing(path: Path, missing: Path) -> ParentMissing:
    """The error for a directory that builds on another, which is not there."""
    return ParentMissing(
        f"{path} needs {missing}, which is not there.",
        hint="Bring that directory back, or take a new dump.",
        path=str(path),
    )
