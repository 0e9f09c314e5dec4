"""How messages lie in CRIU's image files.

    inventory.img   | magic |          | size | message |
    stats-dump      | 0x55105940 | magic | size | message |
    all others      | 0x54564319 | magic | size | message | size | message | ...

Magics and sizes are u32, little-endian. pages-ID.img is bare pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from formats.closing import Closing
from formats.errors import ImageCorrupt
from formats.files import close_quietly, close_written, create_file, open_regular, read_exactly, write_all

MAX_MESSAGE_BYTES = 8 << 20
"""More than the largest message of a process with 65530 mappings; parsed, one takes up to a hundred times its size."""

_HINT = "'crit decode' shows what is in a file of CRIU's."
_COMMON_MAGIC = 0x54564319
_SERVICE_MAGIC = 0x55105940
_U32 = struct.Struct("<I")
_BLOCK_BYTES = 1 << 20
_GATHER_BYTES = 1 << 18
_MAX_GATHERED_BYTES = 0x7F
_FIELD_1 = [bytes((1 << 3 | 2, n_bytes)) for n_bytes in range(_MAX_GATHERED_BYTES + 1)]
"""What stands before a message of so many bytes where it is field 1 of another."""

M = TypeVar("M", bound=Message)


class Magic(IntEnum):
    """What an image file holds."""

    PAGEMAP = 0x56084025
    MM = 0x57492820
    CORE = 0x55053847
    PSTREE = 0x50273030
    INVENTORY = 0x58313116
    FILES = 0x56303138
    FDINFO = 0x56213732
    FS = 0x51403912
    IDS = 0x54432030
    SECCOMP = 0x64413049
    TIMENS = 0x43114433
    MEMFD = 0x48453499
    PIPES_DATA = 0x56453709
    STATS = 0x57093306


def header(magic: Magic) -> bytes:
    """The bytes before the first message."""
    if magic is Magic.INVENTORY:
        return _U32.pack(magic)
    return _U32.pack(_SERVICE_MAGIC if magic is Magic.STATS else _COMMON_MAGIC) + _U32.pack(magic)


def damage(path: Path, problem: str) -> ImageCorrupt:
    """The error for a file of CRIU's; `problem` is the rest of a sentence that begins with its path."""
    return ImageCorrupt(f"{path} {problem}.", hint=_HINT, path=str(path))


def open_image(path: Path) -> tuple[int, int]:
    """Open a file of CRIU's for reading; returns its descriptor and its size. Raises as formats.files.open_regular."""
    try:
        return open_regular(path)
    except ImageCorrupt as error:
        raise ImageCorrupt(error.message, hint=_HINT, **error.fields) from error


class ImageReader(Closing):
    """Messages of an image file in their order; a context manager. `size_bytes` is the size of the file."""

    def __init__(self, path: Path, magic: Magic) -> None:
        """Raises ImageCorrupt if the file is missing, no regular one, or has another magic; StorageError."""
        self._path = path
        self._fd, self.size_bytes = open_image(path)
        self._block = b""
        self._block_offset = 0
        self._offset = 0
        try:
            expected = header(magic)
            if self.size_bytes < len(expected) or self._take(len(expected)) != expected:
                raise self._damage(f"does not begin as a file with {magic.name} messages does")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; reading is over. May be called again."""
        if self._fd >= 0:
            close_quietly(self._fd)
            self._fd = -1

    def read(self, kind: type[M]) -> M:
        """The next message. Raises ImageCorrupt, also if there is none; StorageError."""
        if self._offset == self.size_bytes:
            raise self._damage("ends where a message is due")
        start = self._offset
        if self.size_bytes - start < _U32.size:
            raise self._damage(f"ends in the middle of a message, at byte {start}")
        (n_bytes,) = _U32.unpack(self._take(_U32.size))
        if n_bytes > min(self.size_bytes - self._offset, MAX_MESSAGE_BYTES):
            raise self._damage(f"has a message of {n_bytes} bytes at byte {start}: more than can be")
        return self._parse(kind, self._take(n_bytes), start)

    def rest(self, kind: type[M]) -> Iterator[M]:
        """All messages that are left. Raises as `read` does."""
        while self._offset < self.size_bytes:
            yield self.read(kind)

    def gathered(self, kind: type[M]) -> Iterator[M]:
        """All messages that are left, thousands at a time as field 1 of `kind`: a fifth of the time of `rest`.

        None of them may have more than 127 bytes. Raises as `read` does.
        """
        while self._offset < self.size_bytes:
            start = self._offset
            block = self._peek()
            parts: list[bytes] = []
            position = 0
            while position + _U32.size <= len(block):
                (n_bytes,) = _U32.unpack_from(block, position)
                end = position + _U32.size + n_bytes
                if n_bytes > _MAX_GATHERED_BYTES:
                    raise self._damage(f"has a message of {n_bytes} bytes at byte {start + position}: more than can be")
                if end > len(block):
                    break
                parts += (_FIELD_1[n_bytes], block[position + _U32.size : end])
                position = end
            if not position:
                raise self._damage(f"ends in the middle of a message, at byte {start}")
            self._offset += position
            yield self._parse(kind, b"".join(parts), start)

    def _parse(self, kind: type[M], content: bytes, start: int) -> M:
        message = kind()
        try:
            message.ParseFromString(content)
        except DecodeError as error:
            raise self._damage(f"has a message from byte {start} on that cannot be read") from error
        if not message.IsInitialized():
            raise self._damage(f"has a message from byte {start} on without a field that all of its kind have")
        return message

    def _peek(self) -> bytes:
        """Bytes from here on, as many as are gathered at once or are left."""
        n_bytes = min(_GATHER_BYTES, self.size_bytes - self._offset)
        content = self._take(n_bytes)
        self._offset -= n_bytes
        return content

    def _take(self, n_bytes: int) -> bytes:
        """Bytes that the file has."""
        end = self._offset + n_bytes
        if end > self._block_offset + len(self._block):
            block_bytes = min(max(n_bytes, _BLOCK_BYTES), self.size_bytes - self._offset)
            self._block = read_exactly(self._fd, block_bytes, self._offset, self._path)
            self._block_offset = self._offset
        content = self._block[self._offset - self._block_offset : end - self._block_offset]
        self._offset = end
        return content

    def _damage(self, problem: str) -> ImageCorrupt:
        return damage(self._path, problem)


def read_message(path: Path, magic: Magic, kind: type[M]) -> M:
    """The first message of a file. Raises ImageCorrupt, StorageError."""
    with ImageReader(path, magic) as reader:
        return reader.read(kind)


def write_messages(path: Path, magic: Magic, messages: Iterable[Message | bytes]) -> None:
    """Create a file of mode 0600 with them; bytes go as they are. Raises StorageError, also if it exists."""
    fd = create_file(path)
    try:
        pending: list[bytes] = [header(magic)]
        pending_bytes = 0
        for message in messages:
            content = message if isinstance(message, bytes) else message.SerializeToString()
            if not isinstance(message, bytes):
                pending.append(_U32.pack(len(content)))
            pending.append(content)
            pending_bytes += len(content)
            if pending_bytes >= _BLOCK_BYTES:
                write_all(fd, pending, path)
                pending, pending_bytes = [], 0
        write_all(fd, pending, path)
    except BaseException:
        close_quietly(fd)
        raise
    close_written(fd, path)
