"""Where the frames of one file of a round go: to the disk, or to anything else that takes files frame by frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from formats.errors import StorageError
from formats.files import Buffer, close_quietly, create_file, sync_and_close, write_all


class FrameFile(ABC):
    """One file, from front to back. `path` ends in its name; the rest of it is for messages."""

    path: Path

    @abstractmethod
    def append(self, frames: Sequence[Buffer], contents_bytes: Sequence[int]) -> None:
        """Takes whole frames, with the content size of each. Raises PredumpError."""

    @abstractmethod
    def finish(self, seek_table: bytes) -> None:
        """Takes the end of the file, which is whole then. Raises PredumpError."""

    @abstractmethod
    def abort(self) -> None:
        """Leaves the file unfinished; does nothing after `finish`."""

    @abstractmethod
    def remove(self) -> None:
        """Takes the file back, finished or not. Raises PredumpError."""


class DiskFile(FrameFile):
    """A file of mode 0600, which is durable when it is finished."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError, also if it exists."""
        self.path = path
        self._fd = create_file(path)

    def append(self, frames: Sequence[Buffer], contents_bytes: Sequence[int]) -> None:  # noqa: ARG002
        """Writes them. Raises StorageError."""
        write_all(self._fd, frames, self.path)

    def finish(self, seek_table: bytes) -> None:
        """Writes it, and makes the file durable. Raises StorageError."""
        write_all(self._fd, [seek_table], self.path)
        fd, self._fd = self._fd, -1
        sync_and_close(fd, self.path)

    def abort(self) -> None:
        """Closes the file; does nothing after `finish`."""
        if self._fd >= 0:
            close_quietly(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Closes and deletes it. Raises StorageError."""
        self.abort()
        try:
            self.path.unlink()
        except OSError as error:
            raise StorageError.from_os_error("remove", self.path, error) from error
