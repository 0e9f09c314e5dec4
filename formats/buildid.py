"""The build id of an ELF file, or of what is mapped of one: elf(5), note NT_GNU_BUILD_ID in a PT_NOTE segment."""

from __future__ import annotations

from collections.abc import Callable

from formats.elf import EHDR, IDENT_64_LITTLE, NHDR, PHDR, SegmentType

_NT_GNU_BUILD_ID = 3
_MAX_HEADERS = 256
_MAX_NOTES_BYTES = 1 << 16
_MAX_ID_BYTES = 64
_MAX_OFFSET = 1 << 62  # no file is longer: what says otherwise is damaged

Read = Callable[[int, int], bytes]
"""Bytes of the file from an offset on, at most so many; fewer where it ends, or where they are not to be had."""


def build_id(read: Read) -> str:
    """Hex digits, or "" if the file has none or is no 64-bit ELF file. Raises what `read` raises."""
    header = read(0, EHDR.size)
    if len(header) < EHDR.size or not header.startswith(IDENT_64_LITTLE):
        return ""
    fields = EHDR.unpack(header)
    table_at, entry_bytes, count = fields[5], fields[9], fields[10]
    if entry_bytes != PHDR.size or count > _MAX_HEADERS or table_at > _MAX_OFFSET:
        return ""
    table = read(table_at, count * PHDR.size)
    for entry in PHDR.iter_unpack(table[: len(table) // PHDR.size * PHDR.size]):
        kind, _, offset, _, _, size = entry[:6]
        if kind == SegmentType.NOTE and size <= _MAX_NOTES_BYTES and offset <= _MAX_OFFSET:
            found = _find_in_notes(read(offset, size))
            if found:
                return found
    return ""


def _find_in_notes(notes: bytes) -> str:
    offset = 0
    while offset + NHDR.size <= len(notes):
        name_bytes, desc_bytes, kind = NHDR.unpack_from(notes, offset)
        name_at = offset + NHDR.size
        desc_at = name_at + (name_bytes + 3 & ~3)
        found = notes[desc_at : desc_at + desc_bytes]
        if kind == _NT_GNU_BUILD_ID and notes[name_at : name_at + 4] == b"GNU\0":
            return found.hex() if len(found) == desc_bytes <= _MAX_ID_BYTES else ""
        offset = desc_at + (desc_bytes + 3 & ~3)
    return ""
