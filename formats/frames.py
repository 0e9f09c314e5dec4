"""Files of independent zstd frames in the public zstd seekable format.

    +---------+---------+-- ... --+---------+------------------------------------+
    | frame 0 | frame 1 |         | frame n | seek table (skippable frame)       |
    +---------+---------+-- ... --+---------+------------------------------------+
                                             header | n entries of 12 | footer

Each frame declares its content size and ends in a checksum, so `zstd -d` reads the whole file.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

import zstandard

from formats import layout
from formats.errors import StorageError
from formats.files import Buffer
from formats.framefile import FrameFile
from formats.manifest import FileEntry


class FrameWriter:
    """Writes one such file from front to back, and hashes it on the way.

    `content_bytes` and `stored_bytes` count what has been appended. Not for use by two threads
    at once.
    """

    def __init__(self, file: FrameFile) -> None:
        self.path = file.path
        self.content_bytes = 0
        self.stored_bytes = 0
        self._file = file
        self._digest = hashlib.sha256()
        self._entries = bytearray()

    def append(self, frames: Sequence[Buffer], contents_bytes: Sequence[int]) -> None:
        """Write frames of `compress_frames`, with the content size of each; raises PredumpError."""
        if len(self._entries) // layout.SEEK_TABLE_ENTRY.size + len(frames) > layout.MAX_FRAMES:
            raise StorageError(
                f"Cannot write {self.path}: one file holds at most {layout.MAX_FRAMES} frames.",
                path=str(self.path),
            )
        self._file.append(frames, contents_bytes)
        for frame, content_bytes in zip(frames, contents_bytes, strict=True):
            # The frame ends in the very checksum that the seek table wants.
            checksum = int.from_bytes(frame[-layout.FRAME_CHECKSUM_BYTES :], "little")
            self._entries += layout.SEEK_TABLE_ENTRY.pack(len(frame), content_bytes, checksum)
            self._digest.update(frame)
            self.content_bytes += content_bytes
            self.stored_bytes += len(frame)

    def close(self) -> FileEntry:
        """Write the seek table, which ends the file; raises PredumpError."""
        table = _seek_table(self._entries)
        self._digest.update(table)
        self.stored_bytes += len(table)
        self._file.finish(table)
        return FileEntry(
            name=self.path.name,
            stored_bytes=self.stored_bytes,
            sha256=self._digest.hexdigest(),
            seek_table_sha256=hashlib.sha256(table).hexdigest(),
        )

    def abort(self) -> None:
        """Leave the file unfinished as it is; does nothing after `close`."""
        self._file.abort()

    def remove(self) -> None:
        """Take the file back; raises PredumpError."""
        self._file.remove()


def _seek_table(entries: bytearray) -> bytes:
    """The skippable frame that ends a file, from its packed entries."""
    frame_count = len(entries) // layout.SEEK_TABLE_ENTRY.size
    body_bytes = len(entries) + layout.SEEK_TABLE_FOOTER.size
    return b"".join(
        (
            layout.SEEK_TABLE_HEADER.pack(layout.SEEK_TABLE_SKIPPABLE_MAGIC, body_bytes),
            entries,
            layout.SEEK_TABLE_FOOTER.pack(frame_count, layout.SEEK_TABLE_CHECKSUMS, layout.SEEK_TABLE_MAGIC),
        )
    )


_AS_IT_IS = -131072  # the lowest level of zstd: it finds nothing, and stores blocks as they are


class _Compressors(threading.local):
    """One compressor per thread and level, because a compressor is not thread-safe."""

    def __init__(self) -> None:
        self.by_level: dict[int, zstandard.ZstdCompressor] = {}

    def of_level(self, level: int) -> zstandard.ZstdCompressor:
        compressor = self.by_level.get(level)
        if compressor is None:
            compressor = zstandard.ZstdCompressor(
                level=level or _AS_IT_IS, write_checksum=True, write_content_size=True
            )
            self.by_level[level] = compressor
        return compressor


_compressors = _Compressors()


def compress_frames(content: memoryview, frame_bytes: int, level: int) -> tuple[list[bytes], list[int]]:
    """Cut content into frames of `frame_bytes` (the last may be shorter) and compress each.

    Level 0 leaves the content as it is. Returns the frames and the content size of each. Safe in several threads at
    once; the GIL is released while a frame is compressed. `content` is a view of single bytes.
    """
    compress = _compressors.of_level(level).compress
    pieces = [content[start : start + frame_bytes] for start in range(0, len(content), frame_bytes)]
    return [compress(piece) for piece in pieces], [len(piece) for piece in pieces]
