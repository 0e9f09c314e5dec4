"""Files of zstd frames: what goes in comes out, and other zstd programs can read them."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats import layout
from formats.errors import StorageError
from formats.framefile import DiskFile
from formats.framereader import FrameReader
from formats.frames import FrameWriter, compress_frames
from formats.manifest import FileEntry

ZSTD = "/usr/bin/zstd"


def write_frames(path: Path, content: bytes, frame_bytes: int = 1000, level: int = 1) -> FileEntry:
    writer = FrameWriter(DiskFile(path))
    writer.append(*compress_frames(memoryview(content), frame_bytes, level))
    return writer.close()


def mixed_content(size_bytes: int) -> bytes:
    """Half noise, half text, so that frames differ in size."""
    noise = random.Random(1).randbytes(size_bytes // 2)
    return noise + b"predump " * ((size_bytes - len(noise)) // 8 + 1)


@pytest.mark.parametrize("size_bytes", [0, 1, 999, 1000, 1001, 50_000])
def test_zstd_reads_the_exact_content(tmp_path: Path, size_bytes: int) -> None:
    content = mixed_content(size_bytes)[:size_bytes]
    path = tmp_path / "pages-1.zst"
    write_frames(path, content)
    decompressed = subprocess.run([ZSTD, "-dc", path], check=True, capture_output=True).stdout
    assert decompressed == content
    subprocess.run([ZSTD, "-t", "-q", path], check=True)


def test_level_0_stores_the_content_as_it_is(tmp_path: Path) -> None:
    content = mixed_content(50_000) + bytes(range(256)) * 1000
    path = tmp_path / "pages-1.zst"
    write_frames(path, content, 4096, level=0)
    assert content[:4096] in path.read_bytes()
    assert path.stat().st_size > len(content)
    assert subprocess.run([ZSTD, "-dc", path], check=True, capture_output=True).stdout == content


def test_zstd_lists_every_frame_with_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "pages-1.zst"
    write_frames(path, mixed_content(3500))
    listed = subprocess.run([ZSTD, "-lv", path], check=True, capture_output=True, text=True).stdout
    assert "# Zstandard Frames: 4" in listed
    assert "# Skippable Frames: 1" in listed
    assert "XXH64" in listed


@given(st.binary(max_size=5000), st.integers(1, 700))
def test_frames_come_back(tmp_path_factory: pytest.TempPathFactory, data: bytes, n: int) -> None:
    path = tmp_path_factory.mktemp("frames") / "f.zst"
    entry = write_frames(path, data, n)
    with FrameReader(path, max_frame_bytes=n, entry=entry) as reader:
        assert reader.content_bytes == len(data)
        contents = [reader.read_frame(index) for index in range(reader.frame_count)]
        assert b"".join(contents) == data
        for offset_bytes in range(0, len(data), 97):
            start, end = reader.frame_content_range(reader.index_of(offset_bytes))
            assert start <= offset_bytes < end


def test_the_entry_describes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pages-1.zst"
    entry = write_frames(path, mixed_content(5000))
    data = path.read_bytes()
    table_bytes = 8 + 12 * 6 + 9
    assert entry == FileEntry(
        name="pages-1.zst",
        stored_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        seek_table_sha256=hashlib.sha256(data[-table_bytes:]).hexdigest(),
    )


def test_the_seek_table_is_the_public_format(tmp_path: Path) -> None:
    path = tmp_path / "f.zst"
    writer = FrameWriter(DiskFile(path))
    frames, sizes = compress_frames(memoryview(b"a" * 10 + b"b" * 5), 10, 1)
    writer.append(frames, sizes)
    writer.close()
    table = path.read_bytes()[sum(map(len, frames)) :]
    assert table[:8] == bytes.fromhex("5e2a4d18") + (2 * 12 + 9).to_bytes(4, "little")
    for index, (frame, size) in enumerate(zip(frames, sizes, strict=True)):
        entry = table[8 + 12 * index :][:12]
        assert int.from_bytes(entry[:4], "little") == len(frame)
        assert int.from_bytes(entry[4:8], "little") == size
        assert entry[8:] == frame[-4:]
    assert table[-9:] == (2).to_bytes(4, "little") + b"\x80" + bytes.fromhex("b1ea928f")


def test_counts_while_writing(tmp_path: Path) -> None:
    writer = FrameWriter(DiskFile(tmp_path / "f.zst"))
    frames, sizes = compress_frames(memoryview(bytes(2500)), 1000, 1)
    assert sizes == [1000, 1000, 500]
    writer.append(frames, sizes)
    assert writer.content_bytes == 2500
    assert writer.stored_bytes == sum(map(len, frames))
    writer.abort()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def stingy_writev(fd: int, buffers: Sequence[memoryview]) -> int:
        return write(fd, buffers[0][:7])

    monkeypatch.setattr(os, "writev", stingy_writev)
    content = mixed_content(4000)
    entry = write_frames(tmp_path / "f.zst", content)
    with FrameReader(tmp_path / "f.zst", max_frame_bytes=1000, entry=entry) as reader:
        contents = [reader.read_frame(index) for index in range(reader.frame_count)]
    assert b"".join(contents) == content


def test_more_frames_than_one_writev_takes(tmp_path: Path) -> None:
    content = mixed_content(3000)
    entry = write_frames(tmp_path / "f.zst", content, frame_bytes=1)
    with FrameReader(tmp_path / "f.zst", max_frame_bytes=1, entry=entry) as reader:
        assert reader.frame_count == len(content) > 1024
        assert reader.read_frame(2999) == content[2999:3000]


def test_an_existing_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "f.zst"
    path.write_bytes(b"mine")
    with pytest.raises(StorageError) as caught:
        FrameWriter(DiskFile(path))
    assert caught.value.fields["errno"] == errno.EEXIST
    assert str(path) in caught.value.message
    assert path.read_bytes() == b"mine"


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "f.zst"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        FrameWriter(DiskFile(path))
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = FrameWriter(DiskFile(tmp_path / "f.zst"))

    def full(_fd: int, _buffers: Sequence[memoryview]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        writer.append(*compress_frames(memoryview(b"abc"), 10, 1))
    assert caught.value.exit_code == 1
    assert "space" in caught.value.hint
    writer.abort()


def test_too_many_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_FRAMES", 2)
    writer = FrameWriter(DiskFile(tmp_path / "f.zst"))
    with pytest.raises(StorageError, match="at most 2 frames"):
        writer.append(*compress_frames(memoryview(b"abc"), 1, 1))
    writer.abort()


def test_abort_closes_once(tmp_path: Path) -> None:
    writer = FrameWriter(DiskFile(tmp_path / "f.zst"))
    writer.abort()
    other_fd = os.open(tmp_path, os.O_RDONLY)  # takes the number that abort set free
    writer.abort()
    os.fstat(other_fd)
    os.close(other_fd)


def test_several_threads_read_one_file(tmp_path: Path) -> None:
    content = mixed_content(400_000)
    entry = write_frames(tmp_path / "f.zst", content, 4000)
    with (
        FrameReader(tmp_path / "f.zst", max_frame_bytes=4000, entry=entry) as reader,
        ThreadPoolExecutor(4) as pool,
    ):
        indexes = [index for index in range(reader.frame_count) for _ in range(4)]
        for index, found in zip(indexes, pool.map(reader.read_frame, indexes), strict=True):
            assert found == content[4000 * index : 4000 * (index + 1)]
