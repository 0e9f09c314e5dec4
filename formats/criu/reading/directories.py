"""Directories of CRIU's images, and how one refers to the one before it.

A directory that was dumped on top of another has a symbolic link `parent`. As CRIU does, a reader follows it wherever
it leads: where the images lie is for their owner to say. What is opened there are regular files of CRIU's names and
magics, never through a link of their own, with the rights of whoever reads.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from formats.criu.names import PARENT_NAME, is_of_memory, pagemap_name, pagemap_pid, shared_pagemap_name
from formats.criu.reading.pagemap import CriuPagemap
from formats.criu.reading.pages import CriuPages
from formats.errors import ImageCorrupt, StorageError

_HELD_PAGEMAPS = 2
MAX_DIRECTORIES = 1000
"""Directories of one chain (inclusive)."""


class ImageDirectory:
    """A directory that is round `number` of a chain; `names` are those of the files in it."""

    def __init__(self, number: int, path: Path) -> None:
        """Look what is in it; raises StorageError."""
        self.number = number
        self.path = path
        try:
            self.names = frozenset(entry.name for entry in path.iterdir())
        except OSError as error:
            raise StorageError.from_os_error("read", path, error) from error
        self._pagemaps: dict[str, CriuPagemap] = {}  # the one used last comes last

    def pids(self) -> list[int]:
        """The processes that it has pages of, ascending."""
        return sorted(pid for pid in map(pagemap_pid, self.names) if pid is not None)

    def stored_bytes(self) -> int:
        """Bytes of the files of memory in it; raises StorageError."""
        try:
            return sum((self.path / name).lstat().st_size for name in self.names if is_of_memory(name))
        except OSError as error:
            raise StorageError.from_os_error("read", self.path, error) from error

    def pages(self, pid: int) -> CriuPages:
        """The pages that it has of a process, which may be none."""
        return CriuPages(self, pagemap_name(pid))

    def shared_pages(self, shared_id: int) -> CriuPages:
        """The pages that it has of shared memory, which may be none."""
        return CriuPages(self, shared_pagemap_name(shared_id))

    def pagemap(self, name: str) -> CriuPagemap | None:
        """A pagemap by the name of its file, None if there is none; the last few are held.

        Raises ImageCorrupt, ImageVersionUnsupported, StorageError.
        """
        if name not in self.names:
            return None
        found = self._pagemaps.pop(name, None) or CriuPagemap(self.path / name)
        while len(self._pagemaps) >= _HELD_PAGEMAPS:
            del self._pagemaps[next(iter(self._pagemaps))]
        self._pagemaps[name] = found
        return found


def lineage(path: Path) -> tuple[list[Path], Path | None]:
    """A directory, the one it builds on, and so on; and the one that is missing, None if the last builds on none.

    Raises ImageCorrupt if they go round in a circle, or are too many; StorageError.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    directory = Path(os.path.realpath(path))
    while True:
        try:
            status = directory.stat()
        except FileNotFoundError:
            return found, directory
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _corrupt(path, "leads to itself") from error
            raise StorageError.from_os_error("open", directory, error) from error
        if not stat.S_ISDIR(status.st_mode):
            raise _corrupt(path, f"leads to {directory}, which is no directory")
        if (status.st_dev, status.st_ino) in seen:
            raise _corrupt(path, f"leads back to {directory}")
        if len(found) == MAX_DIRECTORIES:
            raise _corrupt(path, f"leads to more than {MAX_DIRECTORIES} directories")
        seen.add((status.st_dev, status.st_ino))
        found.append(directory)
        link = directory / PARENT_NAME
        if not os.path.lexists(link):
            return found, None
        directory = Path(os.path.realpath(link))


def _corrupt(path: Path, problem: str) -> ImageCorrupt:
    return ImageCorrupt(
        f"{path} is damaged: a link {PARENT_NAME!r} {problem}.",
        hint=f"Look where the links {PARENT_NAME!r} lead.",
        path=str(path),
    )
