"""Reads files of independent zstd frames at random, trusting nothing in them."""

from __future__ import annotations

import hashlib
import sys
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import zstandard

from formats import layout
from formats.closing import Closing
from formats.errors import ImageCorrupt
from formats.files import Buffer, close_quietly, open_regular, read_exactly
from formats.manifest import FileEntry

_HASHED_BYTES = 1 << 20
_OTHER_TABLE = "its seek table is not the one its manifest names"


class _Decompressors(threading.local):
    """One decompressor per thread, because a decompressor is not thread-safe."""

    def __init__(self) -> None:
        self.own = zstandard.ZstdDecompressor()


_decompressors = _Decompressors()


class FrameDamage(Exception):
    """What is wrong with a frame, as half a sentence."""


def check_frame(frame: Buffer, content_bytes: int, max_frame_bytes: int) -> None:
    """Sees to it that a frame says of itself what it must, before memory is taken for it. Raises FrameDamage."""
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise FrameDamage(f"does not decompress ({error})") from error
    if (
        header.content_size != content_bytes
        or header.window_size > max_frame_bytes
        or header.dict_id != 0
        or not header.has_checksum
    ):
        raise FrameDamage("has a header that contradicts its size")


def unpack_frame(frame: Buffer, content_bytes: int, max_frame_bytes: int) -> bytes:
    """The content of one frame, which must have that size, every byte of it checked. Raises FrameDamage.

    The GIL is released meanwhile; for any thread.
    """
    check_frame(frame, content_bytes, max_frame_bytes)
    try:
        # zstd sees to it that the content has the size that the header declares.
        return _decompressors.own.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameDamage(f"does not decompress ({error})") from error


class FrameReader(Closing):
    """One file of frames, open for reading; a context manager.

    Several threads may read at once, but not while one opens or closes it. `stored_bytes` is the
    file's size, `content_bytes` the sum of what its frames hold.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_frame_bytes: int,
        content_unit_bytes: int = 1,
        entry: FileEntry | None = None,
        contents: Sequence[bytes] = (),
    ) -> None:
        """Open the file and check its seek table as a whole.

        `max_frame_bytes` is the most content one frame may have (inclusive); each frame's content
        is a multiple of `content_unit_bytes`. With `entry`, size and seek table must be the ones
        that the manifest names. `contents` are those of its frames, if they were checked and are
        still there: they are given out if it is all of them. Raises ImageCorrupt, StorageError.
        """
        self.path = path
        self._max_frame_bytes = max_frame_bytes
        self._content_unit_bytes = content_unit_bytes
        self._fd, self.stored_bytes = open_regular(path)
        try:
            self._load_seek_table(entry)
        except BaseException:
            self.close()
            raise
        is_whole = len(contents) == self.frame_count and list(accumulate(map(len, contents), initial=0)) == list(
            self._content_offsets
        )
        self._contents = contents if is_whole else ()

    def close(self) -> None:
        """Close the file; reading is over. May be called again."""
        if self._fd >= 0:
            close_quietly(self._fd)
            self._fd = -1

    @property
    def frame_count(self) -> int:
        """Number of frames, the seek table not counted."""
        return len(self._checksums)

    @property
    def content_bytes(self) -> int:
        """Bytes of content in all frames."""
        return self._content_offsets[-1]

    def frame_content_range(self, index: int) -> tuple[int, int]:
        """First byte and end of a frame's content, counted over the content of the whole file."""
        return self._content_offsets[index], self._content_offsets[index + 1]

    def stored_before(self, content_offset_bytes: int) -> int:
        """How many bytes of the file hold the content ahead of this byte; a frame counts in part as it is cut there."""
        index = min(self.index_of(content_offset_bytes), self.frame_count - 1)
        if index < 0:
            return 0
        (start, end), (stored_start, stored_end) = self.frame_content_range(index), self.stored_range(index)
        return stored_start + (stored_end - stored_start) * (content_offset_bytes - start) // (end - start)

    def index_of(self, content_offset_bytes: int) -> int:
        """Index of the frame that holds this byte of the content; it must be inside."""
        return bisect_right(self._content_offsets, content_offset_bytes) - 1

    def pieces(self, start_bytes: int, end_bytes: int) -> Iterator[tuple[int, int, int]]:
        """A range of the content cut at frames: index of the frame, first byte in its content, number of bytes.

        Raises ImageCorrupt if the file has less.
        """
        if end_bytes > self.content_bytes:
            raise self._corrupt(f"it holds {self.content_bytes} bytes, but those up to {end_bytes} are asked for")
        position = start_bytes
        index = self.index_of(position)
        while position < end_bytes:
            frame_start, frame_end = self.frame_content_range(index)
            n_bytes = min(end_bytes, frame_end) - position
            yield index, position - frame_start, n_bytes
            position += n_bytes
            index += 1

    def stored_range(self, index: int) -> tuple[int, int]:
        """First byte and end of a frame in the file; behind the last one lies the seek table."""
        return self._stored_offsets[index], self._stored_offsets[index + 1]

    def read_stored(self, index: int) -> bytes:
        """A frame as it lies in the file; its header and its checksum are those of the seek table.

        Its content is not checked. Raises ImageCorrupt, StorageError. The GIL is released while it is read.
        """
        offset_bytes, end_bytes = self.stored_range(index)
        start, end = self.frame_content_range(index)
        frame = self.read_bytes(offset_bytes, end_bytes)
        checksum = int.from_bytes(frame[-layout.FRAME_CHECKSUM_BYTES :], "little")
        if checksum != self._checksums[index]:
            raise self._corrupt(f"frame {index} is not the one its seek table describes")
        try:
            check_frame(frame, end - start, self._max_frame_bytes)
        except FrameDamage as damage:
            raise self._corrupt(f"frame {index} {damage}") from damage
        return frame

    def read_frame(self, index: int) -> bytes:
        """The content of a frame, every byte of it checked; raises ImageCorrupt, StorageError.

        The GIL is released while it is read and decompressed.
        """
        return self._contents[index] if self._contents else self.read_both(index)[1]

    def read_both(self, index: int) -> tuple[bytes, bytes]:
        """A frame as `read_stored` has it, and its content as `read_frame` has it."""
        start, end = self.frame_content_range(index)
        frame = self.read_stored(index)
        try:
            return frame, unpack_frame(frame, end - start, self._max_frame_bytes)
        except FrameDamage as damage:
            raise self._corrupt(f"frame {index} {damage}") from damage

    def read_bytes(self, start_bytes: int, end_bytes: int) -> bytes:
        """Bytes of the file as they are; raises ImageCorrupt if it has become shorter, StorageError."""
        return read_exactly(self._fd, end_bytes - start_bytes, start_bytes, self.path)

    def _load_seek_table(self, entry: FileEntry | None) -> None:
        table_start, frame_count = _find_seek_table(self._fd, self.stored_bytes, self.path, entry)
        words = self._read_words(table_start, frame_count, entry)
        self._load_entries(words)
        if self._stored_offsets[-1] != table_start:
            raise self._corrupt("its frames do not add up to the size of the file")

    def _read_words(self, table_start: int, frame_count: int, entry: FileEntry | None) -> array[int]:
        """The numbers of the seek table's entries."""
        table = read_exactly(self._fd, self.stored_bytes - table_start, table_start, self.path)
        if entry is not None and hashlib.sha256(table).hexdigest() != entry.seek_table_sha256:
            raise self._corrupt(_OTHER_TABLE)
        magic, body_bytes = layout.SEEK_TABLE_HEADER.unpack_from(table)
        if magic != layout.SEEK_TABLE_SKIPPABLE_MAGIC or body_bytes != len(table) - layout.SEEK_TABLE_HEADER.size:
            raise self._corrupt("its seek table has a bad header")
        words = array("I")
        entries_bytes = frame_count * layout.SEEK_TABLE_ENTRY.size
        words.frombytes(memoryview(table)[layout.SEEK_TABLE_HEADER.size :][:entries_bytes])
        return words

    def _load_entries(self, words: array[int]) -> None:
        if sys.byteorder == "big":
            words.byteswap()
        stored, contents, self._checksums = words[0::3], words[1::3], words[2::3]
        del words[:]  # a table may have 192 MiB
        # Sizes are bounded here, before a buffer is made for any of them.
        if stored and (
            min(stored) <= layout.FRAME_CHECKSUM_BYTES
            or max(stored) > layout.max_stored_bytes(self._max_frame_bytes)
            or min(contents) == 0
            or max(contents) > self._max_frame_bytes
            or any(n_bytes % self._content_unit_bytes for n_bytes in set(contents))
        ):
            raise self._corrupt("its seek table has a frame of an impossible size")
        self._stored_offsets = array("Q", accumulate(stored, initial=0))
        self._content_offsets = array("Q", accumulate(contents, initial=0))

    def _corrupt(self, problem: str) -> ImageCorrupt:
        return _damaged(self.path, problem)


