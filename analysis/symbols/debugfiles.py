"""Where the symbols are that were stripped from a file: gdb's manual, "Separate Debug Files"."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from analysis.files.mappedfiles import FoundFile, MappedFiles
from analysis.symbols.elffile import DebugLink, ElfFile, UnusableElf
from analysis.symbols.symboltable import SymbolTable

_DIRECTORY = PurePosixPath("/usr/lib/debug")
_CHECKSUM_BYTES = 1 << 20


def stripped_symbols(files: MappedFiles, path: str, identity: str, link: DebugLink | None) -> SymbolTable | None:
    """The symbol table that was stripped from a file, None if it is not to be had.

    `path` is where the file is, `identity` its build id ("" for none). The debug file must have the same build id, or
    the checksum that the link names.
    """
    for place in _places(path, identity, link):
        found = files.open_other(place)
        if found is None:
            continue
        with found as file:
            try:
                if _belongs(file, identity, link):
                    table = ElfFile(file.read, file.size_bytes).symbol_table()
                    if table is not None:
                        return table
            except (OSError, UnusableElf):
                continue
    return None


def _places(path: str, identity: str, link: DebugLink | None) -> Iterator[str]:
    if identity:
        yield str(_DIRECTORY / ".build-id" / identity[:2] / f"{identity[2:]}.debug")
    if link is not None and link.name and "/" not in link.name:
        beside = PurePosixPath(path).parent
        for directory in (beside, beside / ".debug", _DIRECTORY / beside.relative_to("/")):
            yield str(directory / link.name)


def _belongs(file: FoundFile, identity: str, link: DebugLink | None) -> bool:
    if identity and file.build_id:
        return file.build_id == identity
    return link is not None and _crc32(file) == link.crc32


def _crc32(file: FoundFile) -> int:
    """Of all of it; raises OSError."""
    checksum = 0
    for offset in range(0, file.size_bytes, _CHECKSUM_BYTES):
        checksum = zlib.crc32(file.read(offset, _CHECKSUM_BYTES), checksum)
    return checksum
