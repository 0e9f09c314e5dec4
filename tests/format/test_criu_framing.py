"""CRIU's image files: how messages lie in them, and what a reader refuses."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from formats.criu.framing import MAX_MESSAGE_BYTES, ImageReader, Magic, header, read_message, write_messages
from formats.criu.images_pb2 import Inventory, PagemapEntry, PagemapHead, Stats, TreeEntry
from formats.errors import ImageCorrupt, StorageError

REPO = Path(__file__).parents[2]


def tree(pid: int) -> TreeEntry:
    return TreeEntry(pid=pid, ppid=0, process_group=pid, session=pid, tids=[pid, pid + 1])


@pytest.mark.parametrize(
    ("magic", "start"),
    [
        (Magic.PSTREE, "19435654 30302750"),
        (Magic.INVENTORY, "16313158"),
        (Magic.STATS, "40591055 06330957"),
    ],
)
def test_a_file_begins_with_the_magics_of_its_kind(magic: Magic, start: str) -> None:
    assert header(magic) == bytes.fromhex(start)


def test_bytes_of_an_entry_are_those_of_criu(tmp_path: Path) -> None:
    """Of CRIU 4.2: two pages at 4096 in the parent."""
    path = tmp_path / "pagemap-1.img"
    path.write_bytes(header(Magic.PAGEMAP) + bytes.fromhex("02000000 0801 09000000 088020100020012802"))
    with ImageReader(path, Magic.PAGEMAP) as reader:
        assert reader.read(PagemapHead).pages_id == 1
        assert list(reader.rest(PagemapEntry)) == [PagemapEntry(start_addr=4096, n_pages_32=0, flags=1, n_pages=2)]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pstree.img"
    entries = [tree(pid) for pid in range(1, 100_000)]
    write_messages(path, Magic.PSTREE, iter(entries))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size > 1 << 20
    with ImageReader(path, Magic.PSTREE) as reader:
        assert list(reader.rest(TreeEntry)) == entries
    with pytest.raises(StorageError, match="exists"):
        write_messages(path, Magic.PSTREE, [])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "does not begin"),
        (header(Magic.FILES), "does not begin"),
        (header(Magic.STATS), "does not begin"),
        (header(Magic.PSTREE), "ends where a message is due"),
        (header(Magic.PSTREE) + b"\1\0", "in the middle"),
        (header(Magic.PSTREE) + b"\5\0\0\0\x08\1", "more than can be"),
        (header(Magic.PSTREE) + struct.pack("<I", MAX_MESSAGE_BYTES + 1) + bytes(MAX_MESSAGE_BYTES + 1), "more than"),
        (header(Magic.PSTREE) + b"\xff\xff\xff\xff", "more than can be"),
        (header(Magic.PSTREE) + b"\2\0\0\0\x08\1", "without a field"),
        (header(Magic.PSTREE) + b"\2\0\0\0\xff\xff", "cannot be read"),
    ],
)
def test_damage_is_told(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "pstree.img"
    path.write_bytes(content)
    with pytest.raises(ImageCorrupt, match=problem) as caught:
        read_message(path, Magic.PSTREE, TreeEntry)
    assert str(path) in caught.value.message


def test_an_image_is_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "there.img").write_bytes(header(Magic.INVENTORY))
    (tmp_path / "inventory.img").symlink_to("there.img")
    with pytest.raises(ImageCorrupt, match="not a regular file"):
        read_message(tmp_path / "inventory.img", Magic.INVENTORY, Inventory)
    with pytest.raises(ImageCorrupt, match="missing"):
        read_message(tmp_path / "stats-dump", Magic.STATS, Stats)


def test_the_generated_messages_are_those_of_the_proto(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="the compiler of messages is not installed")
    shutil.copytree(REPO / "formats/criu", tmp_path / "formats/criu")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-I.",
            "--python_out=.",
            "--pyi_out=.",
            "formats/criu/images.proto",
        ],
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
    for name in ("images_pb2.py", "images_pb2.pyi"):
        committed = (REPO / "formats/criu" / name).read_text()
        assert (tmp_path / "formats/criu" / name).read_text() == committed, "make proto"
