"""What a round says of the files that a process maps: readers find out by it whether a file is still the one.

Asked while the process runs, for it takes time.
"""

import contextlib
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from dumper.filesystems import device_name
from dumper.memory_map import Vma, VmaKind
from dumper.proc.maps import DELETED, Mapping, MapsParser, read_maps
from dumper.target import Target
from dumper.tracking import AddressSpace
from formats.buildid import build_id
from formats.manifest import FileKey, MappedFile

MAX_FILES = 4096  # of a process; of more it is not worth the time


class FileRecords:
    """The files of one process as long as it has the same memory."""

    def __init__(self, target: Target, space: AddressSpace) -> None:
        self._target = target
        self._space = space
        self._known: dict[FileKey, MappedFile] = {}

    def look(self, vmas: Iterable[Vma], *, afresh: bool) -> list[MappedFile]:
        """Size, time of the last write and build id of each file, as far as can be told.

        `vmas` are those that the address space read last. What was told of a file before is told again unless it is
        looked at `afresh`. Raises TargetGone, TrackingLostError.
        """
        by_file: dict[FileKey, list[Mapping]] = {}
        for vma in vmas:
            if vma.kind is VmaKind.FILE and (_key(vma.mapping) in by_file or len(by_file) < MAX_FILES):
                by_file.setdefault(_key(vma.mapping), []).append(vma.mapping)
        found = {key: one for key, one in self._known.items() if key in by_file and not afresh}
        new = {key: _record(self._target, maps) for key, maps in by_file.items() if key not in found}
        if new and self._space.has_changed():
            # Something else may have been mapped in their place meanwhile.
            still_mapped = set(MapsParser().parse(read_maps(self._target.tid)))
            new = {key: one for key, one in new.items() if still_mapped.issuperset(by_file[key])}
        self._known = found | new
        return list(self._known.values())


def still_of(files: Iterable[MappedFile], vmas: Iterable[Vma]) -> list[MappedFile]:
    """Those of the files that are mapped there."""
    keys = {_key(vma.mapping) for vma in vmas}
    return [one for one in files if one.file_key in keys]


def _key(mapping: Mapping) -> FileKey:
    return mapping.path, mapping.device, mapping.inode


def _record(target: Target, mappings: Sequence[Mapping]) -> MappedFile:
    first = mappings[0]
    status = _status(target, first)
    # Only of what may run: of all else the first page would enter the page tables for nothing.
    is_code = any(mapping.is_executable for mapping in mappings)
    return MappedFile(
        path=first.path,
        device=first.device,
        inode=first.inode,
        size_bytes=status.st_size if status else 0,
        mtime_ns=status.st_mtime_ns if status else 0,
        build_id=build_id(partial(_mapped_bytes, target.mem_fd, mappings)) if is_code else "",
    )


def _status(target: Target, mapping: Mapping) -> os.stat_result | None:
    """Nothing is opened for it: whoever watches or leases the file does not notice."""
    with contextlib.suppress(OSError):  # needs CAP_CHECKPOINT_RESTORE
        return Path(f"/proc/{target.tid}/map_files/{mapping.start_addr:x}-{mapping.end_addr:x}").stat()
    if mapping.path.endswith(DELETED):
        return None
    with contextlib.suppress(OSError, ValueError):
        status = Path(f"/proc/{target.tid}/root{mapping.path}").stat()
        if (device_name(status.st_dev), status.st_ino) == (mapping.device, mapping.inode):
            return status
    return None


def _mapped_bytes(mem_fd: int, mappings: Sequence[Mapping], offset_bytes: int, n_bytes: int) -> bytes:
    """Bytes of a file where they are mapped, b"" where they are not."""
    for mapping in mappings:
        skipped_bytes = offset_bytes - mapping.offset_bytes
        room_bytes = mapping.end_addr - mapping.start_addr - skipped_bytes
        if skipped_bytes >= 0 and room_bytes > 0:
            with contextlib.suppress(OSError):
                return os.pread(mem_fd, min(n_bytes, room_bytes), mapping.start_addr + skipped_bytes)
    return b""
