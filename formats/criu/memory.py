"""The address space of a process in CRIU's words: mm-PID.img, and which pages belong into its pagemap."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict
from enum import IntFlag

from formats.criu.files import FileTable
from formats.criu.images_pb2 import Memory
from formats.criu.images_pb2 import Vma as VmaMessage
from formats.criu.values import VmaStatus
from formats.manifest import ANONYMOUS_VMA_KINDS, Manifest, MemoryObject, Missing, Process, Vma
from formats.processstate import MemoryLayout

_AUXV_ENTRY = struct.Struct("<QQ")
_O_RDWR = 2
_NO_LAYOUT = MemoryLayout(
    start_code_addr=0,
    end_code_addr=0,
    start_data_addr=0,
    end_data_addr=0,
    start_brk_addr=0,
    brk_addr=0,
    start_stack_addr=0,
    arg_start_addr=0,
    arg_end_addr=0,
    env_start_addr=0,
    env_end_addr=0,
)


class _Map(IntFlag):
    """MAP_* of mmap(2)."""

    SHARED = 0x01
    PRIVATE = 0x02
    ANONYMOUS = 0x20
    GROWSDOWN = 0x0100
    LOCKED = 0x2000
    NORESERVE = 0x4000


_FLAGS = {"gd": _Map.GROWSDOWN, "lo": _Map.LOCKED, "nr": _Map.NORESERVE}
"""By VmFlags, as in /proc/PID/smaps: proc(5)."""
_ADVICE = {"rr": 1, "sr": 2, "dc": 10, "mg": 12, "hg": 14, "nh": 15, "dd": 16, "wf": 18}
"""MADV_* of madvise(2), by VmFlags."""
_PROTECTION = {"r": 1, "w": 2, "x": 4}  # PROT_*
_SPECIAL = {
    "[vdso]": VmaStatus.REGULAR | VmaStatus.VDSO,
    "[vvar]": VmaStatus.REGULAR | VmaStatus.VVAR,
    "[vvar_vclock]": VmaStatus.REGULAR | VmaStatus.VVAR,
    "[vsyscall]": VmaStatus.VSYSCALL,
}
_KEPT_FILES = frozenset({"file", "device"})
"""Kinds of mapping that CRIU maps from the file of that name; what others show of files becomes anonymous memory."""


def shared_id(object_id: int) -> int:
    """By which the mappings of a memory object and its pages find one another, in pagemap-shmem-ID.img."""
    return object_id + 1


def memory_of(process: Process, objects: dict[int, MemoryObject], table: FileTable) -> Memory:
    """The mappings of a process; the files that are mapped are added to `table`.

    Raises ValueError for values that the messages have no room for.
    """
    state = process.state
    layout = (state.layout if state else None) or _NO_LAYOUT
    auxv = state.auxv if state else b""
    auxv = auxv[: len(auxv) // _AUXV_ENTRY.size * _AUXV_ENTRY.size]
    files = _MappedFiles(process, table)
    memory = Memory(
        **asdict(layout),
        exe_file=files.id_of(process.exe),
        auxv=[value for entry in _AUXV_ENTRY.iter_unpack(auxv) if entry[0] for value in entry],
        vmas=[_vma_message(vma, objects, files) for vma in process.vmas],
    )
    if state is not None:
        memory.dumpable = state.prctl.get("dumpable", 1)
        memory.thp_disabled = state.thp_disabled
    return memory


def is_private_anonymous(vma: Vma, objects: dict[int, MemoryObject]) -> bool:
    """Whether absent pages of it are zeros, as CRIU is told."""
    return bool(_status(vma, objects) & VmaStatus.ANON_PRIVATE)


def mapped_shared(manifest: Manifest) -> set[int]:
    """Ids of the memory objects of a round whose bytes are in pagemaps of their own."""
    objects = {item.id: item for item in manifest.objects}
    return {
        vma.object
        for process in manifest.processes
        for vma in process.vmas
        if vma.object is not None and _status(vma, objects) & VmaStatus.ANON_SHARED
    }


class _MappedFiles:
    """The files that a process has mapped, each with what tells it from others."""

    def __init__(self, process: Process, table: FileTable) -> None:
        self._known = {item.path: (item.size_bytes, item.build_id) for item in process.mapped_files}
        self._known.setdefault(process.exe, (0, process.exe_build_id))
        self._table = table

    def id_of(self, path: str, flags: int = 0) -> int:
        """In files.img."""
        size_bytes, build_id = self._known.get(path, (0, ""))
        return self._table.path(path, flags=flags, size_bytes=size_bytes, build_id=build_id)


def _status(vma: Vma, objects: dict[int, MemoryObject]) -> VmaStatus:
    if vma.path in _SPECIAL:
        return _SPECIAL[vma.path] | VmaStatus.ANON_PRIVATE
    kept = vma.kind in _KEPT_FILES and (vma.object is None or objects[vma.object].kind == "file")
    if kept:
        return VmaStatus.REGULAR | (VmaStatus.FILE_SHARED if vma.is_shared else VmaStatus.FILE_PRIVATE)
    if vma.is_shared:
        return VmaStatus.REGULAR | VmaStatus.ANON_SHARED
    heap = VmaStatus.HEAP if vma.kind == "heap" else 0
    return VmaStatus.REGULAR | VmaStatus.ANON_PRIVATE | heap


def _vma_message(vma: Vma, objects: dict[int, MemoryObject], files: _MappedFiles) -> VmaMessage:
    status = _status(vma, objects)
    letters = vma.flags.split()
    flags = _Map.SHARED if vma.is_shared else _Map.PRIVATE
    for letter in letters:
        flags |= _FLAGS.get(letter, 0)
    message = VmaMessage(
        start_addr=vma.start_addr,
        end_addr=vma.end_addr,
        offset_bytes=0,
        shared_id=0,
        protection=sum(_PROTECTION.get(letter, 0) for letter in vma.perms),
        status=status,
        flags=flags,
        fd=-1,
    )
    advice = sum(1 << _ADVICE[letter] for letter in set(letters) & _ADVICE.keys())
    if advice:
        message.advice = advice
    if status & (VmaStatus.FILE_SHARED | VmaStatus.FILE_PRIVATE):
        message.open_flags = _O_RDWR if vma.is_shared and "mw" in letters else 0
        message.offset_bytes = vma.offset_bytes
        message.shared_id = files.id_of(vma.path, message.open_flags)
        return message
    message.flags |= _Map.ANONYMOUS
    if status & VmaStatus.ANON_SHARED and vma.object is not None:
        message.offset_bytes = vma.offset_bytes
        message.shared_id = shared_id(vma.object)
    return message


def left_out_of_memory(process: Process, objects: dict[int, MemoryObject]) -> Iterator[Missing]:
    """What of the address space has no place in CRIU's images."""
    for guard in process.guards:
        yield Missing(what=f"guard pages {guard.start_addr:#x}-{guard.end_addr:#x}", reason="written as plain memory")
    if process.state is not None and process.state.layout is None:
        yield Missing(what="boundaries of code, data, heap and stack", reason="the round does not have them")
    for vma in process.vmas:
        where = f"mapping {vma.start_addr:#x}-{vma.end_addr:#x}"
        status = _status(vma, objects)
        if vma.path.startswith("[anon"):
            yield Missing(what=f"name of {where}", reason="CRIU's images have no names of anonymous memory")
        if vma.kind == "device":
            yield Missing(what=where, reason="of a device: CRIU maps it again")
        elif vma.kind == "hugetlb":
            yield Missing(what=where, reason="of huge pages: its pages are written as plain ones")
        elif vma.kind not in ANONYMOUS_VMA_KINDS | {"special"} and not status & (
            VmaStatus.FILE_PRIVATE | VmaStatus.FILE_SHARED
        ):
            if vma.path != "/dev/zero (deleted)":
                yield Missing(what=f"file of {where}", reason=f"{vma.path} is written as anonymous memory")
        elif status & VmaStatus.FILE_SHARED and vma.object is not None:
            yield Missing(what=f"pages of {where}", reason=f"CRIU maps {vma.path} again")
