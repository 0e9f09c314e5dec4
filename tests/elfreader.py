"""A small reader of ELF cores for tests: it shares no code with the writer."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PT_LOAD, PT_NOTE = 1, 4
NT_FILE = 0x46494C45


@dataclass(frozen=True)
class Segment:
    kind: int
    flags: int
    offset: int
    start_addr: int
    file_bytes: int
    memory_bytes: int

    @property
    def end_addr(self) -> int:
        return self.start_addr + self.memory_bytes


@dataclass(frozen=True)
class Note:
    owner: str
    kind: int
    content: bytes


@dataclass(frozen=True)
class MappedFile:
    start_addr: int
    end_addr: int
    offset_bytes: int
    path: str


class Core:
    """A core, read when it is asked for something."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            header = file.read(64)
            assert header[:6] == b"\x7fELF\x02\x01", "no 64-bit little-endian ELF"
            kind, machine = struct.unpack_from("<HH", header, 16)
            assert (kind, machine) == (4, 62), "no x86-64 core"
            headers_offset, sections_offset = struct.unpack_from("<QQ", header, 32)
            header_bytes, n_headers, section_bytes, n_sections = struct.unpack_from("<HHHH", header, 54)
            assert header_bytes == 56
            self.n_headers_field = n_headers
            if n_headers == 0xFFFF:
                assert (section_bytes, n_sections) == (64, 1)
                file.seek(sections_offset)
                (n_headers,) = struct.unpack_from("<I", file.read(64), 44)
            file.seek(headers_offset)
            table = file.read(56 * n_headers)
        self.segments = [
            Segment(kind, flags, offset, addr, file_bytes, memory_bytes)
            for kind, flags, offset, addr, _, file_bytes, memory_bytes, _ in struct.iter_unpack("<IIQQQQQQ", table)
        ]

    @property
    def loads(self) -> list[Segment]:
        return [segment for segment in self.segments if segment.kind == PT_LOAD]

    def content(self, segment: Segment) -> bytes:
        """What the file has of a segment."""
        with self.path.open("rb") as file:
            file.seek(segment.offset)
            content = file.read(segment.file_bytes)
        assert len(content) == segment.file_bytes, f"the file ends inside of {segment}"
        return content

    def extents(self, segment: Segment) -> Iterator[tuple[int, int]]:
        """What of a segment is data and no hole of the file, as ranges of addresses: lseek(2)."""
        at, end = segment.offset, segment.offset + segment.file_bytes
        shift = segment.start_addr - segment.offset
        with self.path.open("rb") as file:
            while at < end:
                try:
                    start = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:  # ENXIO: no data from here on
                    return
                if start >= end:
                    return
                at = min(os.lseek(file.fileno(), start, os.SEEK_HOLE), end)
                yield start + shift, at + shift

    def read(self, segment: Segment, start_addr: int, end_addr: int) -> bytes:
        """Bytes that the file has of a segment."""
        with self.path.open("rb") as file:
            file.seek(segment.offset + start_addr - segment.start_addr)
            return file.read(end_addr - start_addr)

    def notes(self) -> Iterator[Note]:
        (segment,) = (segment for segment in self.segments if segment.kind == PT_NOTE)
        content = self.content(segment)
        at = 0
        while at < len(content):
            name_bytes, content_bytes, kind = struct.unpack_from("<III", content, at)
            name = content[at + 12 : at + 12 + name_bytes]
            at += 12 + name_bytes + -name_bytes % 4
            yield Note(name.rstrip(b"\0").decode(), kind, content[at : at + content_bytes])
            at += content_bytes + -content_bytes % 4

    def mapped_files(self) -> list[MappedFile]:
        """NT_FILE."""
        for note in self.notes():
            if note.kind == NT_FILE:
                count, page_bytes = struct.unpack_from("<QQ", note.content)
                names = note.content[16 + 24 * count :].split(b"\0")
                entries = struct.iter_unpack("<QQQ", note.content[16 : 16 + 24 * count])
                return [
                    MappedFile(start, end, offset * page_bytes, name.decode("utf-8", "surrogateescape"))
                    for (start, end, offset), name in zip(entries, names, strict=False)
                ]
        return []
