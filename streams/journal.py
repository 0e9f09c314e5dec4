"""What a receiver has in its place, written down so that the next one can go on: the messages without their frames.

    header              the session, and the message and the round that it goes on behind
    { record }          one message each, or that the round is about to be committed

Frames are in the files of the round; all else that was sent is small. A record that is not whole, and what follows it,
was never acknowledged. The journal survives the death of its writer, but perhaps not that of the machine: it is not
synced, and what it says is checked against the files.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from formats import files
from formats.closing import Closing
from formats.errors import StorageError
from formats.faults import Point, reached
from streams.messages import MAX_FRAMES_BYTES

JOURNAL_NAME = "receive.journal"
_TEMPORARY_SUFFIX = ".tmp"

_HEADER = struct.Struct("<8s16sQI")
_MAGIC = b"predump#"
_RECORD = struct.Struct("<IIQI")
"""Kind, bytes of the body, number of the message, CRC-32 of all of it with zeros here."""
_MESSAGE, _INTENT = 1, 2
_INTENT_BODY = struct.Struct("<I32s")
"""Number of the round, SHA-256 of its manifest."""


@dataclass(frozen=True, slots=True)
class Intent:
    """Message `number` was the last of a round, which was committed if its manifest is there."""

    number: int
    round: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A message that is in its place; of frames only the head is here."""

    number: int
    head: bytes


class Journal(Closing):
    """The journal of one session, being written."""

    def __init__(self, checkpoint: Path, fd: int) -> None:
        self._path = checkpoint / JOURNAL_NAME
        self._fd = fd

    @staticmethod
    def begin(checkpoint: Path, session_id: bytes, number: int, round_number: int) -> Journal:
        """A new one, in the place of the one before, behind that message and that round. Raises StorageError."""
        path = checkpoint / JOURNAL_NAME
        temporary = path.with_suffix(_TEMPORARY_SUFFIX)
        try:
            temporary.unlink(missing_ok=True)
            fd = files.create_file(temporary)
            files.write_all(fd, [_HEADER.pack(_MAGIC, session_id, number, round_number)], temporary)
            temporary.rename(path)
        except OSError as error:
            raise StorageError.from_os_error("write", path, error) from error
        reached(Point.RENEWED)
        return Journal(checkpoint, fd)

    def add(self, number: int, head: bytes) -> None:
        """Says that a message is in its place. Raises StorageError."""
        self._append(_MESSAGE, number, head)
        reached(Point.JOURNALED)

    def intend(self, number: int, round_number: int, sha256: bytes) -> None:
        """Says that with this message a round is committed. Raises StorageError."""
        self._append(_INTENT, number, _INTENT_BODY.pack(round_number, sha256))
        reached(Point.INTENDED)

    def close(self) -> None:
        """Closes the file, which stays. May be called again."""
        if self._fd >= 0:
            files.close_quietly(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Closes and deletes it."""
        self.close()
        remove_journal(self._path.parent)

    def _append(self, kind: int, number: int, body: bytes) -> None:
        checksum = zlib.crc32(body, zlib.crc32(_RECORD.pack(kind, len(body), number, 0)))
        files.write_all(self._fd, [_RECORD.pack(kind, len(body), number, checksum), body], self._path)


class JournalReader(Closing):
    """A journal that was left behind: its session, message and round; `records` are what follows."""

    def __init__(self, checkpoint: Path) -> None:
        """Raises StorageError, ImageCorrupt (also if there is none)."""
        self._path = checkpoint / JOURNAL_NAME
        self._fd, _ = files.open_regular(self._path)
        try:
            header = files.read_exactly(self._fd, _HEADER.size, 0, self._path)
        except BaseException:
            self.close()
            raise
        magic, self.session_id, self.number, self.round = _HEADER.unpack(header)
        if magic != _MAGIC:
            self.session_id = b""
        self._end = _HEADER.size

    def records(self) -> Iterator[Entry | Intent]:
        """All that are whole, in order. Raises StorageError."""
        number, self._end = self.number, _HEADER.size
        while len(head := os.pread(self._fd, _RECORD.size, self._end)) == _RECORD.size:
            kind, n_bytes, at, checksum = _RECORD.unpack(head)
            if kind not in {_MESSAGE, _INTENT} or n_bytes > MAX_FRAMES_BYTES or at != number + 1:
                return
            body = os.pread(self._fd, n_bytes, self._end + _RECORD.size)
            if zlib.crc32(body, zlib.crc32(_RECORD.pack(kind, n_bytes, at, 0))) != checksum:
                return
            if kind == _INTENT:
                yield Intent(at, *_INTENT_BODY.unpack(body))
            else:
                number = at
                yield Entry(at, body)
            self._end += _RECORD.size + n_bytes

    def go_on(self) -> Journal:
        """Cuts off what is not whole, and writes on. Raises StorageError."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            os.ftruncate(fd, self._end)
            os.lseek(fd, self._end, os.SEEK_SET)
        except OSError as error:
            raise StorageError.from_os_error("write", self._path, error) from error
        return Journal(self._path.parent, fd)

    def close(self) -> None:
        """Closes the file. May be called again."""
        if self._fd >= 0:
            files.close_quietly(self._fd)
            self._fd = -1


def remove_journal(checkpoint: Path) -> None:
    """Deletes what there is of one. Raises StorageError."""
    path = checkpoint / JOURNAL_NAME
    try:
        path.unlink(missing_ok=True)
        path.with_suffix(_TEMPORARY_SUFFIX).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError.from_os_error("remove", path, error) from error
