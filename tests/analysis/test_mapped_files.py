"""Whether the file that is found is the one that was mapped."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.files.mappedfiles import FoundFile, MappedFiles, Sameness
from formats.chain import Checkpoint, MemoryView
from formats.errors import ImageCorrupt
from formats.layout import PAGE_BYTES
from formats.manifest import Manifest, Vma
from formats.roundwriter import RoundWriter
from tests.format.elffile import with_build_id
from tests.format.images import ImageRound, fill_round, manifest_of, process_of, vma_of

ID, OTHER_ID = bytes(range(20)), bytes(range(1, 21))
LIBRARY = "/usr/lib/libx.so"
LIB_VMA = replace(vma_of(0, 2, "file", LIBRARY), inode=5, device="fe:00")
EXE_VMA = replace(vma_of(4, 6, "file", "/bin/target"), inode=6, device="fe:00")


def in_page(content: bytes) -> bytes:
    return content + bytes(PAGE_BYTES - len(content))


def write(checkpoint: Path, image: ImageRound, exe_build_id: str = "", **changes: object) -> Path:
    """A round; `changes` are to its manifest."""
    writer = RoundWriter(checkpoint, 1)
    fill_round(writer, image)
    manifest = manifest_of(1, replace(process_of(image), exe_build_id=exe_build_id), None)
    writer.commit(replace(manifest, **changes))  # type: ignore[arg-type]
    return checkpoint


def put(root: Path, name: str, content: bytes) -> Path:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(checkpoint: Path, vma: Vma, root: Path) -> FoundFile | None:
    opened = Checkpoint.open(checkpoint)
    with MemoryView(opened) as view:
        return MappedFiles(opened.round().manifest, view, root).open(vma)


def sameness(checkpoint: Path, vma: Vma, root: Path) -> Sameness:
    file = found(checkpoint, vma, root)
    assert file is not None
    with file:
        return file.sameness


def test_the_build_id_in_memory_decides(checkpoint: Path, tmp_path: Path) -> None:
    write(checkpoint, ImageRound({0: in_page(with_build_id(ID))}, (LIB_VMA,)))
    put(tmp_path / "same", LIBRARY, with_build_id(ID))
    put(tmp_path / "other", LIBRARY, with_build_id(OTHER_ID))
    put(tmp_path / "none", LIBRARY, b"")
    assert sameness(checkpoint, LIB_VMA, tmp_path / "same") is Sameness.SAME
    assert sameness(checkpoint, LIB_VMA, tmp_path / "other") is Sameness.OTHER
    assert sameness(checkpoint, LIB_VMA, tmp_path / "none") is Sameness.OTHER
    assert found(checkpoint, LIB_VMA, tmp_path / "nothing") is None


def test_the_build_id_of_the_executable_is_recorded(checkpoint: Path, tmp_path: Path) -> None:
    write(checkpoint, ImageRound({}, (EXE_VMA,)), exe_build_id=ID.hex())
    put(tmp_path / "same", EXE_VMA.path, with_build_id(ID))
    put(tmp_path / "other", EXE_VMA.path, with_build_id(OTHER_ID))
    assert sameness(checkpoint, EXE_VMA, tmp_path / "same") is Sameness.SAME
    assert sameness(checkpoint, EXE_VMA, tmp_path / "other") is Sameness.OTHER


def test_without_a_build_id_nobody_knows(checkpoint: Path, tmp_path: Path) -> None:
    write(checkpoint, ImageRound({}, (LIB_VMA,)))
    put(tmp_path, LIBRARY, with_build_id(ID))
    assert sameness(checkpoint, LIB_VMA, tmp_path) is Sameness.UNKNOWN


def inode_of(path: Path, vma: Vma) -> Vma:
    status = path.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    return replace(vma, device=device, inode=status.st_ino)


def here(manifest: Manifest) -> Manifest:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return replace(manifest, host=replace(manifest.host, boot_id=boot_id))


@pytest.mark.parametrize(
    ("age_s", "is_here", "expected"),
    [(1, True, Sameness.SAME), (-1, True, Sameness.UNKNOWN), (1, False, Sameness.UNKNOWN)],
)
def test_the_same_inode_of_the_same_boot_unless_it_changed_since(
    checkpoint: Path, tmp_path: Path, age_s: int, is_here: bool, expected: Sameness
) -> None:
    vma = inode_of(put(tmp_path, LIBRARY, b"data"), LIB_VMA)
    image = ImageRound({}, (vma,))
    host = (here if is_here else replace)(manifest_of(1, process_of(image), None)).host
    write(checkpoint, image, created_ns=time.time_ns() + age_s * 10**9, host=host)
    assert sameness(checkpoint, vma, tmp_path) is expected


def test_a_deleted_file_is_looked_for_by_its_name(checkpoint: Path, tmp_path: Path) -> None:
    vma = replace(LIB_VMA, path=f"{LIBRARY} (deleted)")
    write(checkpoint, ImageRound({0: in_page(with_build_id(ID))}, (vma,)))
    put(tmp_path, LIBRARY, with_build_id(OTHER_ID))
    assert sameness(checkpoint, vma, tmp_path) is Sameness.OTHER


@pytest.mark.parametrize(
    "vma",
    [
        replace(LIB_VMA, path="relative"),
        replace(LIB_VMA, path="/\ud800"),
        replace(LIB_VMA, path="/" + "x/" * 5000),
        replace(LIB_VMA, inode=0),
        replace(LIB_VMA, path="/dev"),
    ],
)
def test_paths_that_are_none(checkpoint: Path, tmp_path: Path, vma: Vma) -> None:
    write(checkpoint, ImageRound({}, (LIB_VMA,)))
    assert found(checkpoint, vma, Path("/")) is None
    assert found(checkpoint, vma, tmp_path) is None


def test_damage_is_told(checkpoint: Path, tmp_path: Path) -> None:
    write(checkpoint, ImageRound({0: in_page(with_build_id(ID))}, (LIB_VMA,)))
    put(tmp_path, LIBRARY, with_build_id(ID))
    pages = next((checkpoint / "0001").glob("pages-*"))
    content = bytearray(pages.read_bytes())
    content[20] ^= 1
    pages.write_bytes(content)
    with pytest.raises(ImageCorrupt):
        found(checkpoint, LIB_VMA, tmp_path)


def test_it_reads_like_a_file(checkpoint: Path, tmp_path: Path) -> None:
    write(checkpoint, ImageRound({}, (LIB_VMA,)))
    put(tmp_path, LIBRARY, b"0123456789")
    file = found(checkpoint, LIB_VMA, tmp_path)
    assert file is not None
    with file, file.stream() as stream:
        assert (file.read(8, 100), file.read(1 << 63, 1), stream.read()) == (b"89", b"", b"0123456789")
        assert (file.path, file.size_bytes) == (tmp_path / "usr/lib/libx.so", 10)
    file.close()
