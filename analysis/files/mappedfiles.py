"""The files behind the mappings of a process, as they are found here, and whether they are what it had mapped.

An image seldom has the pages of a file that nobody wrote to. Whoever needs them (for symbols, for a core that is
complete) takes them from the file itself, which may have been replaced since, or be that of another machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO

from analysis.files.sysroot import open_below
from formats.buildid import build_id
from formats.chain import MemoryView
from formats.closing import Closing
from formats.errors import AddressAbsent
from formats.manifest import FileKey, Manifest, MappedFile, Vma

ROOT = Path("/")
_DELETED = " (deleted)"
_MAX_PATH = 4096
_MAX_OFFSET = 1 << 62
_SECOND_NS = 10**9
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Sameness(StrEnum):
    """Whether a file is the one that the process had mapped, with the same content."""

    SAME = "same"
    OTHER = "other"
    UNKNOWN = "unknown"


class FoundFile(Closing):
    """A regular file, open for reading as `fd`; a context manager.

    `path` is where it was found, and for messages only: who opens that again may get another file.
    """

    def __init__(self, path: Path, fd: int, size_bytes: int, build_id: str, sameness: Sameness) -> None:
        """`fd` belongs to it from now on."""
        self.path = path
        self.fd = fd
        self.size_bytes = size_bytes
        self.build_id = build_id
        self.sameness = sameness
        self._is_open = True

    def close(self) -> None:
        """Close it. May be called again."""
        if self._is_open:
            self._is_open = False
            os.close(self.fd)

    def stream(self) -> BinaryIO:
        """It as a file from its beginning on, which the caller closes."""
        file = os.fdopen(os.dup(self.fd), "rb")
        file.seek(0)
        return file

    def read(self, offset_bytes: int, n_bytes: int) -> bytes:
        """At most so many bytes from an offset on, fewer at its end; raises OSError."""
        return _read(self.fd, offset_bytes, n_bytes)


class MappedFiles:
    """Finds the files of one process as of a round, below a directory that stands for its root."""

    def __init__(self, manifest: Manifest, view: MemoryView, root: Path = ROOT) -> None:
        """`manifest` is that of the round that `view` shows; `root` holds copies of files of the other machine."""
        self._manifest = manifest
        self._view = view
        self._root = root
        self._mapped: dict[FileKey, list[Vma]] = {}
        for vma in view.vmas:
            if is_file(vma):
                self._mapped.setdefault(vma.file_key, []).append(vma)
        self._recorded = {one.file_key: one for one in view.process.mapped_files}
        self._build_ids: dict[FileKey, str] = {}

    def open(self, vma: Vma) -> FoundFile | None:
        """The file that a mapping is of: a regular file at its path, or None. The caller closes it.

        Nothing is waited for. Raises ImageCorrupt, StorageError.
        """
        return self._open(vma.path.removesuffix(_DELETED), partial(self._sameness, vma)) if is_file(vma) else None

    def open_other(self, path: str) -> FoundFile | None:
        """A regular file that nobody mapped, such as one with symbols for debuggers, or None. The caller closes it.

        Nothing is waited for.
        """
        return self._open(path, lambda _status, _identity: Sameness.UNKNOWN)

    def mappings(self, vma: Vma) -> list[Vma]:
        """All mappings of the file that a mapping is of, ascending."""
        return self._mapped[vma.file_key]

    def _open(self, path: str, sameness_of: Callable[[os.stat_result, str], Sameness]) -> FoundFile | None:
        if len(path) > _MAX_PATH:
            return None
        fd = open_below(self._root, path)
        if fd is None:
            return None
        try:
            status = os.fstat(fd)
            identity = build_id(partial(_read, fd))
            sameness = sameness_of(status, identity)
        except OSError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return FoundFile(self._root / path.lstrip("/"), fd, status.st_size, identity, sameness)

    def build_id(self, vma: Vma) -> str:
        """The build id of the file that was mapped, "" if nothing tells; raises ImageCorrupt, StorageError.

        The manifest tells, or the pages of the file that are in the image.
        """
        key = vma.file_key
        found = self._build_ids.get(key)
        if found is None:
            process = self._view.process
            recorded = self._recorded.get(key)
            found = recorded.build_id if recorded else ""
            found = found or (process.exe_build_id if vma.path == process.exe else "")
            found = found or build_id(partial(self._mapped_bytes, key))
            self._build_ids[key] = found
        return found

    def _sameness(self, vma: Vma, status: os.stat_result, identity: str) -> Sameness:
        expected = self.build_id(vma)
        if expected:
            return Sameness.SAME if identity == expected else Sameness.OTHER
        recorded = self._recorded.get(vma.file_key)
        if recorded and recorded.mtime_ns:
            return _by_size_and_time(recorded, status)
        is_same_inode = (_device_text(status.st_dev), status.st_ino) == (vma.device, vma.inode)
        if is_same_inode and self._manifest.host.boot_id == _boot_id() != "":
            # The time of change cannot be set: nothing was written to it since.
            is_as_it_was = status.st_ctime_ns < self._manifest.created_ns
            return Sameness.SAME if is_as_it_was else Sameness.UNKNOWN
        return Sameness.UNKNOWN

    def _mapped_bytes(self, key: FileKey, offset_bytes: int, n_bytes: int) -> bytes:
        """Bytes of a file by their offset, as the image has them where they are mapped; b"" if it does not."""
        for vma in self._mapped.get(key, ()):
            skipped_bytes = offset_bytes - vma.offset_bytes
            if 0 <= skipped_bytes < vma.end_addr - vma.start_addr:
                start_addr = vma.start_addr + skipped_bytes
                try:
                    return self._view.read(start_addr, min(n_bytes, vma.end_addr - start_addr))
                except AddressAbsent:
                    continue
        return b""


def is_file(vma: Vma) -> bool:
    """Whether it is a mapping of a file that has, or had, a name."""
    return vma.path.startswith("/") and vma.kind == "file"


def _by_size_and_time(recorded: MappedFile, status: os.stat_result) -> Sameness:
    if recorded.size_bytes != status.st_size:
        return Sameness.OTHER
    # Archives of some formats have whole seconds.
    archived_ns = recorded.mtime_ns // _SECOND_NS * _SECOND_NS
    is_as_it_was = status.st_mtime_ns in {recorded.mtime_ns, archived_ns}
    return Sameness.SAME if is_as_it_was else Sameness.UNKNOWN


def _read(fd: int, offset_bytes: int, n_bytes: int) -> bytes:
    """Raises OSError; no file goes as far as an image may say."""
    return os.pread(fd, n_bytes, offset_bytes) if 0 <= offset_bytes < _MAX_OFFSET else b""


def _device_text(device: int) -> str:
    """As in /proc/PID/maps."""
    return f"{os.major(device):02x}:{os.minor(device):02x}"


@cache
def _boot_id() -> str:
    """Of this machine since it was started; "" if it cannot be told."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
