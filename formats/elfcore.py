"""An ELF core of one process as of a round: elf(5), fs/binfmt_elf.c.

    ELF header | program headers | section header 0, if there are many | notes | memory, from a page boundary on

The segments are gone through twice: once to count them, so that it is known where the memory begins, and once to write
headers and memory side by side. Neither needs more memory for a bigger process.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import IntFlag
from functools import cache
from pathlib import Path

from formats import elfnotes
from formats.auxv import auxv_of
from formats.chain import MemoryView
from formats.coreloads import FilePages, Load, NoFilePages, Piece, loads
from formats.elf import EHDR, IDENT_64_LITTLE, PHDR, SHDR, SegmentType
from formats.errors import StorageError, UsageError
from formats.exporting import Progress, is_torn
from formats.files import Buffer, write_at
from formats.images import Images
from formats.layout import PAGE_BYTES
from formats.manifest import Vma
from formats.pagecopy import PageCopier
from formats.wholefile import whole_file

_MAX_MEMORY_BYTES = 1 << 62  # with headers and notes still an offset in a file: loff_t
_PROGRESS_STEP_BYTES = 16 << 20
_FILE_CHUNK_BYTES = 1 << 20
_HEADERS_BUFFER_BYTES = 64 << 10


class SegmentFlag(IntFlag):
    """p_flags."""

    X = 1
    W = 2
    R = 4


_IDENT = IDENT_64_LITTLE + b"\x01"  # version 1, System V
_ET_CORE = 4
_EM_X86_64 = 62
_EV_CURRENT = 1
PN_XNUM = 0xFFFF
"""e_phnum that says: the number of program headers is in sh_info of section header 0."""
_NOTE_ALIGN_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreReport:
    """What was written: `bytes` is the size of the file, holes included, `data_bytes` what of it was copied.

    `file_bytes` of those are from mapped files, not from the image.
    """

    pid: int
    path: str
    bytes: int
    data_bytes: int
    file_bytes: int
    segments: int
    threads: int
    torn: bool


@dataclass(frozen=True, slots=True)
class CoreOptions:
    """`torn` permits a pre-dump round, `force` a file in the way; `threads` decompress."""

    torn: bool = False
    force: bool = False
    threads: int = 1


def write_core(
    images: Images,
    number: int | None,
    pid: int | None,
    path: Path,
    options: CoreOptions,
    progress: Progress,
    files: FilePages | None = None,
) -> CoreReport:
    """Write a core of process `pid` (the root process) as of round `number` (the selected one) to `path`.

    `files` gives pages of that process's files that the image does not have.
    The file has another name until it is complete. Raises UsageError, also for a pre-dump round or a file in the way
    without the option that permits it; ParentMissing, ImageCorrupt, ImageVersionUnsupported, StorageError.
    """
    torn = is_torn(images, number, permitted=options.torn)
    with MemoryView(images, number, pid) as view:
        if view.process.zombie:
            raise UsageError(f"Process {view.process.pid} had ended: it has no memory.", pid=view.process.pid)
        with whole_file(path, force=options.force) as file:
            core = _Core(view, file, torn, progress, files or NoFilePages())
            with PageCopier(view, core.put, options.threads) as copier:
                core.write(copier)
    return core.report(path)


class _Core:
    """The core of one process, written into an empty file."""

    def __init__(
        self, view: MemoryView, file: tuple[int, Path], torn: bool, progress: Progress, files: FilePages
    ) -> None:
        self._view = view
        self._files = files
        self._fd, self._path = file
        self._torn = torn
        self._progress = progress
        self._auxv = auxv_of(view)
        self._segments = 0
        self._total_data_bytes = 0
        self._data_bytes = 0
        self._file_bytes = 0
        self._reported_bytes = 0
        self._end = 0

    def write(self, copier: PageCopier) -> None:
        """Write all of it; raises ImageCorrupt, StorageError."""
        total_bytes = 0
        for load in loads(self._view, self._files):
            self._segments += 1
            for piece in load.pieces:
                piece_bytes = piece.end_addr - piece.start_addr
                total_bytes += piece_bytes if piece.in_file else 0
                self._total_data_bytes += piece_bytes if piece.data or piece.from_file else 0
        if total_bytes > _MAX_MEMORY_BYTES:
            raise StorageError.from_os_error("write", self._path, OSError(errno.EFBIG, os.strerror(errno.EFBIG)))
        n_headers = self._segments + 1
        has_section = n_headers >= PN_XNUM
        sections_offset = EHDR.size + n_headers * PHDR.size
        notes_offset = sections_offset + (SHDR.size if has_section else 0)
        if has_section:
            self.put(SHDR.pack(0, 0, 0, 0, 0, 1, 0, n_headers, 0, 0), sections_offset)
        self.put(_elf_header(n_headers, sections_offset if has_section else 0), 0)
        notes_end = self._write_notes(notes_offset)
        note = PHDR.pack(SegmentType.NOTE, 0, notes_offset, 0, 0, notes_end - notes_offset, 0, _NOTE_ALIGN_BYTES)
        self.put(note, EHDR.size)
        self._end = notes_end + -notes_end % PAGE_BYTES
        self._write_loads(EHDR.size + PHDR.size, copier)
        copier.finish()
        self._report_progress(self._data_bytes)
        try:
            os.ftruncate(self._fd, self._end)
        except OSError as error:
            raise StorageError.from_os_error("write", self._path, error) from error

    def report(self, path: Path) -> CoreReport:
        """What was written, which is at `path` now."""
        threads = 0 if self._torn else len(elfnotes.threads_with_registers(self._view.process))
        return CoreReport(
            pid=self._view.process.pid,
            path=str(path.absolute()),
            bytes=self._end,
            data_bytes=self._data_bytes,
            file_bytes=self._file_bytes,
            segments=self._segments,
            threads=threads,
            torn=self._torn,
        )

    def _write_notes(self, offset: int) -> int:
        """Returns where they end."""
        for note in elfnotes.notes(self._view.process, self._auxv, torn=self._torn):
            self.put(note, offset)
            offset += len(note)
        return offset

    def _write_loads(self, headers_offset: int, copier: PageCopier) -> None:
        headers = bytearray()
        for load in loads(self._view, self._files):
            headers += self._write_load(load, copier)
            if len(headers) >= _HEADERS_BUFFER_BYTES:
                self.put(headers, headers_offset)
                headers_offset += len(headers)
                headers = bytearray()
        self.put(headers, headers_offset)

    def _write_load(self, load: Load, copier: PageCopier) -> bytes:
        """Have the memory of a segment copied to the end of the file; returns its program header."""
        offset, start_addr, end_addr = self._end, -1, 0
        for piece in load.pieces:
            start_addr = piece.start_addr if start_addr < 0 else start_addr
            end_addr = piece.end_addr
            if piece.data is not None:
                copier.copy(piece.data, offset + piece.start_addr - start_addr)
                self._count(end_addr - piece.start_addr)
            elif piece.from_file:
                self._copy_from_file(load.vma, piece, offset + piece.start_addr - start_addr)
        memory_bytes = end_addr - start_addr
        file_bytes = memory_bytes if load.in_file else 0
        self._end += file_bytes
        flags = _flags(load.vma.perms)
        return PHDR.pack(SegmentType.LOAD, flags, offset, start_addr, 0, file_bytes, memory_bytes, PAGE_BYTES)

    def _copy_from_file(self, vma: Vma, piece: Piece, offset: int) -> None:
        for addr in range(piece.start_addr, piece.end_addr, _FILE_CHUNK_BYTES):
            end_addr = min(addr + _FILE_CHUNK_BYTES, piece.end_addr)
            self.put(self._files.read(vma, addr, end_addr), offset + addr - piece.start_addr)
            self._file_bytes += end_addr - addr
            self._count(end_addr - addr)

    def _count(self, n_bytes: int) -> None:
        self._data_bytes += n_bytes
        if self._data_bytes - self._reported_bytes >= _PROGRESS_STEP_BYTES:
            self._report_progress(self._data_bytes)

    def _report_progress(self, done_bytes: int) -> None:
        self._reported_bytes = done_bytes
        self._progress(done_bytes, self._total_data_bytes)

    def put(self, content: Buffer, offset: int) -> None:
        """Write bytes at an offset, in any thread; raises StorageError."""
        write_at(self._fd, content, offset, self._path)


def _elf_header(n_headers: int, sections_offset: int) -> bytes:
    """The ELF header; `sections_offset` is 0 where no section header is needed."""
    return EHDR.pack(
        _IDENT,
        _ET_CORE,
        _EM_X86_64,
        _EV_CURRENT,
        0,
        EHDR.size,
        sections_offset,
        0,
        EHDR.size,
        PHDR.size,
        min(n_headers, PN_XNUM),
        SHDR.size if sections_offset else 0,
        1 if sections_offset else 0,
        0,
    )


@cache
def _flags(perms: str) -> int:
    """p_flags of permissions such as "rw-p"; a core may have hundreds of thousands of segments."""
    letters = {"r": SegmentFlag.R, "w": SegmentFlag.W, "x": SegmentFlag.X}
    return sum(flag for letter, flag in letters.items() if letter in perms)
