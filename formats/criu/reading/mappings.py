"""Mappings and shared memory in CRIU's images as our own records: mm-PID.img, pagemap-shmem-ID.img."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from formats import runs
from formats.criu.framing import damage
from formats.criu.images_pb2 import MemfdInode, Memory
from formats.criu.images_pb2 import Vma as VmaMessage
from formats.criu.names import shared_pagemap_name
from formats.criu.reading.directories import ImageDirectory
from formats.criu.reading.openfiles import SHARED_MEMORY_NAME, OpenFiles, memfd_path
from formats.criu.reading.pagemap import CriuPagemap
from formats.criu.values import VmaStatus
from formats.errors import ImageCorrupt
from formats.layout import PAGE_BYTES
from formats.manifest import UNKNOWN_VMA_KIND, Gap, MemoryObject, Vma
from formats.processstate import MemoryLayout

MAX_VMAS = 1 << 17
"""Of all processes of a directory (inclusive)."""

_MAX_RANGES = 1 << 16
_MAP_HUGETLB = 0x40000
_OFFSET_END = 1 << 63
_DELETED = " (deleted)"  # what /proc/PID/maps has behind the names of shared memory
_SPECIAL = {VmaStatus.VSYSCALL: "[vsyscall]", VmaStatus.VDSO: "[vdso]", VmaStatus.VVAR: "[vvar]"}
_OF_FILE = VmaStatus.FILE_PRIVATE | VmaStatus.FILE_SHARED
_LAZY_REASON = "CRIU left it to be fetched from the process (lazy pages)"


def layout_of(memory: Memory) -> MemoryLayout:
    """The boundaries in the kernel's mm_struct."""
    return MemoryLayout(
        start_code_addr=memory.start_code_addr,
        end_code_addr=memory.end_code_addr,
        start_data_addr=memory.start_data_addr,
        end_data_addr=memory.end_data_addr,
        start_brk_addr=memory.start_brk_addr,
        brk_addr=memory.brk_addr,
        start_stack_addr=memory.start_stack_addr,
        arg_start_addr=memory.arg_start_addr,
        arg_end_addr=memory.arg_end_addr,
        env_start_addr=memory.env_start_addr,
        env_end_addr=memory.env_end_addr,
    )


def gaps_of(pagemap: CriuPagemap) -> list[Gap]:
    """What was left with the process; what lies between may be taken in where there are too many ranges."""
    return [
        Gap(start_addr=start_addr, end_addr=end_addr, reason=_LAZY_REASON)
        for start_addr, end_addr in _few(pagemap.elsewhere)
    ]


def vmas_of_pages(pagemap: CriuPagemap) -> list[Vma]:
    """Where a process had pages, as mappings of which nothing else is known: CRIU tells them with its dump only."""
    found = []
    for start_addr, end_addr in _few(lambda: ((run.start_addr, run.end_addr) for run in pagemap.runs())):
        here, parent = pagemap.counts(start_addr, end_addr)
        vma = Vma(
            start_addr=start_addr,
            end_addr=end_addr,
            perms="????",
            offset_bytes=0,
            device="",
            inode=0,
            path="",
            kind=UNKNOWN_VMA_KIND,
            tracked=True,
            pages_data=here,
            pages_parent=parent,
        )
        found.append(vma)
    return found


def _few(ranges: Callable[[], Iterable[runs.Range]]) -> list[runs.Range]:
    """Ranges that touch as one, and those next to one another, too, if they would be too many."""
    reach_bytes = 0
    while True:
        near = ((start_addr, end_addr + reach_bytes) for start_addr, end_addr in ranges())
        found = list(islice(runs.merge(near), _MAX_RANGES + 1))
        if len(found) <= _MAX_RANGES:
            return [(start_addr, end_addr - reach_bytes) for start_addr, end_addr in found]
        reach_bytes = max(reach_bytes * 16, 16 * PAGE_BYTES)


def mapped_file_ids(memory: Memory) -> list[int]:
    """The files that are mapped, by their ids in files.img."""
    return [vma.shared_id for vma in memory.vmas if vma.status & _OF_FILE and not vma.status & VmaStatus.MEMFD]


class SharedMemory:
    """The shared memory of a directory of images: memory objects, each found by the id that CRIU gave it."""

    def __init__(self, directory: ImageDirectory) -> None:
        self._directory = directory
        self._objects: dict[int, MemoryObject] = {}

    def map(self, shared_id: int, inode: MemfdInode | None, end_bytes: int) -> int | None:
        """The memory object that is mapped up to byte `end_bytes`, None if there are no pages of it.

        Its own id is that of CRIU. Raises ImageCorrupt, ImageVersionUnsupported, StorageError.
        """
        held = self._objects.get(shared_id)
        if held is None:
            pagemap = self._directory.pagemap(shared_pagemap_name(shared_id))
            if pagemap is None:
                return None
            held = _shared_memory(shared_id, inode, pagemap)
        if inode is None:  # nobody tells its size, but that it was mapped so far
            held = replace(held, size_bytes=max(held.size_bytes, end_bytes))
        self._objects[shared_id] = held
        return shared_id

    @property
    def objects(self) -> list[MemoryObject]:
        """All that were mapped."""
        return list(self._objects.values())


