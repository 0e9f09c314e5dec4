"""The beginning of ELF files, made by hand."""

from __future__ import annotations

from formats.elf import EHDR, IDENT_64_LITTLE, NHDR, PHDR, SegmentType


def elf(notes: bytes, size_bytes: int | None = None, headers: int = 1, offset: int = EHDR.size + PHDR.size) -> bytes:
    """The beginning of an ELF file whose one segment is of notes."""
    size_bytes = len(notes) if size_bytes is None else size_bytes
    header = EHDR.pack(IDENT_64_LITTLE, 3, 62, 1, 0, EHDR.size, 0, 0, EHDR.size, PHDR.size, headers, 0, 0, 0)
    return header + PHDR.pack(SegmentType.NOTE, 4, offset, offset, 0, size_bytes, size_bytes, 4) + notes


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    return NHDR.pack(len(owner), len(content), kind) + owner + content


def with_build_id(identity: bytes) -> bytes:
    """An ELF file of at most a page that has this build id."""
    return elf(note(b"GNU\0", 3, identity))
