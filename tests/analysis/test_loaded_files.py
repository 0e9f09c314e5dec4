"""Where a file was loaded, by its mappings: once, twice, in part, or mapped to be read."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.files.mappedfiles import MappedFiles
from analysis.places import Places
from analysis.symbols.elffile import ElfFile
from analysis.symbols.symbols import Symbols
from formats.buildid import build_id
from formats.chain import Checkpoint, MemoryView
from formats.layout import PAGE_BYTES
from formats.manifest import MappedFile, Vma
from tests.format.images import BASE_ADDR, ImageRound, vma_of, write_chain

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
INODE = 5
TWICE_ADDR = BASE_ADDR + (1 << 30)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("library")
    source, library = directory / "x.c", directory / "libx.so"
    source.write_text("int number = 1; int zeros[5000]; int *place(void) { return &number; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,--build-id=sha1", "-o", str(library), str(source)], check=True)
    return library


def elf_of(path: Path) -> ElfFile:
    content = path.read_bytes()
    return ElfFile(lambda offset, n_bytes: content[offset : offset + n_bytes], len(content))


def mapping(path: Path, start_addr: int, n_bytes: int, offset_bytes: int) -> Vma:
    start_addr -= start_addr % PAGE_BYTES
    return replace(
        vma_of(0, 1, "file", str(path)),
        start_addr=start_addr,
        end_addr=start_addr + n_bytes + -n_bytes % PAGE_BYTES,
        offset_bytes=offset_bytes // PAGE_BYTES * PAGE_BYTES,
        inode=INODE,
        perms="r--p",
    )


def loaded(path: Path, base_addr: int) -> list[Vma]:
    """The mappings that the loader makes, with memory for .bss behind them."""
    vmas = [
        mapping(path, base_addr + one.addr, one.addr % PAGE_BYTES + one.file_bytes, one.offset_bytes)
        for one in elf_of(path).loads
    ]
    end_addr = base_addr + max(one.addr + one.memory_bytes for one in elf_of(path).loads)
    behind = replace(vma_of(0, 1), start_addr=vmas[-1].end_addr, end_addr=end_addr + -end_addr % PAGE_BYTES)
    return [*vmas, behind]


def whole(path: Path, start_addr: int) -> Vma:
    """A mapping of all of the file, to be read."""
    return mapping(path, start_addr, path.stat().st_size, 0)


@contextmanager
def places_of(checkpoint: Path, path: Path, vmas: Sequence[Vma]) -> Iterator[tuple[Places, Symbols]]:
    write_chain(checkpoint, ImageRound({}, tuple(vmas)))
    images = Checkpoint.open(checkpoint)
    content = path.read_bytes()
    identity = build_id(lambda offset, n_bytes: content[offset : offset + n_bytes])
    with MemoryView(images) as view:
        recorded = MappedFile(path=str(path), device="00:00", inode=INODE, build_id=identity)
        view.process.mapped_files.append(recorded)
        symbols = Symbols(view, MappedFiles(images.round().manifest, view), lambda _, message: pytest.fail(message))
        yield Places(view.vmas, symbols), symbols


def linked_addr(path: Path, name: str) -> int:
    table = elf_of(path).symbol_table()
    assert table is not None
    (symbol,) = table.named(name)
    return symbol.value


def addrs(symbols: Symbols, places: Places, name: str) -> set[int]:
    return {one.start_addr for one in symbols.named(name, places.vmas)}


def test_loaded_and_mapped_to_be_read(library: Path, checkpoint: Path) -> None:
    vmas = [*loaded(library, BASE_ADDR), whole(library, TWICE_ADDR)]
    with places_of(checkpoint, library, vmas) as (places, symbols):
        for name in ("number", "zeros", "place"):
            addr = BASE_ADDR + linked_addr(library, name)
            assert addrs(symbols, places, name) == {addr}
            assert places.name(addr + 2) == f"libx.so:{name}+0x2"
        assert places.name(BASE_ADDR + linked_addr(library, "zeros") + 19_999) == "libx.so:zeros+0x4e1f"
        assert ":" not in places.name(TWICE_ADDR + linked_addr(library, "place"))


def test_loaded_twice(library: Path, checkpoint: Path) -> None:
    vmas = [*loaded(library, BASE_ADDR), *loaded(library, TWICE_ADDR)]
    with places_of(checkpoint, library, vmas) as (places, symbols):
        for name in ("number", "zeros"):
            expected = {base_addr + linked_addr(library, name) for base_addr in (BASE_ADDR, TWICE_ADDR)}
            assert addrs(symbols, places, name) == expected
            assert {places.name(addr) for addr in expected} == {f"libx.so:{name}"}


def test_code_that_was_moved_to_other_pages(library: Path, checkpoint: Path) -> None:
    """As programs do that want huge pages for their code."""
    vmas = loaded(library, BASE_ADDR)
    vmas[1] = replace(vma_of(0, 1), start_addr=vmas[1].start_addr, end_addr=vmas[1].end_addr)
    with places_of(checkpoint, library, vmas) as (places, _):
        assert places.name(BASE_ADDR + linked_addr(library, "place")) == "libx.so:place"


def test_only_mapped_to_be_read(library: Path, checkpoint: Path) -> None:
    with places_of(checkpoint, library, [whole(library, BASE_ADDR)]) as (places, symbols):
        assert addrs(symbols, places, "number") == set()
        assert places.name(BASE_ADDR + 0x10) == "libx.so+0x10"


def test_no_elf_file(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"no elf file\n")
    with places_of(checkpoint, path, [whole(path, BASE_ADDR)]) as (places, symbols):
        assert places.name(BASE_ADDR) == "text"
        assert symbols.named("main", places.vmas) == []
