"""Pages of files for a core: what the image lacks is taken from the files that the process had mapped, where they are.

The first page of what may run tells debuggers which file it is, as in the kernel's own cores; all pages make the core
complete.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from analysis.files.mappedfiles import ROOT, FoundFile, MappedFiles, Sameness, is_file
from analysis.symbols.elffile import ElfFile, UnusableElf
from formats.closing import Closing
from formats.elf import IDENT_64_LITTLE
from formats.errors import StorageError
from formats.layout import PAGE_BYTES
from formats.manifest import FileKey, Process, Vma
from formats.runs import Range

_OPEN_FILES = 128
_MAX_SEARCHED = 16

_Content = tuple[int, int, int, int]
"""Device, inode, size and time of change: what is the same of an open file when it is opened again."""


@dataclass(frozen=True, slots=True)
class FilesOfCore:
    """Files by path: those whose pages are in the core, and those that were not found or may not be the same.

    `links_missing` are names that libraries were loaded by, and that are not there: gdb looks for these.
    """

    files_taken: list[str] = field(default_factory=list)
    files_missing: list[str] = field(default_factory=list)
    files_other: list[str] = field(default_factory=list)
    files_unknown: list[str] = field(default_factory=list)
    links_missing: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Taken:
    """A file that is the same: where it is, whether it is an ELF file, and how it was when it was opened first."""

    path: Path
    size_bytes: int
    is_elf: bool
    content: _Content


class CoreFiles(Closing):
    """The files of one process for a core: formats.coreloads.FilePages. A context manager.

    Shared mappings are left out, for others may have written to the file; so are, in a pre-dump round, mappings whose
    changed pages come with the dump only.
    """

    def __init__(self, files: MappedFiles, process: Process, root: Path, *, complete: bool, torn: bool) -> None:
        """`root` is where `files` finds them; with `complete` all of their pages are given, or else ELF headers.

        Raises ImageCorrupt, StorageError.
        """
        self._files = files
        self._root = root
        self._complete = complete
        self._torn = torn
        self._taken: dict[FileKey, _Taken | None] = {}
        self._first: dict[FileKey, Vma] = {}
        self._open: OrderedDict[FileKey, FoundFile] = OrderedDict()  # the one used last comes last
        self._paths: dict[Sameness | None, list[str]] = {}
        executable = next((vma for vma in process.vmas if is_file(vma) and vma.path == process.exe), None)
        self._executable = self._look_at(executable) if executable else None

    def close(self) -> None:
        """Close the files; reading is over. May be called again."""
        for file in self._open.values():
            file.close()

    def available(self, vma: Vma, start_addr: int, end_addr: int) -> Iterator[Range]:
        """Which pages of a range of a mapping can be had; raises ImageCorrupt, StorageError."""
        if not self._is_wanted(vma):
            return
        taken = self._look_at(vma)
        if taken is None or not 0 <= vma.offset_bytes < taken.size_bytes:
            return
        file_bytes = taken.size_bytes - vma.offset_bytes
        if not self._complete:
            file_bytes = PAGE_BYTES if taken.is_elf else 0
        end_addr = min(end_addr, vma.start_addr + file_bytes + -file_bytes % PAGE_BYTES)
        if start_addr < end_addr:
            yield start_addr, end_addr

    def read(self, vma: Vma, start_addr: int, end_addr: int) -> bytes:
        """The bytes of a range that is available, zeros behind the end of the file; raises StorageError."""
        n_bytes = end_addr - start_addr
        offset_bytes = vma.offset_bytes + start_addr - vma.start_addr
        file = self._opened(vma)
        content = _read(file, offset_bytes, n_bytes)
        if len(content) < min(n_bytes, file.size_bytes - offset_bytes):
            raise _changed(file.path)
        return content + bytes(n_bytes - len(content))

    def report(self) -> FilesOfCore:
        """What was found so far."""
        return FilesOfCore(
            files_taken=self._paths.get(Sameness.SAME, []),
            files_missing=self._paths.get(None, []),
            files_other=self._paths.get(Sameness.OTHER, []),
            files_unknown=self._paths.get(Sameness.UNKNOWN, []),
            links_missing=self._links_missing(),
        )

    def _links_missing(self) -> list[str]:
        if self._root == ROOT:  # what was loaded here by some name has it
            return []
        missing = []
        for vma in (vma for key, vma in self._first.items() if (taken := self._taken[key]) and taken.is_elf):
            with suppress(UnusableElf, StorageError):  # the core is complete by now: this is a hint only
                file = self._opened(vma)
                name = ElfFile(file.read, file.size_bytes).soname()
                path = str(PurePosixPath(vma.path).parent / name)
                if name and "/" not in name and path != vma.path and not self._is_there(path):
                    missing.append(path)
        return missing

    def _is_there(self, path: str) -> bool:
        file = self._files.open_other(path)
        if file is None:
            return False
        file.close()
        return True

    def gdb_command(self, core: Path) -> list[str]:
        """How gdb is to be called, so that it finds the files."""
        taken = self._executable
        words = ["gdb"]
        if self._root != ROOT:
            libraries = [one for one in self._taken.values() if one and one.is_elf and one is not taken]
            # Links such as /lib, by whose names libraries were loaded, may not have been copied.
            searched = list(dict.fromkeys(str(one.path.parent.absolute()) for one in libraries))[:_MAX_SEARCHED]
            words += ["-iex", f"set sysroot {self._root.absolute()}"]
            words += ["-iex", f"set solib-search-path {':'.join(searched)}"] if searched else []
        return [*words, *([str(taken.path.absolute())] if taken else []), str(core.absolute())]

    def _is_wanted(self, vma: Vma) -> bool:
        if not is_file(vma) or vma.is_shared or (self._torn and not vma.tracked):
            return False
        is_code = any("x" in mapping.perms for mapping in self._files.mappings(vma))
        return self._complete or (is_code and vma.offset_bytes == 0)

    def _look_at(self, vma: Vma) -> _Taken | None:
        key = vma.file_key
        if key not in self._taken:
            file = self._files.open(vma)
            sameness = file.sameness if file else None
            self._paths.setdefault(sameness, []).append(vma.path)
            self._taken[key] = None
            self._first[key] = vma
            if file and sameness is Sameness.SAME:
                self._keep(key, file)
                is_elf = _read(file, 0, len(IDENT_64_LITTLE)) == IDENT_64_LITTLE
                self._taken[key] = _Taken(file.path, file.size_bytes, is_elf, _content(file))
            elif file:
                file.close()
        return self._taken[key]

    def _opened(self, vma: Vma) -> FoundFile:
        key = vma.file_key
        taken = self._taken[key]
        assert taken is not None
        file = self._open.get(key)
        if file is None:
            file = self._files.open(vma)
            if file is None:
                raise _changed(taken.path)
            self._keep(key, file)
            if _content(file) != taken.content:
                raise _changed(taken.path)
        self._open.move_to_end(key)
        return file

    def _keep(self, key: FileKey, file: FoundFile) -> None:
        while len(self._open) >= _OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        self._open[key] = file


def _read(file: FoundFile, offset_bytes: int, n_bytes: int) -> bytes:
    """Raises StorageError."""
    try:
        return file.read(offset_bytes, n_bytes)
    except OSError as error:
        raise StorageError.from_os_error("read", file.path, error) from error


def _content(file: FoundFile) -> _Content:
    status = os.fstat(file.fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def _changed(path: Path) -> StorageError:
    return StorageError(
        f"{path} changed while it was read.", hint="Try again once it is left alone.", path=str(path), errno=0
    )
