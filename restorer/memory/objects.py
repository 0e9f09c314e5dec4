"""Memory objects of a round: shared memory, memfds and files without a name, each made once for all who use it."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from formats.checkpoint import RoundInfo
from formats.closing import Closing
from formats.manifest import MemoryObject
from formats.pagecopy import PageCopier
from formats.segments import SegmentKind
from formats.sources import ObjectSources
from restorer.errors import RestoreFailed

_MEMFD = "/memfd:"


class MemoryObjects(Closing):
    """Descriptors of the round's memory objects, made and filled when somebody asks; a context manager."""

    def __init__(self, info: RoundInfo, threads: int) -> None:
        self._objects = {item.id: item for item in info.manifest.objects}
        self._info = info
        self._threads = threads
        self._fds: dict[int, int] = {}

    def close(self) -> None:
        """Close our descriptors; what processes hold stays. May be called again."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def has_name(self, number: int) -> bool:
        """Whether it is a file that is found by its path, and was not made anew."""
        held = self._objects[number]
        return held.kind == "file" or (held.kind == "shmem" and _has_name(held))

    def descriptor(self, number: int) -> int:
        """A descriptor of object `number`, opened to read and write where it can be; ours, and closed by us.

        Raises RestoreFailed, ImageCorrupt, StorageError.
        """
        if number not in self._fds:
            held = self._objects[number]
            try:
                self._fds[number] = self._make(held)
            except OSError as error:
                raise RestoreFailed(
                    f"Cannot make {held.path or 'shared memory'} (memory object {number}) anew: {error.strerror}.",
                    hint="Its contents are in the image; see that its file system has room and may be written.",
                ) from error
        return self._fds[number]

    def seal(self) -> None:
        """Put the seals of memfds in their place, when everything is mapped and open. Raises OSError."""
        for number, fd in self._fds.items():
            if self._objects[number].seals:
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, self._objects[number].seals)

    def _make(self, held: MemoryObject) -> int:
        if self.has_name(held.id):
            return os.open(held.path, os.O_RDWR | os.O_CLOEXEC)
        fd = _new(held)
        try:
            os.ftruncate(fd, held.size_bytes)
            self._fill(held, fd)
            os.fchmod(fd, stat.S_IMODE(held.mode))
            st = os.fstat(fd)
            if (st.st_uid, st.st_gid) != (held.uid, held.gid):
                os.fchown(fd, held.uid, held.gid)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _fill(self, held: MemoryObject, fd: int) -> None:
        """Its pages into the file; the last one is cut where the file ends."""

        def write(content: memoryview, offset: int) -> None:
            part = content[: max(0, held.size_bytes - offset)]
            while part:
                done = os.pwrite(fd, part, offset)
                part, offset = part[done:], offset + done

        with ObjectSources(self._info) as sources, PageCopier(sources, write, self._threads) as copier:
            for segment in sources.segments(held.id, 0, held.pages_end_bytes):
                if segment.kind is SegmentKind.DATA:
                    copier.copy(segment, segment.start_addr)
            copier.finish()


def _has_name(held: MemoryObject) -> bool:
    return held.path.startswith("/") and not held.path.startswith(("/dev/zero", "/SYSV", _MEMFD))


def _new(held: MemoryObject) -> int:
    """An empty file for it. Raises OSError."""
    if held.kind == "deleted":
        return os.open(Path(held.path).parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, stat.S_IMODE(held.mode))
    name = held.path.removeprefix(_MEMFD) if held.kind == "memfd" else held.path.lstrip("/") or "shared"
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
