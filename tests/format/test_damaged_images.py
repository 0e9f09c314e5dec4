"""Hostile and damaged files of frames: each is exit code 20, and none costs memory or time."""

from __future__ import annotations

import os
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from formats import layout
from formats.chain import Checkpoint, MemoryView
from formats.errors import ImageCorrupt, PredumpError
from formats.framefile import DiskFile
from formats.framereader import FrameReader
from formats.frames import FrameWriter, compress_frames
from formats.layout import PAGE_BYTES, RunKind, pagemap_name, pages_name
from formats.manifest import FileEntry
from tests.format.images import PID, ImageRound, addr_of, page_of, write_chain

FRAME_BYTES = 1000
CONTENT = b"".join(page_of(page)[:FRAME_BYTES] for page in range(8))


def write_sample(path: Path, content: bytes = CONTENT) -> FileEntry:
    writer = FrameWriter(DiskFile(path))
    writer.append(*compress_frames(memoryview(content), FRAME_BYTES, 1))
    return writer.close()


def read_all(path: Path, entry: FileEntry | None = None) -> bytes:
    with FrameReader(path, max_frame_bytes=FRAME_BYTES, entry=entry) as reader:
        return b"".join(reader.read_frame(index) for index in range(reader.frame_count))


def build_file(
    frames: list[bytes],
    *,
    entries: list[tuple[int, int, int]] | None = None,
    frame_count: int | None = None,
    descriptor: int = 0x80,
) -> bytes:
    """A file of any frames with any seek table, by default one that fits."""
    if entries is None:
        entries = [(len(frame), FRAME_BYTES, int.from_bytes(frame[-4:], "little")) for frame in frames]
    table = b"".join(struct.pack("<III", *entry) for entry in entries)
    count = len(entries) if frame_count is None else frame_count
    footer = struct.pack("<IBI", count, descriptor, 0x8F92EAB1)
    header = struct.pack("<II", 0x184D2A5E, len(table) + len(footer))
    return b"".join(frames) + header + table + footer


def compress(content: bytes, *, checksum: bool = True, size: bool = True) -> bytes:
    compressor = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size)
    return compressor.compress(content)


FRAME = compress(CONTENT[:FRAME_BYTES])


def test_the_builder_builds_sound_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(build_file([FRAME, FRAME]))
    assert read_all(tmp_path / "f") == CONTENT[:FRAME_BYTES] * 2


@given(data=st.data())
def test_any_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("flip") / "f"
    write_sample(path)
    damaged = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(damaged))
    try:
        content = read_all(path)
    except ImageCorrupt as error:
        assert str(path) in error.message  # noqa: PT017
    else:
        # Bits that decompression ignores exist; the content may never differ.
        assert content == CONTENT


@given(data=st.data())
def test_any_truncation_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("cut") / "f"
    write_sample(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ImageCorrupt):
        read_all(path)


