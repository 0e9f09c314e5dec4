"""Memory objects of a round: shared memory, memfds, files without a name and segments, each made once for all."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from formats import runs
from formats.checkpoint import RoundInfo
from formats.closing import Closing
from formats.manifest import SYSV_PREFIX, Manifest, MemoryObject
from formats.pagecopy import PageCopier
from formats.segments import SegmentKind
from formats.sources import ObjectSources
from restorer.errors import RestoreFailed
from restorer.events import Tell
from restorer.memory import newfiles
from restorer.memory.namedfiles import Found, finish, open_named
from restorer.memory.segments import Segments

_DELETED = " (deleted)"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
F_SEAL_WRITE = 0x8  # fcntl(2)


class MemoryObjects(Closing):
    """Descriptors of the round's memory objects, made and filled when somebody asks; a context manager.

    Files that were made by their names go with it, unless they are kept.
    """

    def __init__(self, info: RoundInfo, threads: int, tell: Tell) -> None:
        self._objects = {item.id: item for item in info.manifest.objects}
        self._info = info
        self._threads = threads
        self._tell = tell
        self._nameless = _nameless(info.manifest)
        self._fds: dict[int, int] = {}
        self._made: dict[int, str] = {}
        self._same_boot = info.manifest.host.boot_id == _BOOT_ID.read_text().strip()
        self._segments = Segments(same_boot=self._same_boot, tell=tell)

    def close(self) -> None:
        """Close our descriptors; what processes hold stays. May be called again."""
        self._segments.close()
        for path in self._made.values():
            with suppress(OSError):
                Path(path).unlink()
        self._made.clear()
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def keep(self) -> None:
        """Files with names, and segments, stay where they are: who uses them runs."""
        for number in self._made:
            finish(self._fds[number])
        self._made.clear()
        self._segments.keep()

    def has_name(self, number: int) -> bool:
        """Whether it is a file that is found by its path."""
        held = self._objects[number]
        return held.kind == "file" or (held.path.startswith("/") and number not in self._nameless)

    def is_memory(self, number: int) -> bool:
        """Whether its contents are nowhere but in memory and in the image: not so a file of a disk, which is there."""
        return self._objects[number].kind != "file"

    def is_segment(self, number: int) -> bool:
        """Whether it is a segment of System V, which has no descriptor."""
        return self._objects[number].path.startswith(SYSV_PREFIX)

    def segment(self, number: int) -> tuple[int, int]:
        """Id and size of segment `number`, whole pages. Raises RestoreFailed, ImageCorrupt, StorageError."""
        held = self._objects[number]
        try:
            found = self._segments.make(held, lambda memory: self._fill(held, _into_mapping(memory)))
        except OSError as error:
            raise RestoreFailed(
                f"Cannot make System V segment {held.inode} ({held.path}) anew: {error.strerror}.",
                hint="See 'ipcs -m' and 'ipcs -l'; to give it its id takes CAP_CHECKPOINT_RESTORE.",
            ) from error
        return found, held.pages_end_bytes

    def descriptor(self, number: int) -> int:
        """A descriptor of object `number`, opened to read and write; ours, and closed by us.

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
            _seal(self._objects[number], fd)

    def _make(self, held: MemoryObject) -> int:
        found = Found.MADE
        if self.has_name(held.id):
            fd, found = self._open_named(held)
        else:
            fd = newfiles.make(held)
        try:
            if found is not Found.USED:
                self._put_back(held, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _open_named(self, held: MemoryObject) -> tuple[int, Found]:
        if held.kind == "file":
            return os.open(held.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), Found.USED
        is_whole = _is_whole(held, self._info.manifest)
        fd, found = open_named(held, same_boot=self._same_boot, is_whole=is_whole)
        if found is Found.MADE:
            self._made[held.id] = held.path
        elif found is Found.USED:
            self._tell(f"contents of {held.path}, which others use")
        elif not is_whole:
            self._tell(f"contents of {held.path}, of which the image has a part")
            found = Found.USED
        return fd, found

    def _put_back(self, held: MemoryObject, fd: int) -> None:
        os.ftruncate(fd, 0)  # nothing else stays in one that was there
        os.ftruncate(fd, held.size_bytes)
        if held.kind == "hugetlb" and held.size_bytes:  # not to be written by write(2)
            with mmap.mmap(fd, held.size_bytes) as memory:
                self._fill(held, _into_mapping(memory))
        else:
            self._fill(held, _into_file(fd, held.size_bytes))
        os.fchmod(fd, stat.S_IMODE(held.mode))
        st = os.fstat(fd)
        if (st.st_uid, st.st_gid) != (held.uid, held.gid):
            os.fchown(fd, held.uid, held.gid)
        if held.seals & F_SEAL_WRITE:  # nobody maps it to write
            _seal(held, fd)

    def _fill(self, held: MemoryObject, write: Callable[[memoryview, int], None]) -> None:
        with ObjectSources(self._info) as sources, PageCopier(sources, write, self._threads) as copier:
            for segment in sources.segments(held.id, 0, held.pages_end_bytes):
                if segment.kind is SegmentKind.DATA:
                    copier.copy(segment, segment.start_addr)
            copier.finish()


def _into_file(fd: int, size_bytes: int) -> Callable[[memoryview, int], None]:
    """What writes pages; the last one is cut where the file ends."""

    def write(content: memoryview, offset: int) -> None:
        part = content[: max(0, size_bytes - offset)]
        while part:
            done = os.pwrite(fd, part, offset)
            part, offset = part[done:], offset + done

    return write


def _into_mapping(memory: mmap.mmap | memoryview) -> Callable[[memoryview, int], None]:
    def write(content: memoryview, offset: int) -> None:
        memory[offset : offset + len(content)] = content

    return write


def _seal(held: MemoryObject, fd: int) -> None:
    if held.seals and fcntl.fcntl(fd, fcntl.F_GET_SEALS) != held.seals:  # one of them may forbid that more are added
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, held.seals)


def _nameless(manifest: Manifest) -> frozenset[int]:
    """Objects that no name leads to any more."""
    mapped = {vma.object for process in manifest.processes for vma in process.vmas if vma.path.endswith(_DELETED)}
    opened = {one.object for one in manifest.open_files if one.deleted}
    kinds = {item.id for item in manifest.objects if item.kind in ("memfd", "deleted")}
    return frozenset(number for number in mapped | opened | kinds if number is not None)


def _is_whole(held: MemoryObject, manifest: Manifest) -> bool:
    """Whether all of a file with a name is in the image, which has what was mapped of it."""
    vmas = (vma for process in manifest.processes for vma in process.vmas if vma.object == held.id)
    mapped = sorted((vma.offset_bytes, vma.offset_bytes + vma.end_addr - vma.start_addr) for vma in vmas)
    return not list(runs.subtract([(0, held.pages_end_bytes)], runs.merge(mapped)))
