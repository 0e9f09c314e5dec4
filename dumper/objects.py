"""Memory objects: files whose bytes a dump holds once for all processes that map them or have them open.

Shared memory, memfds and deleted files are nowhere else. They are found by (device, inode) and read through a
descriptor, so that no page of them enters the page tables of a target.
"""

import contextlib
import fcntl
import itertools
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dumper.filesystems import device_name
from dumper.kernel.copy import FileMaps, PageBuffer, Source
from dumper.kernel.pages import Scanner, Span, SpanFlag, SpanTable
from dumper.kernel.runs import RunList
from dumper.memory_map import Vma, VmaKind, has_only_copy
from dumper.proc.maps import DELETED, Mapping
from dumper.staging import Staging
from formats import manifest as image
from formats import runs
from formats.closing import Closing
from formats.layout import PAGE_BYTES

MEMFD = "/memfd:"
F_GET_SEALS = 1034  # fcntl(2), include/uapi/linux/fcntl.h

SPARE_RUNS = 1 << 8  # of an object: few have many holes, and there may be many objects
F_OFD_GETLK, F_OFD_SETLK = 36, 37
FLOCK = "hhqqi4x"  # struct flock
LOCKED_OFFSET_BYTES = 1 << 62

Key = tuple[int, int, int]
"""st_dev, st_ino, and 0 but for System V segments: the inode number of one is its id, which segments of other IPC
namespaces have, too, and perhaps other files of its device. They count from 1.
"""


