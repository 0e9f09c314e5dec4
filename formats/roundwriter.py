"""The commit protocol: a round exists whole or not at all.

Order: page files are written and fsynced; the round directory is fsynced; the manifest is written
under a temporary name and fsynced; it is renamed; the round directory and the checkpoint directory
are fsynced. The rename is the commit point: what a crash leaves before it has no manifest.json.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from formats import files
from formats.errors import StorageError
from formats.faults import Point, reached
from formats.framefile import DiskFile, FrameFile, KeptFile
from formats.layout import IMAGE_NAME, MANIFEST_NAME, MANIFEST_TEMPORARY_NAME, ROUND_NAME, round_name
from formats.rounddirs import is_committed, list_round_paths
from formats.roundfiles import RoundFiles


class RoundWriter(RoundFiles):
    """A round in a checkpoint directory."""

    def __init__(self, checkpoint: Path, number: int) -> None:
        """Make the directory of round `number` (from 1), and the checkpoint's if it is missing.

        Raises StorageError, also if the round's directory exists, whatever is in it.
        """
        super().__init__(checkpoint / round_name(number))
        self._checkpoint = checkpoint
        self._paths: list[Path] = []
        self._committed = False
        if not ROUND_NAME.fullmatch(self.path.name):
            raise ValueError(f"{number} is not a round number")
        self._make_directory()
        self._made = self.path.lstat()
        reached(Point.ROUND_MADE)

    def publish(self, data: bytes) -> None:
        """Make everything durable, then the round's manifest of these bytes.

        Raises StorageError; the round is then not committed, and `abandon` removes it.
        """
        if not self._is_in_place():
            raise StorageError.out_of_place(self.path)
        files.sync_directory(self.path)
        reached(Point.FILES_SYNCED)
        temporary_path = self.path / MANIFEST_TEMPORARY_NAME
        fd = files.create_file(temporary_path)
        self._paths.append(temporary_path)
        try:
            files.write_all(fd, [data], temporary_path)
        except BaseException:
            files.close_quietly(fd)
            raise
        files.sync_and_close(fd, temporary_path)
        reached(Point.MANIFEST_WRITTEN)
        self._rename(temporary_path)
        self._committed = True

    def give_up(self) -> None:
        """The disk keeps nobody waiting for ever."""

    def confirm(self) -> None:
        """It exists since `publish`."""

    def abandon(self) -> None:
        """Remove what this writer made, as far as the file system lets it.

        Does nothing after a successful `publish`. What it cannot remove has no manifest and is
        recognised as unfinished.
        """
        if self._committed:
            return
        self._abort_files()
        if not self._is_in_place():
            return  # what is there now is somebody else's
        with contextlib.suppress(OSError, StorageError):
            # If the commit failed after its rename: without its manifest the rest is no round.
            (self.path / MANIFEST_NAME).unlink(missing_ok=True)
            files.sync_directory(self.path)
            for path in self._paths:
                path.unlink(missing_ok=True)
            self.path.rmdir()

    def _make_directory(self) -> None:
        create_checkpoint(self._checkpoint)
        files.create_directory(self.path)

    def _create(self, name: str) -> FrameFile:
        file = DiskFile(self.path / name)
        self._paths.append(file.path)
        return file

    def _is_in_place(self) -> bool:
        """Whether the round's path still names the directory that was made for it."""
        try:
            return os.path.samestat(self.path.lstat(), self._made)
        except OSError:
            return False

    def _rename(self, temporary_path: Path) -> None:
        path = self.path / MANIFEST_NAME
        try:
            temporary_path.rename(path)
        except OSError as error:
            raise StorageError.from_os_error("rename a file to", path, error) from error
        reached(Point.MANIFEST_RENAMED)
        files.sync_directory(self.path)
        files.sync_directory(self._checkpoint)


class KeptRoundWriter(RoundWriter):
    """A round that was left unfinished, taken up again: its files are there, until `cut`."""

    def __init__(self, checkpoint: Path, number: int) -> None:
        """Raises StorageError."""
        self._kept: dict[str, KeptFile] = {}
        self._is_cut = False
        super().__init__(checkpoint, number)

    def read(self, name: str, offset_bytes: int, n_bytes: int) -> bytes:
        """Bytes of an open file as it was left. Raises ImageCorrupt if there are fewer, StorageError."""
        return self._kept[name].read(offset_bytes, n_bytes)

    def cut(self) -> None:
        """Removes what was not gone over, of files and in them: from now on it is written. Raises StorageError."""
        self._is_cut = True
        for file in self._kept.values():
            file.cut()
        for path in self.path.iterdir():
            if path.name not in self._kept and (
                path.name == MANIFEST_TEMPORARY_NAME or IMAGE_NAME.fullmatch(path.name)
            ):
                path.unlink()

    def _make_directory(self) -> None:
        """It is there."""
        if not self.path.is_dir() or self.path.is_symlink():
            raise StorageError.out_of_place(self.path)

    def _create(self, name: str) -> FrameFile:
        if self._is_cut:
            return super()._create(name)
        file = KeptFile(self.path / name)
        self._kept[name] = file
        self._paths.append(file.path)
        return file


def create_checkpoint(path: Path) -> None:
    """Make the checkpoint's directory unless it exists, which leaves its mode to its owner; raises StorageError."""
    try:
        files.create_directory(path)
    except StorageError as error:
        if error.fields["errno"] == errno.EEXIST and path.exists():  # or it is a link to nothing
            return
        raise
    files.sync_directory(path.absolute().parent)


def remove_unfinished(checkpoint: Path) -> list[int]:
    """Delete the round directories that were never committed; returns their numbers, ascending.

    A round that is being written looks the same: the caller makes sure that no other writer runs.
    Raises StorageError, also if such a directory holds anything but files of a round; that
    directory is then left as it is.
    """
    unfinished = [path for path in list_round_paths(checkpoint) if path.is_dir() and not is_committed(path)]
    for path in unfinished:
        remove_round(path)
    return [int(path.name) for path in unfinished]


def _is_file_of_round(name: str) -> bool:
    return name in {MANIFEST_NAME, MANIFEST_TEMPORARY_NAME} or IMAGE_NAME.fullmatch(name) is not None


def remove_round(path: Path) -> None:
    """Delete a round's directory, the manifest first.

    Raises StorageError, also if it holds anything but files of a round; it is then left as it is.
    """
    try:
        names = sorted(entry.name for entry in path.iterdir())
        for name in names:
            if not _is_file_of_round(name):
                raise StorageError(
                    f"{path} is to be removed, but it also holds {name!r}.",
                    hint="Move that file away, or choose another directory.",
                    path=str(path),
                )
        for name in names:
            (path / name).unlink()
        path.rmdir()
    except OSError as error:
        raise StorageError.from_os_error("remove", path, error) from error
