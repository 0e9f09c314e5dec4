"""Shared memory, memfds and deleted files of a process that is put back: where their bytes are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dumper.filesystems import device_name
from formats import runs
from formats.closing import Closing
from formats.layout import PAGE_BYTES
from formats.manifest import MemoryObject, Process
from formats.openfiles import OpenFile
from restorer.rewind.present import Present


class ObjectPlace(Closing):
    """A memory object as it is now, by offset."""

    def __init__(self, held: MemoryObject, path: Path) -> None:
        """Raises OSError."""
        self.held = held
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    @property
    def size_bytes(self) -> int:
        """Its size now."""
        return os.fstat(self.fd).st_size

    def read(self, addr: int, n_bytes: int) -> bytes:
        """Bytes from an offset on, zeros behind the end; raises OSError."""
        content = b""
        while len(content) < n_bytes and (piece := os.pread(self.fd, n_bytes - len(content), addr + len(content))):
            content += piece
        return content.ljust(n_bytes, b"\0")

    def write(self, addr: int, content: bytes) -> None:
        """Bytes at an offset, but for those behind the end; raises OSError."""
        content = content[: max(0, self.held.size_bytes - addr)]
        done = 0
        while done < len(content):
            done += os.pwrite(self.fd, content[done:], addr + done)

    def present(self) -> list[runs.Range]:
        """Ranges of pages that are no holes; raises OSError."""
        return list(self._data())

    def _data(self) -> Iterator[runs.Range]:
        end = 0
        while True:
            try:
                start = os.lseek(self.fd, end, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole from here on
                return
            end = os.lseek(self.fd, start, os.SEEK_HOLE)
            end += -end % PAGE_BYTES
            yield start - start % PAGE_BYTES, end

    def close(self) -> None:
        """Close it. May be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def objects_of(process: Process, objects: list[MemoryObject], open_files: list[OpenFile]) -> list[MemoryObject]:
    """Those that it mapped or had open."""
    assert process.state is not None
    ids = {vma.object for vma in process.vmas}
    opened = {one.open_file for one in process.state.descriptors}
    ids |= {one.object for one in open_files if one.id in opened}
    return [held for held in objects if held.id in ids]


def find_object(held: MemoryObject, process: Process, present: Present) -> Path | None:
    """Where in /proc it can be opened, None if the process does not have it any more."""
    tid = present.target.tid
    starts = {vma.start_addr for vma in process.vmas if vma.object == held.id}
    for one in present.vmas:
        mapping = one.mapping
        is_same = mapping.start_addr in starts or not mapping.is_sysv  # whose inode numbers are not theirs alone
        if is_same and (mapping.device, mapping.inode) == (held.device, held.inode):
            return Path(f"/proc/{tid}/map_files/{mapping.start_addr:x}-{mapping.end_addr:x}")
    for descriptor in present.files.descriptors[present.target.pid]:
        path = Path(f"/proc/{tid}/fd/{descriptor.fd}")
        if _is_of(path, held):
            return path
    return None


def _is_of(path: Path, held: MemoryObject) -> bool:
    with suppress(OSError):
        status = path.stat()
        return (device_name(status.st_dev), status.st_ino) == (held.device, held.inode)
    return False
