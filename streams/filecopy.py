"""Files that a process needs and that this host lacks, as they arrive: each gets its name when all of it is there.

Only files that were asked for and found missing come into being, in directories that are there; no link is followed,
and nothing that has a name is touched. Until it has its name a file has none at all, and goes with this process.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from formats.closing import Closing
from formats.errors import StorageError
from streams.errors import StreamRefused
from streams.messages import Content, corrupt
from streams.questions import Copy, Problem, WantedFile

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Arriving:
    file: int
    fd: int
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Made:
    path: str
    directory_fd: int
    name: str
    inode: int


class FileCopies(Closing):
    """The files that one sender copies; `close` removes them again unless they are kept."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}
        self._arriving: _Arriving | None = None
        self._directory_fd = -1
        self._made: list[_Made] = []

    def allow(self, files: Sequence[WantedFile], problems: Sequence[Problem]) -> None:
        """These may be copied from now on: what was found missing."""
        self._paths = {one.file: files[one.file].path for one in problems if one.is_missing}

    def take(self, message: Content) -> None:
        """Bytes of a file, in order. Raises StreamCorrupt, StreamRefused, StorageError."""
        if self._arriving is None:
            self._arriving = self._begin(message.file)
        arriving = self._arriving
        if (message.file, message.offset_bytes) != (arriving.file, arriving.n_bytes):
            raise corrupt(f"byte {message.offset_bytes} of file {message.file} comes out of turn")
        path = self._paths[arriving.file]
        try:
            view = memoryview(message.content)
            while view:
                view = view[os.write(arriving.fd, view) :]
        except OSError as error:
            raise StorageError.from_os_error("write", Path(path), error) from error
        arriving.n_bytes += len(message.content)

    def finish(self, copy: Copy) -> None:
        """All of it has come. Raises StreamCorrupt, StreamRefused, StorageError."""
        arriving = self._arriving or self._begin(copy.file)
        self._arriving = arriving
        path = self._paths[arriving.file]
        if (arriving.file, arriving.n_bytes) != (copy.file, copy.size_bytes) or _digest(arriving.fd) != copy.sha256:
            raise corrupt(f"file {copy.file} is not what was sent")
        name = path.rpartition("/")[2]
        try:
            with suppress(PermissionError):  # who is not root owns what he writes
                os.fchown(arriving.fd, copy.uid, copy.gid)
            os.fchmod(arriving.fd, copy.mode & 0o777)
            os.utime(arriving.fd, ns=(copy.mtime_ns, copy.mtime_ns))
            os.link(f"/proc/self/fd/{arriving.fd}", name, dst_dir_fd=self._directory_fd, follow_symlinks=True)
        except OSError as error:
            raise StorageError.from_os_error("create", Path(path), error) from error
        self._made.append(_Made(path, self._directory_fd, name, os.fstat(arriving.fd).st_ino))
        self._directory_fd = -1
        self._drop()
        del self._paths[copy.file]

    def keep(self) -> None:
        """The process runs with them."""
        for one in self._made:
            os.close(one.directory_fd)
        self._made.clear()

    def remove_others(self, named: Collection[str]) -> None:
        """Remove what is none of these paths."""
        for one in [one for one in self._made if one.path not in named]:
            self._made.remove(one)
            _remove(one)

    def close(self) -> None:
        """Remove what was made, if nobody has put something else there."""
        self._drop()
        self.remove_others(())

    def _begin(self, file: int) -> _Arriving:
        path = self._paths.get(file)
        if path is None:
            raise corrupt(f"file {file} was not missing")
        try:
            self._directory_fd = _open_directory(path)
            fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._directory_fd)
        except OSError as error:
            self._drop()
            raise StreamRefused(
                f"{path} cannot be made here: {(error.strerror or str(error)).lower()}",
                hint="Make its directory, or copy it by yourself.",
            ) from error
        return _Arriving(file, fd)

    def _drop(self) -> None:
        if self._arriving is not None:
            os.close(self._arriving.fd)
            self._arriving = None
        if self._directory_fd >= 0:
            os.close(self._directory_fd)
            self._directory_fd = -1


def _remove(made: _Made) -> None:
    with suppress(OSError):
        if os.lstat(made.name, dir_fd=made.directory_fd).st_ino == made.inode:
            os.unlink(made.name, dir_fd=made.directory_fd)
    os.close(made.directory_fd)


def _open_directory(path: str) -> int:
    """That of a file, by its absolute path without links. Raises OSError."""
    fd = os.open("/", _DIRECTORY)
    for part in path.split("/")[1:-1]:
        try:
            inner_fd = os.open(part, _DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner_fd
    return fd


def _digest(fd: int) -> str:
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(os.dup(fd), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_plain_path(path: str) -> bool:
    """Whether it is absolute, names a file, and leads nowhere else by `..`."""
    parts = path.split("/")
    return path.startswith("/") and "\0" not in path and not {"", ".", ".."} & set(parts[1:])


def problem_of(number: int, wanted: WantedFile, identity: str, status: os.stat_result | None) -> Problem | None:
    """What is wrong with a file as it was found here (`status`, and `identity`, its build id); None if nothing is."""
    if status is None:
        return Problem(file=number, what="is missing", is_missing=True)
    if not stat.S_ISREG(status.st_mode):
        return Problem(file=number, what="is no regular file", is_missing=False)
    if wanted.build_id:
        is_same = identity == wanted.build_id
        return None if is_same else Problem(file=number, what="is another build", is_missing=False)
    if wanted.mtime_ns and (status.st_size, status.st_mtime_ns) != (wanted.size_bytes, wanted.mtime_ns):
        return Problem(file=number, what="has another size or time", is_missing=False)
    return None
