"""A flattened round in the place of those that it was made of, in one step that a reader sees whole or not at all.

    written     flatten.tmp/0003 is the new round                       0001 0002 0003 0004 0005
    swapped     flatten.tmp/0003 is the old one                         0001 0002 new  0004 0005
    moved       flatten.tmp/0002, then 0001: what is left goes on       new  0004 0005
                being a chain from its beginning
    removed     flatten.tmp is gone

Whatever a crash leaves is a checkpoint, and the next command that writes to it ends what was begun: the old round in
flatten.tmp says how far that was. Round 0004 still names the old 0003 as its parent, which the new one stands for.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from formats import files
from formats.checkpoint import Checkpoint
from formats.checkpointlock import CheckpointBusy, CheckpointLock
from formats.closing import Closing
from formats.errors import ImageCorrupt, StorageError, UsageError
from formats.faults import Point, reached
from formats.flatten import DEFAULTS, FlattenOptions, FlattenReport, ProgressCallback, flatten, no_progress
from formats.layout import FLATTEN_NAME, MANIFEST_NAME, round_name
from formats.manifestfile import read_manifest
from formats.rounddirs import is_committed, list_round_paths
from formats.roundwriter import create_checkpoint, remove_round, remove_unfinished


def flatten_in_place(
    directory: Path,
    number: int | None = None,
    keep: int = 0,
    options: FlattenOptions = DEFAULTS,
    on_progress: ProgressCallback = no_progress,
) -> tuple[FlattenReport | None, int]:
    """Make round `number` of a checkpoint (the last by default) self-contained, and remove all before it.

    Without a number, the last `keep` rounds stay as they are. Returns what was written (None if the round was full
    before), and the number of rounds that were removed. Other commands may write further rounds meanwhile: the
    directory is locked at the beginning and at the end only, for which this waits. Raises UsageError for a round that
    is not there or that later ones do without, CheckpointBusy, ParentMissing, ImageCorrupt, ImageVersionUnsupported,
    NotACheckpoint, StorageError.
    """
    Checkpoint.open(directory)  # a lock would make it
    with CheckpointLock(directory, wait=True):
        tidy_up(directory)
        checkpoint = Checkpoint.open(directory)
        number = chosen_round(checkpoint, number, keep)
        if number is None or (number == checkpoint.numbers[0] and checkpoint.round(number).manifest.full):
            return None, 0
        _check_successors(checkpoint, number)
        before = checkpoint.round(number)
        place = _Place(directory)
    with place:
        report = None
        if not before.manifest.full:
            report = flatten(checkpoint, number, place.path, options, on_progress)
            reached(Point.FLATTEN_WRITTEN)
        with CheckpointLock(directory, wait=True):
            if Checkpoint.open(directory).round(number).sha256 != before.sha256:
                raise StorageError.out_of_place(before.path)
            if report is not None:
                place.swap(number)
            dropped = place.move_before(number)
        place.remove()
    return report, dropped


def chosen_round(checkpoint: Checkpoint, number: int | None, keep: int) -> int | None:
    """The round that is meant: `number`, or the selected one, or with `keep` the one before so many.

    None if there is none before those that are kept. Raises UsageError for a round that is not there.
    """
    if number is not None or not keep:
        return checkpoint.round(number).number
    return checkpoint.numbers[-1 - keep] if keep < len(checkpoint.numbers) else None


def tidy_up(directory: Path) -> list[int]:
    """Remove what earlier commands left half done; returns the numbers of the unfinished rounds among it, ascending.

    The caller has the directory locked. Raises ImageCorrupt, StorageError.
    """
    unfinished = remove_unfinished(directory)
    if not (directory / FLATTEN_NAME).is_dir():
        return unfinished
    try:
        place = _Place(directory, left=True)
    except CheckpointBusy:  # it was not left, somebody is at work
        return unfinished
    with place:
        place.finish()
    return unfinished


def _check_successors(checkpoint: Checkpoint, number: int) -> None:
    """Raises UsageError if a later round builds on one before `number`; as Checkpoint.parent_of."""
    for later in checkpoint.numbers[checkpoint.numbers.index(number) + 1 :]:
        parent = checkpoint.parent_of(checkpoint.round(later))
        if parent is not None and parent.number < number:
            raise UsageError(
                f"Round {later} of {checkpoint.path} builds on round {parent.number}, which would be dropped.",
                hint=f"Flatten up to round {later}.",
                path=str(checkpoint.path),
                round=later,
            )


class _Place(Closing):
    """The directory in the checkpoint that rounds go through, locked by itself. What is in it may be removed."""

    def __init__(self, directory: Path, *, left: bool = False) -> None:
        """Make it, or take over what somebody `left`. Raises CheckpointBusy, StorageError."""
        self.path = directory / FLATTEN_NAME
        self._directory = directory
        self._is_ours = not left  # nothing in it is needed
        if not left:
            if self.path.is_dir():
                raise CheckpointBusy(
                    f"another predump flattens rounds of {directory}",
                    hint="Wait until it has finished.",
                    path=str(directory),
                )
            create_checkpoint(self.path)
            reached(Point.FLATTEN_BEGUN)
        self._lock = CheckpointLock(self.path)

    def close(self) -> None:
        """Let go of it; until something was swapped, nothing is left of it. May be called again."""
        if self._is_ours:
            with suppress(StorageError):
                self.remove()
        self._lock.close()

    def swap(self, number: int) -> None:
        """Put the round that was written here into the checkpoint, the one that was there here."""
        name = round_name(number)
        self._is_ours = False  # from now on the next command has to look
        files.exchange(self.path / name, self._directory / name)
        reached(Point.FLATTEN_SWAPPED)
        self._sync()

    def move_before(self, number: int) -> int:
        """Take the rounds before `number` out of the checkpoint, the last first; returns how many there were."""
        before = [path for path in list_round_paths(self._directory) if int(path.name) < number]
        for path in reversed(before):
            try:
                path.rename(self.path / path.name)
            except OSError as error:
                raise StorageError.from_os_error("move", path, error) from error
            reached(Point.FLATTEN_MOVED)
        self._sync()
        reached(Point.FLATTEN_REPLACED)
        return len(before)

    def finish(self) -> None:
        """End what was begun here. Raises ImageCorrupt, StorageError."""
        number = self._swapped_round()
        if number is not None:
            self.move_before(number)
        self.remove()

    def remove(self) -> None:
        """Remove it with all that is in it."""
        for path in list_round_paths(self.path):
            remove_round(path)
            reached(Point.FLATTEN_REMOVED)
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError.from_os_error("remove", self.path, error) from error

    def _swapped_round(self) -> int | None:
        """The round whose predecessor is here: the new one in the checkpoint stands for it."""
        for path in reversed(list_round_paths(self.path)):
            new = self._directory / path.name
            if not (is_committed(path) and is_committed(new)):
                continue
            manifest, _ = read_manifest(new / MANIFEST_NAME)
            with suppress(ImageCorrupt):  # then the earlier rounds stay, which is no harm
                _, sha256 = read_manifest(path / MANIFEST_NAME)
                if sha256 in manifest.stands_for:
                    return manifest.round
        return None

    def _sync(self) -> None:
        files.sync_directory(self.path)
        files.sync_directory(self._directory)
