"""Where the frames of one file of a round go: to the disk, or to anything else that takes files frame by frame."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from formats.errors import StorageError
from formats.files import Buffer, close_quietly, create_file, read_exactly, sync_and_close, write_all


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
        self._fd = self._open()

    def _open(self) -> int:
        return create_file(self.path)

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


class KeptFile(DiskFile):
    """A file that was left unfinished, taken up again. What is appended is there already, until `cut`."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError, also if there is no such file."""
        super().__init__(path)
        self._kept_bytes = 0
        self._is_cut = False

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags)
        except OSError as error:
            raise StorageError.from_os_error("open", self.path, error) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            close_quietly(fd)
            raise StorageError(f"{self.path} is not a regular file.", path=str(self.path))
        return fd

    def read(self, offset_bytes: int, n_bytes: int) -> bytes:
        """What was written before. Raises ImageCorrupt if there is less, StorageError."""
        return read_exactly(self._fd, n_bytes, offset_bytes, self.path)

    def append(self, frames: Sequence[Buffer], contents_bytes: Sequence[int]) -> None:
        """Goes over frames that are there, or writes new ones. Raises StorageError."""
        if self._is_cut:
            super().append(frames, contents_bytes)
        else:
            self._kept_bytes += sum(map(len, frames))

    def cut(self) -> None:
        """Cuts off what lies behind the last frame that was gone over: new ones are written. Raises StorageError."""
        self._is_cut = True
        try:
            os.ftruncate(self._fd, self._kept_bytes)
            os.lseek(self._fd, self._kept_bytes, os.SEEK_SET)
        except OSError as error:
            raise StorageError.from_os_error("cut", self.path, error) from error
