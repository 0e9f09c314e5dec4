"""Rounds in order: which there are, and which one each refers to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from formats.criu.names import has_images
from formats.errors import ImageCorrupt, NotACheckpoint, OtherImages, ParentMissing, PredumpError, UsageError
from formats.framereader import check_seek_table
from formats.layout import (
    MANIFEST_NAME,
    ROUND_NAME,
    object_pagemap_name,
    object_pages_name,
    pagemap_name,
    pages_name,
    round_name,
)
from formats.manifest import FileEntry, Manifest, Process
from formats.manifestfile import read_manifest, read_outline
from formats.outline import ManifestOutline, ProcessOutline, outline_of
from formats.rounddirs import is_committed, list_round_paths
from formats.roundpages import RoundPages, StoredFile

_HELD_ROUNDS = 2


class RoundOutline(NamedTuple):
    """A committed round in outline, or more of it; `sha256` is over the bytes of its manifest file."""

    number: int
    path: Path
    manifest: Manifest | ManifestOutline
    sha256: str

    def is_known_as(self, sha256: str) -> bool:
        """Whether `sha256` is that of its manifest file, or of the one it had before it was flattened."""
        return sha256 == self.sha256 or sha256 in self.manifest.stands_for

    def pages_of(self, process: Process) -> RoundPages:
        """The pages that this round has of a process of it or of a later round."""
        is_here = any(_is_same(process, one) for one in self.manifest.processes)
        files = {entry.name: entry for entry in self.manifest.files}
        return _pages_of(process, self.number, self.path, files, is_here=is_here)

    def file_problems(self) -> Iterator[PredumpError]:
        """What is wrong with its files, as far as their sizes and seek tables tell."""
        for entry in self.manifest.files:
            try:
                check_seek_table(self.path / entry.name, entry)
            except PredumpError as error:
                yield error


@dataclass(frozen=True, slots=True)
class RoundInfo:
    """A committed round; `sha256` is over the bytes of its manifest file.

    contents: what frames of its files hold, by name, as far as somebody has checked and kept it, who also empties it.
    """

    number: int
    path: Path
    manifest: Manifest
    sha256: str
    contents: dict[str, list[bytes]] = field(default_factory=dict, repr=False, compare=False)
    _processes: dict[int, Process] = field(init=False, repr=False, compare=False)
    _files: dict[str, FileEntry] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A manifest may have a hundred thousand of each, and each may be asked for.
        object.__setattr__(self, "_processes", {process.pid: process for process in self.manifest.processes})
        object.__setattr__(self, "_files", {entry.name: entry for entry in self.manifest.files})

    @property
    def files_bytes(self) -> int:
        """Bytes of its files, but for the manifest."""
        return sum(entry.stored_bytes for entry in self.manifest.files)

    def process(self, pid: int) -> Process | None:
        """A process of this round, None if it is not in it."""
        return self._processes.get(pid)

    @property
    def outline(self) -> RoundOutline:
        """The round for those who need no more than an outline of it."""
        return RoundOutline(self.number, self.path, self.manifest, self.sha256)

    def is_known_as(self, sha256: str) -> bool:
        """Whether `sha256` is that of its manifest file, or of the one it had before it was flattened."""
        return self.outline.is_known_as(sha256)

    def file(self, name: str) -> FileEntry | None:
        """The entry of a file of this round, None if the round has no such file."""
        return self._files.get(name)

    def pages_of(self, process: Process) -> RoundPages:
        """The pages that this round has of a process of it or of a later round."""
        same = self.process(process.pid)
        is_here = same is not None and _is_same(process, same)
        contents = self.contents.get(pages_name(process.pid), ())
        return _pages_of(process, self.number, self.path, self._files, is_here=is_here, contents=contents)

    def pages_of_object(self, number: int) -> RoundPages:
        """The pages that this round has of one of its memory objects."""
        return RoundPages(
            self.number, self._stored(object_pages_name(number)), self._stored(object_pagemap_name(number))
        )

    def levels_of_object(self, number: int) -> list[RoundPages]:
        """The same alone: objects have no PARENT runs."""
        return [self.pages_of_object(number)]

    def _stored(self, name: str) -> StoredFile:
        return StoredFile(self.path / name, self.file(name))


_AnyRound = TypeVar("_AnyRound", RoundInfo, RoundOutline)


class Checkpoint:
    """A checkpoint directory with at least one committed round.

    `numbers` are the committed rounds, ascending; `selected` is the one its user named, or the
    last. Manifests are read when they are asked for, so that a damaged round is in the way of those
    only that need it; those of a round and its parent are held, however long the chain is.
    """

    def __init__(self, path: Path, numbers: list[int], selected: int) -> None:
        self.path = path
        self.numbers = numbers
        self.selected = selected
        self._present = set(numbers)
        self._held: dict[int, RoundInfo] = {}  # the one read last comes last
        self._added: dict[int, RoundOutline | None] = {}  # None while it is held

    @staticmethod
    def open(path: Path) -> Checkpoint:
        """Open a checkpoint by its directory or by the directory of one of its rounds.

        Raises NotACheckpoint, or OtherImages, which is one; StorageError.
        """
        name = path.absolute().name
        names_round = ROUND_NAME.fullmatch(name) is not None and is_committed(path)
        directory = path.absolute().parent if names_round else path
        numbers = [int(item.name) for item in list_round_paths(directory) if is_committed(item)]
        if not numbers and has_images(directory):
            raise OtherImages(
                f"{path} has images of CRIU's; this is for checkpoints of predump's own.",
                hint="'predump inspect', 'read', 'search', 'diff' and 'export --to core' look into CRIU's, too.",
                path=str(path),
            )
        if not numbers:
            problem = "has no committed round" if directory.is_dir() else "is not a directory"
            raise NotACheckpoint(
                f"{path} is no checkpoint: it {problem}.",
                hint="Name the directory that was given to 'predump dump' with -D.",
                path=str(path),
            )
        return Checkpoint(directory, numbers, int(name) if names_round else numbers[-1])

    @property
    def rounds(self) -> Iterator[RoundInfo]:
        """All committed rounds, ascending; raises the error of the first damaged one, or one of another checkpoint."""
        return self.rounds_of(self.numbers)

    def rounds_of(self, numbers: Iterable[int]) -> Iterator[RoundInfo]:
        """The rounds of these numbers, in their order; raises as `rounds` and `round`."""
        checkpoint_id, first = "", 0
        for number in numbers:
            info = self.round(number)
            if not first:
                checkpoint_id, first = info.manifest.checkpoint_id, number
            if info.manifest.checkpoint_id != checkpoint_id:
                raise ImageCorrupt(
                    f"Round {number} of {self.path} belongs to another checkpoint than round {first}.",
                    path=str(info.path),
                    round=number,
                )
            yield info

    def outline(self, number: int) -> RoundOutline:
        """As much of a committed round as `formats.outline` has, in a fraction of the time of `round`.

        Raises ImageCorrupt, ImageVersionUnsupported, StorageError.
        """
        held = self._held.get(number)
        if held is not None:
            return held.outline
        added = self._added.get(number)
        if added is not None:
            return added
        path = self.path / round_name(number)
        outline, sha256 = read_outline(path / MANIFEST_NAME)
        _check_number(path, number, outline.round)
        return RoundOutline(number, path, outline, sha256)

    def round(self, number: int | None = None) -> RoundInfo:
        """A round by its number, or the selected one.

        Raises UsageError if there is none, ImageCorrupt, ImageVersionUnsupported, StorageError.
        """
        number = self.selected if number is None else number
        info = self._held.get(number)
        if info is None:
            if number not in self._present:
                raise UsageError(
                    f"{self.path} has no round {number}.",
                    hint=f"Its rounds are {self.numbers[0]} to {self.numbers[-1]}.",
                    path=str(self.path),
                    round=number,
                )
            info = self._load(number)
            self._hold(info)
        return info

    def add(self, info: RoundInfo) -> None:
        """A round that has just been committed, which need not be read: it is the selected one, and held like others.

        In outline it is known for good: so a chain that grows is not read anew with each round.
        """
        if info.number not in self._present:
            self.numbers.append(info.number)
            self._present.add(info.number)
        self.selected = info.number
        self._added[info.number] = None
        self._hold(info)

    @property
    def numbers_read(self) -> list[int]:
        """Those of the rounds that were not added: they have been on disk for anybody to write to."""
        return [number for number in self.numbers if number not in self._added]

    def parent_of(self, child: RoundInfo) -> RoundInfo | None:
        """The round that a round's PARENT runs refer to, None for a full round.

        Raises ParentMissing if it is gone, and ImageCorrupt if it is not the one meant.
        """
        return self._parent_of(child.outline, self.round)

    def levels_of(self, process: Process, number: int | None = None) -> Iterator[RoundPages]:
        """The pages of a process in a round of it, and in those of `lineage`; raises as that.

        Of all rounds but the first no more is read than an outline.
        """
        info = self.round(number)
        yield info.pages_of(process)
        level = self._parent_of(info.outline, self.outline)
        while level is not None:
            yield level.pages_of(process)
            level = self._parent_of(level, self.outline)

    def _parent_of(self, child: RoundOutline, read: Callable[[int], _AnyRound]) -> _AnyRound | None:
        parent = child.manifest.parent
        if child.manifest.full or parent is None:
            return None
        if parent.round not in self._present:
            raise ParentMissing(
                f"Round {child.number} of {self.path} needs round {parent.round}, which is not there.",
                hint=f"Bring {self.path / round_name(parent.round)} back, or take a new dump.",
                path=str(self.path),
                round=parent.round,
            )
        info = read(parent.round)
        if not info.is_known_as(parent.sha256):
            problem = "is not the one it was taken on top of"
        elif info.manifest.checkpoint_id != child.manifest.checkpoint_id:
            problem = "belongs to another checkpoint"
        else:
            return info
        raise ImageCorrupt(
            f"Round {child.number} of {self.path} is unusable: its parent, round {parent.round}, {problem}.",
            path=str(info.path),
            round=child.number,
        )

    def lineage(self, number: int | None = None) -> Iterator[RoundInfo]:
        """A round, its parent, and so on to a full round; raises as `round` and `parent_of`."""
        info: RoundInfo | None = self.round(number)
        while info is not None:
            yield info
            info = self.parent_of(info)

    def _hold(self, info: RoundInfo) -> None:
        self._held.pop(info.number, None)
        while len(self._held) >= _HELD_ROUNDS:
            least = self._held.pop(next(iter(self._held)))
            if least.number in self._added:
                outline = outline_of(least.manifest)
                self._added[least.number] = RoundOutline(least.number, least.path, outline, least.sha256)
        self._held[info.number] = info

    def _load(self, number: int) -> RoundInfo:
        path = self.path / round_name(number)
        manifest, sha256 = read_manifest(path / MANIFEST_NAME)
        _check_number(path, number, manifest.round)
        return RoundInfo(number, path, manifest, sha256)


def _is_same(process: Process, other: Process | ProcessOutline) -> bool:
    """Whether it is that process, and no other one with its pid, whose memory is of no use to it."""
    return (process.pid, process.start_time_ticks) == (other.pid, other.start_time_ticks)


def _pages_of(
    process: Process,
    number: int,
    path: Path,
    files: Mapping[str, FileEntry],
    *,
    is_here: bool,
    contents: Sequence[bytes] = (),
) -> RoundPages:
    pages, pagemap = pages_name(process.pid), pagemap_name(process.pid)
    return RoundPages(
        number,
        StoredFile(path / pages, files.get(pages)),
        StoredFile(path / pagemap, files.get(pagemap) if is_here else None),
        contents,
    )


def _check_number(path: Path, number: int, claimed: int) -> None:
    if claimed != number:
        raise ImageCorrupt(f"{path} is damaged: its manifest is that of round {claimed}.", path=str(path), round=number)


def last_round(path: Path) -> RoundInfo | None:
    """The last round of a checkpoint directory, None if it has none yet; raises ImageCorrupt, StorageError."""
    try:
        return Checkpoint.open(path).round()
    except NotACheckpoint:
        return None