def check_seek_table(path: Path, entry: FileEntry) -> None:
    """See to it that a file has the size and the seek table that the manifest names, in little memory.

    What the table says is not looked at, nor is any frame. Raises ImageCorrupt, StorageError.
    """
    fd, stored_bytes = open_regular(path)
    try:
        start_bytes, _ = _find_seek_table(fd, stored_bytes, path, entry)
        digest = hashlib.sha256()
        for offset_bytes in range(start_bytes, stored_bytes, _HASHED_BYTES):
            digest.update(read_exactly(fd, min(_HASHED_BYTES, stored_bytes - offset_bytes), offset_bytes, path))
    finally:
        close_quietly(fd)
    if digest.hexdigest() != entry.seek_table_sha256:
        raise _damaged(path, _OTHER_TABLE)


def _find_seek_table(fd: int, stored_bytes: int, path: Path, entry: FileEntry | None) -> tuple[int, int]:
    """Where the seek table of a file begins, and how many frames it is about."""
    if entry is not None and entry.stored_bytes != stored_bytes:
        raise _damaged(path, f"it has {stored_bytes} bytes, not the {entry.stored_bytes} of its manifest")
    footer_offset_bytes = stored_bytes - layout.SEEK_TABLE_FOOTER.size
    if footer_offset_bytes < layout.SEEK_TABLE_HEADER.size:
        raise _damaged(path, "it is too short to hold a seek table")
    frame_count: int
    descriptor: int
    magic: int
    frame_count, descriptor, magic = layout.SEEK_TABLE_FOOTER.unpack(
        read_exactly(fd, layout.SEEK_TABLE_FOOTER.size, footer_offset_bytes, path)
    )
    if magic != layout.SEEK_TABLE_MAGIC:
        raise _damaged(path, "it does not end in a seek table")
    if descriptor != layout.SEEK_TABLE_CHECKSUMS or frame_count > layout.MAX_FRAMES:
        raise _damaged(path, "its seek table has a bad footer")
    start_bytes = footer_offset_bytes - frame_count * layout.SEEK_TABLE_ENTRY.size - layout.SEEK_TABLE_HEADER.size
    if start_bytes < 0:
        raise _damaged(path, "its seek table is larger than the file")
    return start_bytes, frame_count


def _damaged(path: Path, problem: str) -> ImageCorrupt:
    return ImageCorrupt(f"{path} is damaged: {problem}.", path=str(path))