@given(st.binary(max_size=300))
def test_noise_is_damage(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "f"
    path.write_bytes(noise)
    with pytest.raises(ImageCorrupt):
        read_all(path)
    path.write_bytes(noise + struct.pack("<IBI", 1, 0x80, 0x8F92EAB1))
    with pytest.raises(ImageCorrupt):
        read_all(path)


@given(st.lists(st.tuples(*[st.integers(0, (1 << 32) - 1)] * 3), max_size=5))
def test_any_seek_table_is_bounded(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[int, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("table") / "f"
    path.write_bytes(build_file([FRAME], entries=entries))
    with pytest.raises(ImageCorrupt):
        read_all(path)


SIZE = len(FRAME)
CHECKSUM = int.from_bytes(FRAME[-4:], "little")
SOUND = build_file([FRAME])
BOMB = compress(bytes(100 << 20))
BLOCKS = FRAME[7:]  # behind magic, descriptor and a content size of 2 bytes; checksum included


def overwrite(data: bytes, offset_bytes: int, patch: bytes) -> bytes:
    return data[:offset_bytes] + patch + data[offset_bytes + len(patch) :]


def one_entry(frame: bytes, content_bytes: int, checksum: int, stored_bytes: int = 0) -> bytes:
    return build_file([frame], entries=[(stored_bytes or len(frame), content_bytes, checksum)])


CRAFTED: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "too short"),
    "short file": (b"\0" * 16, "too short"),
    "no magic": (SOUND[:-1] + b"\0", "does not end in a seek table"),
    "bytes behind the table": (SOUND + b"x", "does not end in a seek table"),
    "footer count too large": (build_file([FRAME], frame_count=2), "bad header"),
    "footer count too small": (build_file([FRAME], frame_count=0), "bad header"),
    "footer count beyond the file": (build_file([FRAME], frame_count=1000), "larger than the file"),
    "footer count huge": (build_file([FRAME], frame_count=0xFFFFFFFF), "bad footer"),
    "no checksums": (build_file([FRAME], descriptor=0), "bad footer"),
    "reserved bit": (build_file([FRAME], descriptor=0x84), "bad footer"),
    "skippable magic": (overwrite(SOUND, SIZE, b"\x5f"), "bad header"),
    "skippable size": (overwrite(SOUND, SIZE + 4, b"\x16"), "bad header"),
    "bytes before the frames": (b"x" + SOUND, "do not add up"),
    "stored size 0": (
        build_file([FRAME], entries=[(0, FRAME_BYTES, 0), (SIZE, FRAME_BYTES, CHECKSUM)]),
        "impossible size",
    ),
    "stored size huge": (one_entry(FRAME, FRAME_BYTES, CHECKSUM, 0xFFFFFFFF), "impossible size"),
    "content size 0": (one_entry(FRAME, 0, CHECKSUM), "impossible size"),
    "content size huge": (one_entry(FRAME, 0xFFFFFFFF, CHECKSUM), "impossible size"),
    "content size + 1": (one_entry(FRAME, FRAME_BYTES + 1, CHECKSUM), "impossible size"),
    "content size - 1": (one_entry(FRAME, FRAME_BYTES - 1, CHECKSUM), "contradicts"),
    "checksum of another": (one_entry(FRAME, FRAME_BYTES, CHECKSUM ^ 1), "is not the one"),
    "no checksum in the frame": (
        build_file([compress(CONTENT[:FRAME_BYTES], checksum=False)]),
        "contradicts",
    ),
    "no size in the frame": (
        build_file([compress(CONTENT[:FRAME_BYTES], size=False)]),
        "contradicts",
    ),
    "padded with noise to be too large": (
        build_file([FRAME + bytes(2000) + FRAME[-4:]]),
        "impossible size",
    ),
    "bomb": (one_entry(BOMB[:1500] + BOMB[-4:], FRAME_BYTES, 0), "is not the one"),
    "bomb with its checksum": (build_file([BOMB[:1500] + BOMB[-4:]]), "contradicts"),
    "content of another size": (
        build_file([overwrite(compress(CONTENT[: FRAME_BYTES - 1]), 5, FRAME[5:7])]),
        "does not decompress",
    ),
    "content that fails its checksum": (
        build_file([FRAME[:-4] + b"\0\1\2\3"]),
        "does not decompress",
    ),
    "garbage in the frame": (
        one_entry(FRAME + b"junk" + FRAME[-4:], FRAME_BYTES, CHECKSUM),
        "does not decompress",
    ),
    "two frames in one": (one_entry(FRAME + FRAME, FRAME_BYTES, CHECKSUM), "does not decompress"),
    "a skippable frame": (
        build_file([struct.pack("<II", 0x184D2A50, FRAME_BYTES) + bytes(FRAME_BYTES)]),
        "contradicts",
    ),
    # Descriptor: a window, a checksum, 4 bytes of content size; then a window of 2**31 bytes.
    "a window of 2 GiB": (
        build_file([FRAME[:4] + b"\x84\xa8" + struct.pack("<I", FRAME_BYTES) + BLOCKS]),
        "contradicts",
    ),
    # Descriptor: one segment, a checksum, 2 bytes of content size, 1 byte of dictionary id.
    "a dictionary": (build_file([FRAME[:4] + b"\x65\x07" + FRAME[5:]]), "contradicts"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_files_are_damage_in_bounded_memory(tmp_path: Path, case: str) -> None:
    path = tmp_path / "f"
    data, problem = CRAFTED[case]
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ImageCorrupt, match=problem):
            read_all(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_the_manifest_names_the_size(tmp_path: Path) -> None:
    entry = write_sample(tmp_path / "f")
    data = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(b"x" + data)
    with pytest.raises(ImageCorrupt, match=f"has {len(data) + 1} bytes, not the {len(data)} of"):
        read_all(tmp_path / "f", entry)


def test_a_sparse_giant_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)
    with path.open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(struct.pack("<IBI", layout.MAX_FRAMES + 1, 0x80, 0x8F92EAB1))
    with pytest.raises(ImageCorrupt, match="bad footer"):
        read_all(path)


def test_swapped_frames_are_noticed(tmp_path: Path) -> None:
    """A splice inside one file: every frame is sound, but not where it belongs."""
    path = tmp_path / "f"
    write_sample(path)
    data = path.read_bytes()
    frames, _ = compress_frames(memoryview(CONTENT), FRAME_BYTES, 1)
    assert len(frames[0]) == len(frames[1])
    assert frames[0] != frames[1]
    path.write_bytes(frames[1] + frames[0] + data[len(frames[0]) * 2 :])
    with pytest.raises(ImageCorrupt, match="frame 0 is not the one"):
        read_all(path)


def test_another_file_of_the_same_shape_is_noticed(tmp_path: Path) -> None:
    """A splice of whole files: this one is sound, but not the one the manifest names."""
    entry = write_sample(tmp_path / "f")
    other = write_sample(tmp_path / "other", CONTENT[FRAME_BYTES:] + CONTENT[:FRAME_BYTES])
    assert other.stored_bytes == entry.stored_bytes
    shutil.copy(tmp_path / "other", tmp_path / "f")
    read_all(tmp_path / "f")
    with pytest.raises(ImageCorrupt, match="not the one its manifest names"):
        read_all(tmp_path / "f", entry)


@pytest.mark.parametrize("name", [pages_name(PID), pagemap_name(PID)])
def test_files_of_another_round_are_noticed(tmp_path: Path, name: str) -> None:
    images = [ImageRound({page: page_of(10 * seed)}) for seed, page in ((1, 0), (2, 1))]
    path = write_chain(tmp_path / "checkpoint", *images)
    shutil.copy(path / "0001" / name, path / "0002" / name)
    with MemoryView(Checkpoint.open(path)) as view, pytest.raises(ImageCorrupt):
        view.read(addr_of(1), 1)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


REPLACEMENTS: list[Callable[[Path], None]] = [make_fifo, make_link, Path.mkdir]


@pytest.mark.parametrize("replace_by", REPLACEMENTS)
@pytest.mark.parametrize("name", [pages_name(PID), pagemap_name(PID), "manifest.json"])
def test_what_is_no_regular_file_is_damage(tmp_path: Path, name: str, replace_by: Callable[[Path], None]) -> None:
    path = write_chain(tmp_path / "checkpoint", ImageRound({0: page_of(1)}))
    (path / "0001" / name).unlink()
    replace_by(path / "0001" / name)
    with pytest.raises(ImageCorrupt, match="not a regular file"):
        read_first_page(path)


def read_first_page(path: Path) -> bytes:
    with MemoryView(Checkpoint.open(path)) as view:
        return view.read(addr_of(0), PAGE_BYTES)


@given(data=st.data())
def test_a_damaged_checkpoint_never_reads_wrong(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Flip, cut or overwrite any file of a chain: its last round reads as it was, or not at all."""
    images = (
        ImageRound({0: page_of(1), 1: page_of(2), 3: RunKind.ZERO}),
        ImageRound({0: RunKind.PARENT, 1: page_of(3), 3: RunKind.PARENT}),
    )
    path = write_chain(tmp_path_factory.mktemp("damage") / "checkpoint", *images)
    target = data.draw(st.sampled_from(sorted(path.rglob("*.*"))))
    content = target.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.binary(max_size=20))
    resume = position + data.draw(st.integers(0, 20))
    target.write_bytes(content[:position] + damage + content[resume:])
    expected = page_of(1) + page_of(3) + bytes(2 * PAGE_BYTES)
    try:
        with MemoryView(Checkpoint.open(path)) as view:
            assert view.read(addr_of(0), len(expected)) == expected
    except PredumpError as error:
        assert error.exit_code in {20, 21}  # noqa: PT017
