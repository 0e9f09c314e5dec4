"""ELF files that are damaged, or made to harm: no symbols, and an error that says so."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from analysis.symbols.debugfiles import stripped_symbols
from analysis.symbols.elffile import DebugLink, ElfFile, UnusableElf
from formats.elf import EHDR, SHDR

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
CHANGES = 300


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("elf")
    source, library = directory / "x.c", directory / "x.so"
    source.write_text("int number = 1; static int own; int *place(void) { return &own; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library.read_bytes()


def opened(content: bytes, size_bytes: int | None = None) -> ElfFile:
    def read(offset: int, n_bytes: int) -> bytes:
        return content[offset : offset + n_bytes]

    return ElfFile(read, len(content) if size_bytes is None else size_bytes)


def names(content: bytes) -> set[str]:
    """What a few look-ups find; raises UnusableElf."""
    elf = opened(content)
    found = set()
    for table in (elf.symbol_table(), elf.dynamic_symbol_table()):
        if table is not None:
            found |= {one.name for name in ("number", "own", "place") for one in table.named(name)}
            found |= {one.name for one in table.between(0, 1 << 64)}
    return found


def with_header(content: bytes, **changes: int) -> bytes:
    fields = [
        "ident",
        "type",
        "machine",
        "version",
        "entry",
        "phoff",
        "shoff",
        "flags",
        "ehsize",
        "phentsize",
        "phnum",
        "shentsize",
        "shnum",
        "shstrndx",
    ]
    values = dict(zip(fields, EHDR.unpack_from(content), strict=True)) | changes
    return EHDR.pack(*values.values()) + content[EHDR.size :]


def with_sections(content: bytes, **changes: int) -> bytes:
    """All section headers changed alike."""
    fields = ["name", "type", "flags", "addr", "offset", "size", "link", "info", "addralign", "entsize"]
    (offset,) = struct.unpack_from("<Q", content, 40)
    changed = bytearray(content)
    for start in range(offset, len(content) - SHDR.size + 1, SHDR.size):
        values = dict(zip(fields, SHDR.unpack_from(content, start), strict=True)) | changes
        SHDR.pack_into(changed, start, *values.values())
    return bytes(changed)


def test_a_sound_file(content: bytes) -> None:
    assert {"number", "own", "place"} <= names(content)


def test_cut_off(content: bytes) -> None:
    for size_bytes in (*range(0, 200, 7), *range(200, len(content), 997)):
        with pytest.raises(UnusableElf):
            opened(content[:size_bytes])


def test_changed_at_random(content: bytes) -> None:
    chosen = random.Random(7)
    (sections_offset,) = struct.unpack_from("<Q", content, 40)
    unusable = 0
    for _ in range(CHANGES):
        changed = bytearray(content)
        for _ in range(chosen.choice((1, 4, 32))):
            place = chosen.choice(
                (range(64), range(64, 700), range(sections_offset, len(content)), range(len(content)))
            )
            changed[chosen.choice(place)] = chosen.randrange(256)
        try:
            names(bytes(changed))
        except UnusableElf:
            unusable += 1
    assert 0 < unusable < CHANGES


@pytest.mark.parametrize(
    "changes",
    [
        {"shnum": 0xFFFF},
        {"phnum": 0xFFFE},
        {"shoff": (1 << 64) - 1},
        {"phoff": (1 << 64) - 1},
        {"shentsize": 1},
        {"shstrndx": 0xFFF0},
    ],
)
def test_headers_without_end(content: bytes, changes: dict[str, int]) -> None:
    with pytest.raises(UnusableElf):
        names(with_header(content, **changes))


def test_numbers_that_are_elsewhere_and_are_none(content: bytes) -> None:
    assert opened(with_header(content, phnum=0xFFFF)).loads == []
    assert names(with_header(content, shstrndx=0xFFFF)) == set()


def test_a_number_of_sections_that_is_elsewhere(content: bytes) -> None:
    with pytest.raises(UnusableElf, match="too many"):
        names(with_header(with_sections(content, size=1 << 60), shnum=0))


@pytest.mark.parametrize(
    "changes",
    [{"size": 1 << 60}, {"offset": 1 << 62}, {"size": 1 << 34}, {"entsize": 7}, {"link": 0xFFFF}],
)
def test_sections_that_do_not_fit(content: bytes, changes: dict[str, int]) -> None:
    with pytest.raises(UnusableElf):
        names(with_sections(content, **changes))


def test_names_without_end(content: bytes) -> None:
    """Of a file of 4 TiB without a byte of 0."""
    head = with_header(content, shoff=EHDR.size, shnum=4000)
    section = SHDR.pack(1, 3, 0, 0, 1 << 30, 1 << 40, 0, 0, 1, 0)

    def read(offset: int, n_bytes: int) -> bytes:
        begin = head[: EHDR.size] + section * 4000
        return begin[offset : offset + n_bytes] if offset < len(begin) else b"x" * n_bytes

    with pytest.raises(UnusableElf):
        ElfFile(read, 1 << 42)


@pytest.mark.parametrize("beginning", [b"\x7fELF\1\1\1", b"\x7fELF\2\2\1", b"MZ", b""])
def test_files_of_others(content: bytes, beginning: bytes) -> None:
    with pytest.raises(UnusableElf):
        opened(beginning + content[len(beginning) :] if beginning else b"")


def test_no_path_is_followed_out_of_a_debug_link() -> None:
    """A link names a file, never a place."""
    asked: list[str] = []

    class Files:
        def open_other(self, path: str) -> None:
            asked.append(path)

    stripped_symbols(Files(), "/usr/bin/x", "", DebugLink("../../etc/passwd", 0))
    assert asked == []
    stripped_symbols(Files(), "/usr/bin/x", "abcd", DebugLink("x.debug", 0))
    assert asked == [
        "/usr/lib/debug/.build-id/ab/cd.debug",
        "/usr/bin/x.debug",
        "/usr/bin/.debug/x.debug",
        "/usr/lib/debug/usr/bin/x.debug",
    ]


def test_the_name_that_a_library_is_loaded_by() -> None:
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line)
    content = Path(libc).read_bytes()
    elf = ElfFile(lambda offset, n_bytes: content[offset : offset + n_bytes], len(content))
    assert elf.soname() == "libc.so.6"
