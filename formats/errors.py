"""The errors of the project: what happened, what to do about it, and the exit code to end with."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import ClassVar, Self


class PredumpError(Exception):
    """Root of all errors of the project.

    `message` is one sentence on what happened, `hint` one on what to do ("" if there is nothing
    to say), `fields` holds the figures of the message for programs.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", **fields: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields


class UsageError(PredumpError):
    """The request makes no sense for this checkpoint: a round, process or address it lacks."""

    exit_code: ClassVar[int] = 2


class NotACheckpoint(PredumpError):
    """The path is no checkpoint: not a directory, or without a committed round."""


class OtherImages(NotACheckpoint):
    """The path is no checkpoint of predump's, but images of CRIU's, which some commands read, too."""

    exit_code: ClassVar[int] = 2


class AddressAbsent(PredumpError):
    """The image has no bytes for an address; `fields["addr"]` is the first such address."""


class ImageCorrupt(PredumpError):
    """Bytes of an image contradict its checksums, its sizes or the format."""

    exit_code: ClassVar[int] = 20

    def __init__(self, message: str, *, hint: str = "", **fields: str | int) -> None:
        hint = hint or "Run 'predump verify' on the checkpoint to see how far the damage goes."
        super().__init__(message, hint=hint, **fields)


class ImageVersionUnsupported(PredumpError):
    """The image is intact as far as can be told, but a newer tool wrote it."""

    exit_code: ClassVar[int] = 21

    def __init__(self, message: str, *, hint: str = "", **fields: str | int) -> None:
        hint = hint or "Read it with the version of predump that wrote it, or a newer one."
        super().__init__(message, hint=hint, **fields)


class ParentMissing(PredumpError):
    """A round refers to an earlier round that is not in the checkpoint directory."""

    exit_code: ClassVar[int] = 22


_STORAGE_HINTS = {
    errno.ENOSPC: "Free some space on that file system, or choose another directory.",
    errno.EDQUOT: "Free some space within the disk quota, or choose another directory.",
    errno.EROFS: "Choose a directory on a file system that is mounted read-write.",
    errno.EACCES: "Choose a directory that this user may use, or run as its owner.",
    errno.EPERM: "Choose a directory that this user may use, or run as its owner.",
    errno.EEXIST: "Choose another directory, or remove what is in the way.",
    errno.ENOENT: "Create the parent directory first.",
    errno.ENOTDIR: "Choose a path whose parents are all directories.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or choose another file system.",
    errno.EMFILE: "Raise the limit on open files (ulimit -n), or flatten the checkpoint.",
    errno.EIO: "Check the kernel log and the disk.",
}


class StorageError(PredumpError):
    """The file system refused: disk full, read-only, no permission, I/O error.

    `fields` holds `path` and `errno`.
    """

    @classmethod
    def from_os_error(cls, action: str, path: Path, error: OSError) -> Self:
        """The error for a failed system call; `action` is a verb as in "Cannot write PATH"."""
        return cls(
            f"Cannot {action} {path}: {error.strerror}.",
            hint=_STORAGE_HINTS.get(error.errno or 0, "Check that file system and try again."),
            path=str(path),
            errno=error.errno or 0,
        )

    @classmethod
    def out_of_place(cls, path: Path) -> Self:
        """The error for a directory that is not the one any more that was there before."""
        return cls(
            f"{path} was removed or replaced while the checkpoint was written.",
            hint="Begin a new checkpoint, and leave its directory where it is.",
            path=str(path),
            errno=errno.ENOENT,
        )
