"""One writer at a time: the lock on a checkpoint directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from formats.closing import Closing
from formats.errors import PredumpError, StorageError
from formats.files import close_quietly
from formats.roundwriter import create_checkpoint


class CheckpointBusy(PredumpError):
    """Another predump writes to the checkpoint."""


class CheckpointLock(Closing):
    """Keeps other commands from writing to a checkpoint, until `close` or the end of the process."""

    def __init__(self, path: Path, *, wait: bool = False) -> None:
        """Makes the directory if it is missing, and is to `wait` for others or not.

        Raises StorageError, CheckpointBusy if others are there and it is not to wait.
        """
        self._path = path
        create_checkpoint(path)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError.from_os_error("open", path, error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise CheckpointBusy(
                f"another predump is writing to {path}",
                hint="Wait until it has finished.",
                path=str(path),
            ) from None
        except BaseException:
            self.close()
            raise

    def is_in_place(self) -> bool:
        """Whether the path still leads to the directory that was locked."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except OSError:
            return False

    def close(self) -> None:
        """Unlocks the directory. May be called again."""
        if self._fd >= 0:
            close_quietly(self._fd)
            self._fd = -1
