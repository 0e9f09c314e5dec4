"""Memory with the pages of files that images leave out, and words and places in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.expressions import whereabouts
from analysis.files.filledmemory import FilledMemory
from analysis.files.mappedfiles import MappedFiles
from analysis.places import Places, Section
from analysis.words import Word, words_of
from formats.chain import Checkpoint, MemoryView
from formats.errors import AddressAbsent, UsageError
from formats.layout import PAGE_BYTES
from formats.manifest import Gap, MappedFile, Vma
from tests.format.images import BASE_ADDR, ImageRound, addr_of, page_of, vma_of, write_chain

INODE = 5
FILE_BYTES = 3 * PAGE_BYTES + 100


def file_vma(start_page: int, end_page: int, path: Path, perms: str = "r--p") -> Vma:
    return replace(vma_of(start_page, end_page, "file", str(path)), inode=INODE, perms=perms)


@contextmanager
def memory_of(
    checkpoint: Path, path: Path, *, mtime_ns: int | None = None, perms: str = "r--p", gaps: tuple[Gap, ...] = ()
) -> Iterator[tuple[FilledMemory, list[str]]]:
    """A page of data, then a file of four pages of which the second is in the image, and what is noticed."""
    vmas = (vma_of(0, 2), file_vma(2, 8, path, perms))
    write_chain(checkpoint, ImageRound({0: page_of(1), 3: page_of(3)}, vmas, gaps))
    notices: list[str] = []
    images = Checkpoint.open(checkpoint)
    with MemoryView(images) as view:
        status = path.stat() if path.exists() else None
        recorded = MappedFile(
            path=str(path),
            device="00:00",
            inode=INODE,
            build_id="",
            size_bytes=FILE_BYTES,
            mtime_ns=(status.st_mtime_ns if status else 1) if mtime_ns is None else mtime_ns,
        )
        view.process.mapped_files.append(recorded)
        files = MappedFiles(images.round().manifest, view)
        with FilledMemory(view, files, lambda _, message: notices.append(message)) as memory:
            yield memory, notices


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mapped"
    path.write_bytes(bytes(n % 253 for n in range(FILE_BYTES)))
    return path


def test_what_is_missing_comes_from_the_file(checkpoint: Path, file: Path) -> None:
    content = file.read_bytes()
    expected = content[:PAGE_BYTES] + page_of(3) + content[2 * PAGE_BYTES :] + bytes(PAGE_BYTES - 100)
    with memory_of(checkpoint, file) as (memory, notices):
        assert memory.read(addr_of(1), 5 * PAGE_BYTES) == bytes(PAGE_BYTES) + expected
        assert memory.read(addr_of(2) + 4090, 12) == expected[4090:4102]
        assert memory.read(addr_of(5) + 90, 20) == content[3 * PAGE_BYTES + 90 :] + bytes(10)
        assert len(notices) == 1
        assert str(file) in notices[0]


def test_nothing_lies_behind_the_end_of_a_file(checkpoint: Path, file: Path) -> None:
    with memory_of(checkpoint, file) as (memory, _):
        with pytest.raises(AddressAbsent) as absent:
            memory.read(addr_of(5), PAGE_BYTES + 1)
        assert absent.value.fields["addr"] == addr_of(6)


@pytest.mark.parametrize("why", ["changed", "gone", "shared", "unreadable"])
def test_nothing_is_read_from_what_may_be_something_else(why: str, checkpoint: Path, file: Path) -> None:
    gaps = (Gap(start_addr=addr_of(2), end_addr=addr_of(3), reason="device"),) if why == "unreadable" else ()
    if why == "gone":
        file.unlink()
    perms = "rw-s" if why == "shared" else "r--p"
    with memory_of(checkpoint, file, mtime_ns=12345 if why == "changed" else None, perms=perms, gaps=gaps) as (
        memory,
        told,
    ):
        with pytest.raises(AddressAbsent) as absent:
            memory.read(addr_of(2), 8)
        assert absent.value.fields["addr"] == addr_of(2)
        assert ("--sysroot" in absent.value.hint) == (why in {"changed", "gone"})
        assert [str(file) in notice for notice in told] == [True] * (why == "changed")
        assert memory.read(addr_of(3), 8) == page_of(3)[:8]


def test_what_the_images_say_still_holds(checkpoint: Path, file: Path) -> None:
    with memory_of(checkpoint, file) as (memory, _):
        for addr, length in ((0, 8), (addr_of(8), 1), (addr_of(7), 2 * PAGE_BYTES), (1 << 70, 1)):
            with pytest.raises(AddressAbsent):
                memory.read(addr, length)
        for addr, length in ((-1, 8), (0, -1)):
            with pytest.raises(UsageError):
                memory.read(addr, length)
        assert memory.read(0, 0) == b""


def test_strings(checkpoint: Path) -> None:
    text = b"a" * (PAGE_BYTES + 10)
    first, second = b"-" * 16 + text[: PAGE_BYTES - 16], text[PAGE_BYTES - 16 :] + b"\0rest"
    last = b"z" * PAGE_BYTES
    write_chain(
        checkpoint, ImageRound({0: first, 1: second.ljust(PAGE_BYTES, b"\1"), 2: last}, (vma_of(0, 2), vma_of(2, 3)))
    )
    images = Checkpoint.open(checkpoint)
    with MemoryView(images) as view:
        files = MappedFiles(images.round().manifest, view)
        memory = FilledMemory(view, files, lambda *_: None)
        assert memory.read_string(addr_of(0) + 16, 1 << 20) == (text, True)
        assert memory.read_string(addr_of(0) + 16, len(text)) == (text, False)
        assert memory.read_string(addr_of(0) + 16, 5) == (b"aaaaa", False)
        assert memory.read_string(addr_of(1) + 26, 5) == (b"", True)
        assert memory.read_string(addr_of(2) + PAGE_BYTES - 3, 100) == (b"zzz", False)
        with pytest.raises(AddressAbsent):
            memory.read_string(addr_of(3), 1)


HEAP = replace(vma_of(0, 2, "heap", "[heap]"))
FILE = file_vma(4, 5, Path("/usr/lib/libx.so"))
MORE = file_vma(5, 6, Path("/usr/lib/libx.so"), "rw-p")
ONE, OTHER = vma_of(6, 7), vma_of(8, 9)
PLACES = Places([HEAP, FILE, MORE, ONE, OTHER])


def test_words() -> None:
    values = [addr_of(0) + 0x1A0, 0, addr_of(5), addr_of(8) + 1, (1 << 64) - 1]
    content = b"".join(value.to_bytes(8, "little") for value in values)
    assert list(words_of(content, 16, PLACES)) == [
        Word(16, values[0], "heap+0x1a0"),
        Word(24, 0, ""),
        Word(32, values[2], "libx.so+0x1000"),
        Word(40, values[3], f"anon@{addr_of(8):x}+0x1"),
        Word(48, values[4], ""),
    ]


def test_sections_of_mappings() -> None:
    assert list(PLACES.sections(addr_of(4) + 1, addr_of(7))) == [
        Section(addr_of(4) + 1, "libx.so+0x1"),
        Section(addr_of(6), f"anon@{addr_of(6):x}"),
    ]
    assert list(PLACES.sections(addr_of(0), addr_of(0))) == []


@pytest.mark.parametrize(
    ("text", "addr"),
    [
        ("heap", addr_of(0)),
        ("[heap]+0x10", addr_of(0) + 16),
        ("heap + 16 - 0x8", addr_of(0) + 8),
        ("libx.so+0x1000", addr_of(5)),
        ("/usr/lib/libx.so", addr_of(4)),
        (f"anon@{addr_of(8):x}+1", addr_of(8) + 1),
        (hex(BASE_ADDR), BASE_ADDR),
        ("4096", 4096),
        ("010", 10),
        ("heap+010", addr_of(0) + 10),
        ("0X10-1", 15),
        ("rsp+8", 108),
        ("$rsp", 100),
    ],
)
def test_expressions(text: str, addr: int) -> None:
    assert whereabouts(text, PLACES, {"rsp": 100}).addr == addr


@pytest.mark.parametrize(
    "text", ["", "+1", "heap+", "heap+0x", "rip", "0x", "-1", "heap:", ":", "1-2", "anon", "\x1b[2J"]
)
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(UsageError):
        whereabouts(text, PLACES, {"rsp": 100})
