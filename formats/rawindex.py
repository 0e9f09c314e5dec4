"""The index of an export of raw memory: which file has what of which mapping. docs/other-formats.md describes it.

It is written while the memory is gone through: a process may have millions of pieces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from formats.files import close_quietly, close_written, create_file, write_all
from formats.manifest import Gap, PageRange, Process, Vma
from formats.records import encode_record, record_text
from formats.segments import SegmentKind

INDEX_NAME = "index.json"
_BUFFER_CHARS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RawThread:
    """A thread with its registers by their names in user_regs_struct; none in a pre-dump round."""

    tid: int
    name: str
    registers: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPiece:
    """Pages of a mapping that are alike: data is in its file, zero reads as zeros, absent is not in the image."""

    start_addr: int
    end_addr: int
    kind: SegmentKind


@dataclass(frozen=True, slots=True, kw_only=True)
class RawVma:
    """A mapping. Address A is at byte A - start_addr of `file`, which ends behind the last data; "" if it has none."""

    start_addr: int
    end_addr: int
    perms: str
    offset_bytes: int
    device: str
    inode: int
    path: str
    kind: str
    note: str
    file: str
    size_bytes: int
    pieces: list[RawPiece]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawHeader:
    """What the index says before the mappings."""

    round: int
    created_ns: int
    torn: bool
    pid: int
    name: str
    exe: str
    cmdline: list[str]
    threads: list[RawThread]
    unreadable: list[Gap]
    guards: list[PageRange]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawIndex(RawHeader):
    """All of it."""

    vmas: list[RawVma]


def header_of(process: Process, number: int, created_ns: int, *, torn: bool) -> RawHeader:
    """What is said of a process as of a round."""
    return RawHeader(
        round=number,
        created_ns=created_ns,
        torn=torn,
        pid=process.pid,
        name=process.name,
        exe=process.exe,
        cmdline=process.cmdline,
        threads=[RawThread(tid=one.tid, name=one.name, registers=one.registers) for one in process.threads],
        unreadable=process.unreadable,
        guards=process.guards,
    )


class IndexWriter:
    """Writes the index: mapping after mapping, and of each its pieces before its file is known."""

    def __init__(self, directory: Path, header: RawHeader) -> None:
        """Raises StorageError."""
        self._path = directory / INDEX_NAME
        self._fd = create_file(self._path)
        self._pieces: list[str] = []
        self._chars = 0
        self._separator = "\n"
        for piece in _opened(record_text(header)):
            self._put(piece)
        self._put(',"vmas":[')

    def add(self, vma: Vma, pieces: Iterable[RawPiece]) -> None:
        """A mapping, whose pieces are taken while they are written; `end_of_vma` follows. Raises StorageError."""
        fields = ("start_addr", "end_addr", "perms", "offset_bytes", "device", "inode", "path", "kind", "note")
        text = json.dumps({name: getattr(vma, name) for name in fields})
        self._put(f'{self._separator}{text[:-1]},"pieces":[')
        separator = ""
        for one in pieces:
            self._put(separator + json.dumps(encode_record(one)))
            separator = ","
        self._put("]")
        self._separator = ",\n"

    def end_of_vma(self, file: str, size_bytes: int) -> None:
        """The end of what was added last; raises StorageError."""
        self._put(f',"file":{json.dumps(file)},"size_bytes":{size_bytes}}}')

    def close(self) -> None:
        """Write the rest; raises StorageError."""
        self._put("\n]}\n")
        self._flush()
        close_written(self._fd, self._path)

    def abort(self) -> None:
        """Leave it as it is."""
        close_quietly(self._fd)

    def _put(self, text: str) -> None:
        self._pieces.append(text)
        self._chars += len(text)
        if self._chars >= _BUFFER_CHARS:
            self._flush()

    def _flush(self) -> None:
        content = "".join(self._pieces).encode("ascii")
        self._pieces, self._chars = [], 0
        write_all(self._fd, [content], self._path)


def _opened(pieces: Iterator[str]) -> Iterator[str]:
    """The text of an object without the brace at its end, so that more may follow."""
    last = ""
    for piece in pieces:
        if piece:
            yield last
            last = piece
    yield last.removesuffix("}")
