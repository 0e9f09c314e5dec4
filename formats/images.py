"""What images offer to those who look into them, whoever wrote them: predump's own checkpoints, or CRIU's.

Rounds count from 1, and each of them says of itself what a manifest says. `formats.opening` finds out what lies at a
path; nobody else needs to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from formats.errors import PredumpError
from formats.manifest import Manifest, Process
from formats.outline import ManifestOutline
from formats.pagemap import Piece
from formats.runcolumns import RunColumns


class Frames(Protocol):
    """A file of pages in units that are read at once; several threads may read, but not while one closes it."""

    def pieces(self, start_bytes: int, end_bytes: int) -> Iterator[tuple[int, int, int]]:
        """A range of the content cut at frames: index of the frame, first byte in its content, number of bytes.

        Raises ImageCorrupt if the file has less.
        """

    @property
    def content_bytes(self) -> int:
        """Bytes of the content of all frames."""

    def stored_before(self, content_offset_bytes: int) -> int:
        """How many bytes of the file hold the content ahead of this byte; a frame counts in part as it is cut there."""

    def read_frame(self, index: int) -> bytes:
        """The content of a frame; raises ImageCorrupt, StorageError. The GIL is released while it is read."""

    def close(self) -> None:
        """Close the file; reading is over. May be called again."""


class PageSource(Protocol):
    """The pages of one process or memory object in one round, from files that are opened when they are needed.

    Not for use by two threads at once.
    """

    @property
    def round(self) -> int:
        """The number of the round."""

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """The page range cut at the runs of this round, holes included, in order.

        Raises ImageCorrupt, ImageVersionUnsupported, StorageError.
        """

    def columns_in(self, start: int, end: int) -> Iterator[RunColumns]:
        """The runs in a page range, in order, some thousands at a time. Raises as `pieces`."""

    def read(self, page_index: int, n_pages: int) -> bytes:
        """Pages by their position in the pages file; raises ImageCorrupt, StorageError."""

    def open_frames(self) -> Frames:
        """The pages file once more, for threads; whoever opens it closes it. Raises ImageCorrupt, StorageError."""

    def close(self) -> None:
        """Close the files; reading is over. May be called again."""


class Round(Protocol):
    """A round: `number`, the directory `path` that it lies in, and what it says of itself."""

    @property
    def number(self) -> int:
        """From 1 on."""

    @property
    def path(self) -> Path:
        """The directory of its files."""

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""

    def process(self, pid: int) -> Process | None:
        """A process of this round, None if it is not in it."""

    def pages_of(self, process: Process) -> PageSource:
        """The pages that this round has of a process of it or of a later round."""

    def levels_of_object(self, number: int) -> Sequence[PageSource]:
        """The pages of one of its memory objects: in this round, and in those that PARENT runs of it lead to."""


class Outline(Protocol):
    """A round as far as those need it who look at many: what it says of itself, in full or in outline."""

    @property
    def number(self) -> int:
        """From 1 on."""

    @property
    def path(self) -> Path:
        """The directory of its files."""

    @property
    def manifest(self) -> Manifest | ManifestOutline:
        """What it says of itself."""

    def is_known_as(self, sha256: str) -> bool:
        """Whether it is the round that another one names so as its parent."""

    def file_problems(self) -> Iterator[PredumpError]:
        """What is wrong with its files, as far as it can be told without reading them."""


class Images(Protocol):
    """Rounds in order: `numbers` ascend, `selected` is the one that its user named, or the last."""

    @property
    def path(self) -> Path:
        """What was opened."""

    @property
    def numbers(self) -> list[int]:
        """The rounds, ascending; at least one."""

    @property
    def selected(self) -> int:
        """The round that is meant where none is named."""

    @property
    def rounds(self) -> Iterator[Round]:
        """All rounds, ascending; raises the error of the first damaged one."""

    def outline(self, number: int) -> Outline:
        """As much of a round as `formats.outline` has; raises ImageCorrupt, ImageVersionUnsupported, StorageError."""

    def round(self, number: int | None = None) -> Round:
        """A round by its number, or the selected one.

        Raises UsageError if there is none, ImageCorrupt, ImageVersionUnsupported, StorageError.
        """

    def lineage(self, number: int | None = None) -> Iterator[Round]:
        """A round, the one that its PARENT runs refer to, and so on to one that refers to none.

        Raises as `round`, and ParentMissing.
        """

    def levels_of(self, process: Process, number: int | None = None) -> Iterator[PageSource]:
        """The pages of a process in a round of it, and in those of `lineage`; raises as that."""
