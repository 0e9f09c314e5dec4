"""What is looked up in an ELF file: where its segments go, its symbols, and which file has those that were stripped.

The file may be damaged, or made to harm: elf(5).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section

from analysis.symbols.symboltable import ENTRY_BYTES, SymbolTable

Read = Callable[[int, int], bytes]
"""Bytes of the file from an offset on, at most so many; fewer where it ends. May raise OSError."""

_MAX_SEGMENTS = 256
_MAX_SECTIONS = 4096
_MAX_HEADERS_BYTES = 32 << 20  # read for headers and names, buffers included
_MAX_ENTRIES_BYTES = ENTRY_BYTES << 22
_MAX_STRINGS_BYTES = 512 << 20
_MAX_LINK_BYTES = 4096
_MAX_DYNAMIC_BYTES = 1 << 16
_MAX_NAME_BYTES = 256
_DYNAMIC = struct.Struct("<QQ")
"""Elf64_Dyn: d_tag, d_val."""
_DT_SONAME = 14


class UnusableElf(Exception):
    """It is no 64-bit little-endian ELF file, or its headers make no sense."""


@dataclass(frozen=True, slots=True)
class LoadSegment:
    """PT_LOAD: `file_bytes` from `offset_bytes` on go to `addr`, zeros follow up to `memory_bytes`."""

    offset_bytes: int
    addr: int
    file_bytes: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class DebugLink:
    """.gnu_debuglink: the name of the file with the symbols, and the CRC-32 of all of it."""

    name: str
    crc32: int


class ElfFile:
    """The headers of an ELF file; `read` is called until the last symbol table was asked for."""

    def __init__(self, read: Read, size_bytes: int) -> None:
        """Raises UnusableElf."""
        self._read = read
        self._size_bytes = size_bytes
        self.loads: list[LoadSegment] = []
        self.debug_link: DebugLink | None = None
        self._sections: dict[str, Section] = {}
        self._strings: dict[str, Section] = {}
        self._loaded: set[int] = set()
        try:
            self._parse()
        except UnusableElf:
            raise
        except Exception as error:  # the library says of damaged files whatever stood in its way
            raise UnusableElf(str(error)) from error

    def symbol_table(self) -> SymbolTable | None:
        """What .symtab has, None if the file has none; raises UnusableElf."""
        return self._table(".symtab", "")

    def dynamic_symbol_table(self) -> SymbolTable | None:
        """What .dynsym has, None if the file has none; raises UnusableElf."""
        return self._table(".dynsym", ".gnu.version")

    def soname(self) -> str:
        """DT_SONAME, the name that a library is loaded by, "" if it has none; raises UnusableElf."""
        section = self._sections.get(".dynamic")
        if section is None:
            return ""
        try:
            tags = self._content(section, _MAX_DYNAMIC_BYTES)
            for tag, value in _DYNAMIC.iter_unpack(tags[: len(tags) // _DYNAMIC.size * _DYNAMIC.size]):
                if tag == _DT_SONAME:
                    strings = self._content(self._strings[".dynamic"], _MAX_STRINGS_BYTES)
                    name, _, _ = strings[value : value + _MAX_NAME_BYTES].partition(b"\0")
                    return name.decode(errors="surrogateescape")
        except OSError as error:
            raise UnusableElf(str(error)) from error
        return ""

    def _parse(self) -> None:
        stream = io.BufferedReader(_Headers(self._read, self._size_bytes))
        elf = ELFFile(stream)
        if elf.elfclass != 64 or not elf.little_endian:
            raise UnusableElf("it is not of a 64-bit little-endian machine")
        if elf.num_segments() > _MAX_SEGMENTS or elf.num_sections() > _MAX_SECTIONS:
            raise UnusableElf("it has too many headers")
        for segment in elf.iter_segments("PT_LOAD"):
            load = LoadSegment(segment["p_offset"], segment["p_vaddr"], segment["p_filesz"], segment["p_memsz"])
            self.loads.append(load)
        for number, section in enumerate(elf.iter_sections()):
            if section["sh_flags"] & SH_FLAGS.SHF_ALLOC:
                self._loaded.add(number)
            if section["sh_type"] != "SHT_NOBITS":  # as in a file that has nothing but the rest
                self._sections.setdefault(section.name, section)
        self._strings = {
            name: elf.get_section(section["sh_link"])
            for name, section in self._sections.items()
            if name in {".symtab", ".dynsym", ".dynamic"}
        }
        link = self._sections.get(".gnu_debuglink")
        if link is not None:
            content = self._content(link, _MAX_LINK_BYTES)
            name, _, _ = content.partition(b"\0")
            self.debug_link = DebugLink(name.decode(errors="surrogateescape"), int.from_bytes(content[-4:], "little"))

    def _table(self, name: str, versions_name: str) -> SymbolTable | None:
        section = self._sections.get(name)
        if section is None:
            return None
        try:
            if section["sh_entsize"] != ENTRY_BYTES:
                raise UnusableElf(f"entries of {name} have {section['sh_entsize']} bytes")
            versions = self._sections.get(versions_name)
            return SymbolTable(
                self._content(section, _MAX_ENTRIES_BYTES),
                self._content(self._strings[name], _MAX_STRINGS_BYTES),
                self._loaded,
                b"" if versions is None else self._content(versions, _MAX_ENTRIES_BYTES),
            )
        except OSError as error:
            raise UnusableElf(str(error)) from error

    def _content(self, section: Section, max_bytes: int) -> bytes:
        """Raises UnusableElf, OSError."""
        offset, n_bytes = section["sh_offset"], section["sh_size"]
        if n_bytes > max_bytes or offset + n_bytes > self._size_bytes:
            raise UnusableElf(f"its section {section.name} does not fit")
        content = self._read(offset, n_bytes)
        if len(content) != n_bytes:
            raise UnusableElf(f"its section {section.name} is cut off")
        return content


class _Headers(io.RawIOBase):
    """The file as a stream, of which no more can be read than headers take."""

    def __init__(self, read: Read, size_bytes: int) -> None:
        super().__init__()
        self._read_at = read
        self._size_bytes = size_bytes
        self._position = 0
        self._left_bytes = _MAX_HEADERS_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        content = self._read_at(self._position, len(buffer))
        self._left_bytes -= len(content)
        if self._left_bytes < 0:
            raise UnusableElf("its headers are all over the file")
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
