"""The build id of an ELF file: elf(5), note NT_GNU_BUILD_ID in a PT_NOTE segment."""

import struct
from typing import BinaryIO

PT_NOTE = 4
NT_GNU_BUILD_ID = 3
MAX_NOTES_BYTES = 1 << 16
EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
NHDR = struct.Struct("<III")


def _find_in_notes(notes: bytes) -> str:
    offset = 0
    while offset + NHDR.size <= len(notes):
        name_bytes, desc_bytes, kind = NHDR.unpack_from(notes, offset)
        name_at = offset + NHDR.size
        desc_at = name_at + (name_bytes + 3 & ~3)
        if kind == NT_GNU_BUILD_ID and notes[name_at : name_at + 4] == b"GNU\0":
            return notes[desc_at : desc_at + desc_bytes].hex()
        offset = desc_at + (desc_bytes + 3 & ~3)
    return ""


def build_id(file: BinaryIO) -> str:
    """Hex digits, or "" if the file has none or is no 64-bit ELF file. Raises OSError."""
    header = file.read(EHDR.size)
    if len(header) < EHDR.size or header[:6] != b"\x7fELF\x02\x01":
        return ""
    fields = EHDR.unpack(header)
    table_at, entry_bytes, count = fields[5], fields[9], fields[10]
    if entry_bytes != PHDR.size:
        return ""
    file.seek(table_at)
    table = file.read(count * PHDR.size)
    for entry in PHDR.iter_unpack(table[: len(table) // PHDR.size * PHDR.size]):
        kind, _, offset, _, _, size = entry[:6]
        if kind == PT_NOTE and size <= MAX_NOTES_BYTES:
            file.seek(offset)
            found = _find_in_notes(file.read(size))
            if found:
                return found
    return ""
