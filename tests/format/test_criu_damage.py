"""Damaged and hostile images of CRIU's: refused with the exit code of the contract, in bounded time and memory."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.survey import survey
from formats.chain import MemoryView
from formats.criu.reading import directories, mappings, pagemap, tree
from formats.errors import ImageCorrupt, ImageVersionUnsupported, NotACheckpoint
from formats.opening import open_images
from tests import criuwriter as criu
from tests.criuwriter import PAGE_BYTES, CriuImages, Mark, Task, Vma, addr_of, entry, framed, message, write_chain

PID = 100
PAGE = b"p" * PAGE_BYTES
PAGEMAP = f"pagemap-{PID}.img"
HEAD = message((1, 1))

Spoil = Callable[[Path], None]


def images() -> CriuImages:
    vmas = (Vma(0, 8), criu.shared(8, 10, 55))
    return CriuImages([Task(PID, vmas, {0: PAGE, 1: PAGE, 4: PAGE}, tids=(PID + 1,))], shared={55: {1: PAGE}})


def read_everything(path: Path) -> None:
    """All that commands would: records of every round, and all memory."""
    opened = open_images(path)
    for info in opened.rounds:
        survey(opened, info.manifest.processes[0])
        for process in info.manifest.processes:
            with MemoryView(opened, info.number, process.pid) as view:
                for vma in view.vmas:
                    for _ in view.chunks(vma.start_addr, min(vma.end_addr, vma.start_addr + 16 * PAGE_BYTES)):
                        pass


def replaced(name: str, kind: str, *messages: bytes) -> Spoil:
    def spoil(path: Path) -> None:
        (path / name).write_bytes(framed(kind, messages))

    return spoil


def cut(name: str, n_bytes: int) -> Spoil:
    return lambda path: os.truncate(path / name, (path / name).stat().st_size - n_bytes)


def entries(*items: bytes) -> Spoil:
    return replaced(PAGEMAP, "pagemap", HEAD, *items)


def vmas(*items: Vma) -> Spoil:
    return replaced(f"mm-{PID}.img", "mm", Task(PID, items).memory())


def huge_record(path: Path) -> None:
    (path / "pstree.img").write_bytes(framed("pstree", []) + struct.pack("<I", 0xFFFF_FFF0) + b"x")


def linked(name: str) -> Spoil:
    def spoil(path: Path) -> None:
        (path / name).rename(path / "elsewhere")
        (path / name).symlink_to("elsewhere")

    return spoil


def made_fifo(name: str) -> Spoil:
    def spoil(path: Path) -> None:
        (path / name).unlink()
        os.mkfifo(path / name)

    return spoil


def removed(name: str) -> Spoil:
    return lambda path: (path / name).unlink()


TREE_TWICE = (Task(PID).tree_entry(), Task(PID + 5, tids=(PID,)).tree_entry())
DAMAGE: dict[str, tuple[Spoil, str]] = {
    "another magic": (replaced("pstree.img", "mm", Task(PID).tree_entry()), "does not begin"),
    "a file that ends in a message": (cut(PAGEMAP, 3), "in the middle"),
    "a file that ends in a size": (lambda path: os.truncate(path / PAGEMAP, 10), "in the middle"),
    "a file of pages that is short": (cut("pages-1.img", 1), "names pages up to byte"),
    "no file of pages": (removed("pages-1.img"), "is missing"),
    "no pagemap": (removed(PAGEMAP), "is missing"),
    "no core of a thread": (removed(f"core-{PID + 1}.img"), "is missing"),
    "no mappings": (removed(f"mm-{PID}.img"), "is missing"),
    "a link": (linked(PAGEMAP), "not a regular file"),
    "a FIFO": (made_fifo("pages-1.img"), "not a regular file"),
    "a huge record": (huge_record, "more than can be"),
    "no head": (replaced(PAGEMAP, "pagemap"), "a message is due"),
    "an empty inventory": (replaced("inventory.img", "inventory"), "a message is due"),
    "no process": (replaced("pstree.img", "pstree"), "no process"),
    "a thread twice": (replaced("pstree.img", "pstree", *TREE_TWICE), "twice"),
    "pid 0": (replaced("pstree.img", "pstree", Task(0).tree_entry()), "thread 0"),
    "no page": (entries(entry(addr_of(0), 0, criu.PRESENT)), "whole pages"),
    "half a page": (entries(entry(addr_of(0) + 8, 1, criu.PRESENT)), "whole pages"),
    "overlapping entries": (entries(entry(addr_of(0), 2, 4), entry(addr_of(1), 1, 4)), "begins before"),
    "entries out of order": (entries(entry(addr_of(4), 1, 4), entry(addr_of(1), 1, 4)), "begins before"),
    "more pages than there is memory": (entries(entry(addr_of(0), 1 << 60, criu.PRESENT)), "no memory can be"),
    "here and in the parent": (entries(entry(addr_of(0), 1, criu.PRESENT | criu.IN_PARENT)), "and in the parent"),
    "in a parent that is none": (entries(entry(addr_of(0), 1, criu.IN_PARENT)), "refers to its parent round"),
    "more pages than the file has": (entries(entry(addr_of(0), 1 << 20, criu.PRESENT)), "names pages up to byte"),
    "a mapping of nothing": (vmas(Vma(4, 4)), "out of order"),
    "mappings that overlap": (vmas(Vma(0, 4), Vma(3, 5)), "out of order"),
    "an impossible offset": (vmas(criu.shared(0, 1, 55, 1 << 51)), "impossible offset"),
}


@pytest.mark.parametrize(("spoil", "problem"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused(tmp_path: Path, spoil: Spoil, problem: str) -> None:
    path = images().write(tmp_path / "dump")
    read_everything(path)
    spoil(path)
    with pytest.raises(ImageCorrupt, match=problem) as caught:
        read_everything(path)
    assert caught.value.exit_code == 20


UNSUPPORTED: dict[str, Spoil] = {
    "compressed pages": entries(entry(addr_of(0), 1, criu.PRESENT, (6, 100))),
    "a flag of later versions": entries(entry(addr_of(0), 1, criu.PRESENT | 1 << 3)),
    "images of another version": replaced("inventory.img", "inventory", message((1, 1))),
    "a core without credentials": replaced(
        f"core-{PID}.img",
        "core",
        message(
            (1, 1),
            (2, criu.x86_thread(PID)),
            (3, message((1, 1), (2, 0), (3, 0), (4, 0), (5, 0), (6, "old"))),
            (5, message((1, 0), (2, 0))),
        ),
    ),
}


@pytest.mark.parametrize("spoil", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_other_versions_are_refused(tmp_path: Path, spoil: Spoil) -> None:
    path = images().write(tmp_path / "dump")
    spoil(path)
    with pytest.raises(ImageVersionUnsupported) as caught:
        read_everything(path)
    assert caught.value.exit_code == 21


def test_the_parent_has_no_such_page(tmp_path: Path) -> None:
    first = CriuImages(running={PID: {0: PAGE}})
    second = CriuImages([Task(PID, pages={0: Mark.PARENT, 1: Mark.PARENT})])
    opened = open_images(write_chain(tmp_path, first, second))
    with MemoryView(opened) as view, pytest.raises(ImageCorrupt, match=f"{addr_of(1):#x}.*round 1"):
        view.read(addr_of(0), 2 * PAGE_BYTES)


@pytest.mark.parametrize("target", ["parent", ".", "../dump", "../other"])
def test_parents_in_a_circle(tmp_path: Path, target: str) -> None:
    images().write(tmp_path / "dump", parent=target)
    images().write(tmp_path / "other", parent="../dump")
    with pytest.raises(ImageCorrupt, match="'parent' leads"):
        open_images(tmp_path / "dump")


def test_a_parent_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = images().write(tmp_path / "dump", parent="../file")
    with pytest.raises(ImageCorrupt, match="no directory"):
        open_images(path)


def test_a_chain_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "MAX_DIRECTORIES", 3)
    rounds = [CriuImages(running={PID: {0: PAGE}}) for _ in range(4)]
    path = write_chain(tmp_path, *rounds)
    assert open_images(tmp_path / "d3").numbers == [1, 2, 3]
    with pytest.raises(ImageCorrupt, match="more than 3"):
        open_images(path)


def test_a_parent_may_be_anywhere(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    CriuImages(running={PID: {0: PAGE}}).write(tmp_path / "far" / "first")
    task = Task(PID, (Vma(0, 1),), {0: Mark.PARENT})
    path = CriuImages([task]).write(tmp_path / "last", parent=str(tmp_path / "far" / "first"))
    with MemoryView(open_images(path)) as view:
        assert view.read(addr_of(0), PAGE_BYTES) == PAGE


@pytest.mark.parametrize(
    ("module", "name", "limit", "problem"),
    [
        (pagemap, "MAX_ENTRIES", 1, "more than 1 entries"),
        (mappings, "MAX_VMAS", 1, "more mappings than the 1 "),
        (tree, "MAX_RECORDS", 1, "more than 1 "),
        (tree, "MAX_STATE_BYTES", 1000, "more than 1000 bytes of state"),
    ],
)
def test_counts_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str, limit: int, problem: str
) -> None:
    path = images().write(tmp_path / "dump")
    monkeypatch.setattr(module, name, limit)
    with pytest.raises(ImageCorrupt, match=problem):
        read_everything(path)


def test_other_directories_are_no_images(tmp_path: Path) -> None:
    for name in ("pagemap-0.img", "pagemap-x.img", "pagemap-99999999999.img", "inventory"):
        (tmp_path / name).touch()
    with pytest.raises(NotACheckpoint):
        open_images(tmp_path)


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_bytes_there_are(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Damage anywhere is either harmless or one of the errors that readers tell."""
    path = images().write(tmp_path_factory.mktemp("damage") / "dump")
    name = data.draw(st.sampled_from(sorted(item.name for item in path.iterdir())))
    content = bytearray((path / name).read_bytes())
    match data.draw(st.sampled_from(["change", "cut", "insert"])):
        case "change":
            for _ in range(data.draw(st.integers(1, 4))):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        case "cut":
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        case "insert":
            position = data.draw(st.integers(0, len(content)))
            content[position:position] = data.draw(st.binary(max_size=12))
    (path / name).write_bytes(content)
    with suppress(ImageCorrupt, ImageVersionUnsupported):
        read_everything(path)