def page_ceiling(n_bytes: int) -> int:
    """`n_bytes` rounded up to whole pages."""
    return -(-n_bytes // PAGE_BYTES) * PAGE_BYTES


class MappedFiles(Closing):
    """Open files behind mappings. Read there, memory of the target is not mapped into its page tables."""

    def __init__(self) -> None:
        self._fds: dict[tuple[str, int, int, int], int] = {}

    def fd(self, tid: int, mapping: Mapping) -> int:
        """A descriptor of the file that a live thread maps, or -1 if it may not be opened (CAP_CHECKPOINT_RESTORE).

        -1 also if the mapping is not there any more, which is no answer for another mapping of the same file.
        """
        # A System V segment may be another one with each mapping: see Key.
        place = (tid, mapping.start_addr) if mapping.is_sysv else (0, 0)
        key = (mapping.device, mapping.inode, *place)
        if key not in self._fds:
            path = Path(f"/proc/{tid}/map_files/{mapping.start_addr:x}-{mapping.end_addr:x}")
            fd = -1
            try:
                if stat.S_ISREG(path.stat().st_mode):  # opening a device might do something
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return -1
            except OSError:
                pass
            self._fds[key] = fd
        return self._fds[key]

    def close(self) -> None:
        """Closes all of them."""
        for fd in self._fds.values():
            if fd >= 0:
                os.close(fd)
        self._fds.clear()


@dataclass(slots=True)
class SharedObject:
    """A memory object on its way into a round.

    staging: its pages; ranges: offsets that belong to it, in bytes; mapped: pages of a named file that somebody has in
    his page tables; segment: what is known of a segment of System V, if it is one.
    """

    id: int
    fd: int
    kind: str
    path: str
    status: os.stat_result
    staging: Staging
    ranges: list[tuple[int, int]] = field(default_factory=list)
    mapped: RunList | None = None
    segment: image.Segment | None = None

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.status.st_size

    def source(self, memory: PageBuffer) -> Source:
        """Where its bytes come from."""
        return Source(0, -1, FileMaps([(0, page_ceiling(self.size_bytes), self.fd, 0)]), memory)

    def record(self, pages_data: int, pages_zero: int, unreadable: list[image.Gap]) -> image.MemoryObject:
        """As the manifest holds it, with its page counts and the offsets that could not be read."""
        seals = 0
        if self.kind == "memfd":
            with contextlib.suppress(OSError):  # a descriptor from map_files tells them as well
                seals = fcntl.fcntl(self.fd, F_GET_SEALS)
        return image.MemoryObject(
            id=self.id,
            device=device_name(self.status.st_dev),
            inode=self.status.st_ino,
            path=self.path,
            kind=self.kind,
            size_bytes=self.size_bytes,
            mode=self.status.st_mode,
            uid=self.status.st_uid,
            gid=self.status.st_gid,
            seals=seals,
            segment=self.segment,
            unreadable=unreadable,
            pages_data=pages_data,
            pages_zero=pages_zero,
        )


def _kind(vma: Vma) -> str:
    if vma.kind is VmaKind.HUGETLB:
        return "hugetlb"
    if vma.mapping.path.startswith(MEMFD):
        return "memfd"
    if vma.kind is VmaKind.SHMEM:
        return "shmem"
    return "deleted" if has_only_copy(vma) else "file"


def _is_same_file(fd: int, other_fd: int) -> bool:
    """Whether two descriptions are of one file, shown by a lock of the one that the other cannot have: fcntl(2).

    The byte that is locked lies behind all that anybody uses.
    """

    def lock(kind: int) -> bytes:
        return struct.pack(FLOCK, kind, os.SEEK_SET, LOCKED_OFFSET_BYTES, 1, 0)

    if fd == other_fd:
        return True
    fcntl.fcntl(fd, F_OFD_SETLK, lock(fcntl.F_RDLCK))
    try:
        (in_the_way,) = struct.unpack_from("h", fcntl.fcntl(other_fd, F_OFD_GETLK, lock(fcntl.F_WRLCK)))
    finally:
        fcntl.fcntl(fd, F_OFD_SETLK, lock(fcntl.F_UNLCK))
    return bool(in_the_way != fcntl.F_UNLCK)


class ObjectSet:
    """The memory objects of one dump, found while everything stands still."""

    def __init__(self, memory: PageBuffer) -> None:
        """`memory` is the staging memory that they are copied into."""
        self._memory = memory
        self._by_key: dict[Key, SharedObject] = {}
        self._scanner = Scanner(-1)  # of files, not of page tables

    def __iter__(self) -> Iterator[SharedObject]:
        return iter(self._by_key.values())

    @property
    def ids(self) -> dict[tuple[int, int], int]:
        """Object ids by (st_dev, st_ino), but of System V segments, which nobody has open."""
        return {(device, inode): one.id for (device, inode, number), one in self._by_key.items() if number == 0}

    def add_mappings(self, mapped: Sequence[tuple[Vma, int]]) -> dict[Mapping, SharedObject]:
        """The objects behind mappings, each given with a descriptor of its file."""
        return {vma.mapping: self._add_mapping(vma, fd) for vma, fd in mapped}

    def _add_mapping(self, vma: Vma, fd: int) -> SharedObject:
        mapping, kind = vma.mapping, _kind(vma)
        nameless = mapping.path.endswith(DELETED)
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino, 0)
        if mapping.is_sysv and vma.kind is not VmaKind.FILE:
            key = self._segment_key(fd, status)
        one = self._add(key, status, fd, kind, mapping.path.removesuffix(DELETED), whole=nameless)
        if not nameless and kind != "file":
            start = mapping.offset_bytes
            end = min(start + mapping.end_addr - mapping.start_addr, page_ceiling(one.size_bytes))
            one.ranges += [(start, end)] if start < end else []
        return one

    def _segment_key(self, fd: int, status: os.stat_result) -> Key:
        for number in itertools.count(1):
            key = (status.st_dev, status.st_ino, number)
            one = self._by_key.get(key)
            if one is None or _is_same_file(one.fd, fd):
                break
        return key

    def add_content(self, fd: int, kind: str, path: str) -> SharedObject:
        """An open file that nobody needs to have mapped; all of it."""
        status = os.fstat(fd)
        return self._add((status.st_dev, status.st_ino, 0), status, fd, kind, path, whole=True)

    def _add(self, key: Key, status: os.stat_result, fd: int, kind: str, path: str, *, whole: bool) -> SharedObject:
        one = self._by_key.get(key)
        if one is None:
            staging = Staging(self._scanner, RunList(1), self._memory, SPARE_RUNS)
            one = self._by_key[key] = SharedObject(len(self._by_key) + 1, fd, kind, path, status, staging)
        if whole and status.st_size:
            one.ranges = [(0, page_ceiling(status.st_size))]
        return one

    def add_mapped_pages(self, scanner: Scanner, mappings: dict[Mapping, SharedObject]) -> None:
        """Of named files, the pages that a process has in its page tables: all of them count as written.

        Raises OSError: ESRCH if the memory of the process is gone.
        """
        files = [(mapping, one) for mapping, one in mappings.items() if one.kind == "file"]
        if not files:
            return
        spans = [Span(m.start_addr, m.end_addr, SpanFlag.SHARED | SpanFlag.UNSEEN) for m, _ in files]
        present = RunList(1 << 12)
        scanner.start(SpanTable(spans), RunList(1), RunList(1))
        scanner.all_runs(present, reset=False)
        position = 0
        for mapping, one in files:
            moved = RunList(64)
            delta = mapping.offset_bytes - mapping.start_addr
            position = present.move_out(position, mapping.start_addr, mapping.end_addr, delta, moved)
            one.mapped = moved if one.mapped is None else one.mapped.united_with(moved)

    def capture(self) -> None:
        """Copies all of them into the staging memory, as far as it reaches."""
        for one in self:
            if one.mapped is not None:
                one.staging.copy_runs(one.mapped, one.source(self._memory))
            else:
                flags = SpanFlag.SHARED | SpanFlag.BY_FD
                spans = [Span(start, end, flags, one.fd, start) for start, end in runs.merge(sorted(one.ranges))]
                one.staging.final_scan(SpanTable(spans))
                one.staging.final_copy(one.source(self._memory))
