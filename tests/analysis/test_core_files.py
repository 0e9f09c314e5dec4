"""Pages for cores from files: which are given, and that a file is the same from first to last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from analysis.files import corefiles
from analysis.files.corefiles import CoreFiles
from analysis.files.mappedfiles import MappedFiles
from formats.chain import Checkpoint, MemoryView
from formats.elfcore import CoreOptions, write_core
from formats.errors import StorageError
from formats.layout import PAGE_BYTES
from formats.manifest import Gap, MappedFile, Vma
from formats.roundwriter import RoundWriter
from tests.elfreader import Core
from tests.format.elffile import with_build_id
from tests.format.images import ImageRound, addr_of, fill_round, manifest_of, page_of, process_of, vma_of

ID = bytes(range(20))
ELF = with_build_id(ID) + bytes(range(256)) * 40  # two pages and a part of one


def mapping(start_page: int, n_pages: int, path: str, perms: str = "r-xp", offset_pages: int = 0) -> Vma:
    vma = vma_of(start_page, start_page + n_pages, "file", path)
    return replace(vma, inode=start_page + 1, perms=perms, offset_bytes=offset_pages * PAGE_BYTES)


class Sample:
    """A round of mappings of files below `root`, all of which are recorded with the build id of ELF."""

    def __init__(self, directory: Path, *vmas: Vma, image: ImageRound | None = None) -> None:
        self.root = directory / "root"
        self.path = directory / "checkpoint"
        image = replace(image or ImageRound({}), vmas=vmas)
        recorded = [
            MappedFile(path=vma.path, device=vma.device, inode=vma.inode, build_id=ID.hex()) for vma in image.vmas
        ]
        process = replace(process_of(image), mapped_files=recorded)
        writer = RoundWriter(self.path, 1)
        fill_round(writer, image)
        writer.commit(manifest_of(1, process, None))
        for vma in vmas:
            self.put(vma, ELF)

    def put(self, vma: Vma, content: bytes) -> None:
        path = self.root / vma.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def files(self, view: MemoryView, *, complete: bool = True, torn: bool = False) -> CoreFiles:
        manifest = Checkpoint.open(self.path).round().manifest
        found = MappedFiles(manifest, view, self.root)
        return CoreFiles(found, view.process, self.root, complete=complete, torn=torn)

    def available(self, vma: Vma, *, complete: bool = True, torn: bool = False) -> list[tuple[int, int]]:
        """In pages of the test's VMA."""
        with MemoryView(Checkpoint.open(self.path)) as view, self.files(view, complete=complete, torn=torn) as files:
            ranges = files.available(vma, vma.start_addr, vma.end_addr)
            return [((start - addr_of(0)) // PAGE_BYTES, (end - addr_of(0)) // PAGE_BYTES) for start, end in ranges]

    def core(self, out: Path) -> Core:
        with MemoryView(Checkpoint.open(self.path)) as view, self.files(view) as files:
            options = CoreOptions(torn=True)
            checkpoint = Checkpoint.open(self.path)
            write_core(checkpoint, None, None, out, options, lambda _done, _total: None, files)
        return Core(out)


def test_up_to_the_page_that_the_file_ends_in(tmp_path: Path) -> None:
    vma, later, behind = mapping(0, 8, "/a"), mapping(10, 8, "/b", "r--p", 2), mapping(20, 1, "/c", offset_pages=3)
    sample = Sample(tmp_path, vma, later, behind)
    assert sample.available(vma) == [(0, 3)]
    assert sample.available(later) == [(10, 11)]
    assert sample.available(behind) == []


def test_only_the_header_of_what_may_run(tmp_path: Path) -> None:
    vma, data, later = mapping(0, 8, "/a"), mapping(10, 8, "/b", "r--p"), mapping(20, 1, "/c", offset_pages=1)
    sample = Sample(tmp_path, vma, data, later)
    assert sample.available(vma, complete=False) == [(0, 1)]
    assert sample.available(data, complete=False) == []
    assert sample.available(later, complete=False) == []


@pytest.mark.parametrize("offset_bytes", [-PAGE_BYTES, 1 << 62, (1 << 64) - PAGE_BYTES])
def test_impossible_offsets(tmp_path: Path, offset_bytes: int) -> None:
    vma = replace(mapping(0, 8, "/a"), offset_bytes=offset_bytes)
    assert Sample(tmp_path, vma).available(vma) == []


def test_what_others_may_have_written_or_was_not_tracked_is_left_out(tmp_path: Path) -> None:
    shared, untracked = mapping(0, 8, "/a", "r-xs"), replace(mapping(10, 8, "/b"), tracked=False)
    sample = Sample(tmp_path, shared, untracked)
    assert sample.available(shared) == []
    assert sample.available(untracked, torn=True) == []
    assert sample.available(untracked) == [(10, 13)]


def test_the_core_has_the_image_first_then_the_file_and_nothing_that_was_unreadable(tmp_path: Path) -> None:
    vma = mapping(0, 8, "/a")
    gap = Gap(start_addr=addr_of(2), end_addr=addr_of(3), reason="device")
    sample = Sample(tmp_path, vma, image=ImageRound({1: page_of(1)}, unreadable=(gap,)))
    core = sample.core(tmp_path / "core")
    (held,) = [one for one in core.loads if one.file_bytes]
    assert (held.start_addr, held.end_addr) == (addr_of(0), addr_of(2))
    assert core.content(held) == ELF[:PAGE_BYTES] + page_of(1)


def test_behind_the_end_of_the_file_the_last_page_is_zero(tmp_path: Path) -> None:
    core = (sample := Sample(tmp_path, mapping(0, 8, "/a"))).core(tmp_path / "core")
    (held,) = [one for one in core.loads if one.file_bytes]
    assert core.content(held) == ELF + bytes(-len(ELF) % PAGE_BYTES)
    assert sample.root.is_dir()


def test_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corefiles, "_OPEN_FILES", 2)
    core = Sample(tmp_path, *(mapping(10 * n, 3, f"/{n}") for n in range(9))).core(tmp_path / "core")
    contents = [core.content(one) for one in core.loads]
    assert contents == [ELF + bytes(-len(ELF) % PAGE_BYTES)] * 9


@pytest.mark.parametrize("content", [ELF[:PAGE_BYTES], ELF + b"1", None])
def test_a_file_that_changes_meanwhile_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.setattr(corefiles, "_OPEN_FILES", 1)
    first, second = mapping(0, 3, "/a"), mapping(10, 3, "/b")
    sample = Sample(tmp_path, first, second)
    with MemoryView(Checkpoint.open(sample.path)) as view, sample.files(view) as files:
        assert list(files.available(first, first.start_addr, first.end_addr))
        assert list(files.available(second, second.start_addr, second.end_addr))
        if content is None:
            (sample.root / "a").unlink()
        else:
            sample.put(first, content)
        with pytest.raises(StorageError, match="changed while it was read"):
            files.read(first, addr_of(0), addr_of(3))


def test_one_that_shrinks_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    vma = mapping(0, 3, "/a")
    sample = Sample(tmp_path, vma)
    with MemoryView(Checkpoint.open(sample.path)) as view, sample.files(view) as files:
        assert list(files.available(vma, vma.start_addr, vma.end_addr))
        sample.put(vma, ELF[:PAGE_BYTES])
        with pytest.raises(StorageError, match="changed while it was read"):
            files.read(vma, addr_of(0), addr_of(3))