class Mappings:
    """Makes records of the mappings of one process after the other."""

    def __init__(self, files: OpenFiles, shared: SharedMemory) -> None:
        self._files = files
        self._shared = shared
        self._room = MAX_VMAS

    def of(self, path: Path, memory: Memory, pagemap: CriuPagemap) -> list[Vma]:
        """The mappings in `memory`, the message of file `path`, with the pages that `pagemap` has of them.

        Raises ImageCorrupt, ImageVersionUnsupported, StorageError.
        """
        self._room -= len(memory.vmas)
        if self._room < 0:
            raise damage(path, f"has more mappings than the {MAX_VMAS} that all processes may have")
        found: list[Vma] = []
        previous_end_addr = 0
        for message in memory.vmas:
            start_addr, end_addr = message.start_addr, message.end_addr
            if not previous_end_addr <= start_addr < end_addr or start_addr % PAGE_BYTES or end_addr % PAGE_BYTES:
                raise _corrupt(path, start_addr, "is out of order, or not one of whole pages")
            previous_end_addr = end_addr
            is_stack = start_addr <= memory.start_stack_addr < end_addr
            found.append(self._vma(path, message, pagemap, is_stack=is_stack))
        return found

    def _vma(self, path: Path, message: VmaMessage, pagemap: CriuPagemap, *, is_stack: bool) -> Vma:
        here, parent = pagemap.counts(message.start_addr, message.end_addr)
        kind, name = ("stack", "[stack]") if is_stack else self._what(message)
        return Vma(
            start_addr=message.start_addr,
            end_addr=message.end_addr,
            perms=_perms(message),
            offset_bytes=message.offset_bytes,
            device="",
            inode=0,
            path=name,
            kind=kind,
            tracked=True,
            pages_data=here,
            pages_parent=parent,
            object=self._object(path, message),
        )

    def _what(self, message: VmaMessage) -> tuple[str, str]:
        """Kind and path as in a manifest."""
        status = message.status
        for bit, name in _SPECIAL.items():
            if status & bit:
                return "special", name
        if status & VmaStatus.HEAP:
            return "heap", "[heap]"
        is_huge = bool(message.flags & _MAP_HUGETLB)
        if status & VmaStatus.MEMFD:
            return "hugetlb" if is_huge else "shmem", self._files.path(message.shared_id) + _DELETED
        if status & (VmaStatus.ANON_SHARED | VmaStatus.SYSV):
            return "hugetlb" if is_huge else "shmem", ""
        if status & _OF_FILE:
            return "hugetlb" if is_huge else "file", self._files.path(message.shared_id)
        if status & (VmaStatus.SOCKET | VmaStatus.AIO_RING):
            return "device", ""
        return "hugetlb" if is_huge else "anon", ""

    def _object(self, path: Path, message: VmaMessage) -> int | None:
        inode = self._files.memfd(message.shared_id) if message.status & VmaStatus.MEMFD else None
        if inode is None and not message.status & (VmaStatus.ANON_SHARED | VmaStatus.SYSV):
            return None
        end_bytes = message.offset_bytes + message.end_addr - message.start_addr
        if message.offset_bytes % PAGE_BYTES or end_bytes > _OFFSET_END:
            raise _corrupt(path, message.start_addr, "has an impossible offset")
        return self._shared.map(inode.shared_id if inode else message.shared_id, inode, end_bytes)


def _shared_memory(shared_id: int, inode: MemfdInode | None, pagemap: CriuPagemap) -> MemoryObject:
    here, _ = pagemap.counts()
    is_memfd = inode is not None and inode.name != SHARED_MEMORY_NAME
    return MemoryObject(
        id=shared_id,
        device="",
        inode=shared_id,
        path=memfd_path(inode) if inode else "",
        kind="memfd" if is_memfd else "shmem",
        size_bytes=min(inode.size_bytes, _OFFSET_END - PAGE_BYTES) if inode else 0,
        mode=inode.mode if inode else 0,
        uid=inode.uid if inode else 0,
        gid=inode.gid if inode else 0,
        seals=inode.seals if is_memfd and inode else 0,
        unreadable=gaps_of(pagemap),
        pages_data=here,
    )


def _perms(message: VmaMessage) -> str:
    letters = ((mmap.PROT_READ, "r"), (mmap.PROT_WRITE, "w"), (mmap.PROT_EXEC, "x"))
    protection = "".join(letter if message.protection & bit else "-" for bit, letter in letters)
    return protection + ("s" if message.flags & mmap.MAP_SHARED else "p")


def _corrupt(path: Path, start_addr: int, problem: str) -> ImageCorrupt:
    return damage(path, f"has a mapping at {start_addr:#x} that {problem}")
