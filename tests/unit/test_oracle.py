"""The oracle must find each way in which a checkpoint can be wrong."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.harness import Target, memory_target, page_tables_kb, stopped
from tests.oracle import PAGE_BYTES, SCANNED_BYTES, ProcessMemory, compare_view, parse_maps, read_maps

pytestmark = pytest.mark.usefixtures("targets")

RESERVED_PAGES = 2048


@dataclass(frozen=True)
class Range:
    start_addr: int
    end_addr: int


@dataclass(frozen=True)
class Recorded(Range):
    perms: str


class TrueView:
    """A view that tells the truth about a stopped process, until a test changes it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._whole: list[tuple[int, int]] = []
        self.vmas: list[Recorded] = []
        self.unreadable: list[Range] = []
        self.pages: dict[int, bytes | None] = {}
        """Pages that differ from the truth; None: absent."""
        for one in read_maps(pid):
            if one.is_exempt:
                continue
            self.vmas.append(Recorded(one.start_addr, one.end_addr, one.perms))
            if one.inode != 0 and not one.has_file:
                self._whole.append((one.start_addr, one.end_addr))

    @property
    def process(self) -> TrueView:
        return self

    def chunks(
        self, start_addr: int, end_addr: int, max_bytes: int = mmap.PAGESIZE
    ) -> Iterator[tuple[int, int, bytes | None]]:
        with ProcessMemory(self._pid) as memory:
            at = start_addr
            for start, end in list(self._present(memory, start_addr, end_addr)):
                if at < start:
                    yield from self._hole(at, start)
                for piece in range(start, end, max_bytes):
                    piece_end = min(piece + max_bytes, end)
                    content = memory.read(piece, piece_end)
                    yield from self._changed(piece, piece_end, content)
                at = end
            if at < end_addr:
                yield from self._hole(at, end_addr)

    def _present(self, memory: ProcessMemory, start: int, end: int) -> Iterator[tuple[int, int]]:
        if any(s <= start and end <= e for s, e in self._whole):
            yield start, end
            return
        for run_start, run_end, guard in memory.populated(start, end):
            if not guard:
                yield run_start, run_end

    def _hole(self, start: int, end: int) -> Iterator[tuple[int, int, bytes | None]]:
        return self._changed(start, end, None)

    def _changed(self, start: int, end: int, content: bytes | None) -> Iterator[tuple[int, int, bytes | None]]:
        at = start
        for addr in sorted(addr for addr in self.pages if start <= addr < end):
            yield at, addr, None if content is None else content[at - start : addr - start]
            yield addr, addr + PAGE_BYTES, self.pages[addr]
            at = addr + PAGE_BYTES
        if at < end:
            yield at, end, None if content is None else content[at - start :]


@pytest.fixture
def idle() -> Iterator[tuple[int, int]]:
    """(pid, address of 1 MiB of non-zero pages) of a stopped idle target."""
    with Target.spawn("idle", 2, 1, 0) as target:
        start = int(target.command("area").split()[1])
        with stopped(target.pid):
            yield target.pid, start


def flipped(page: bytes, offset: int) -> bytes:
    return page[:offset] + bytes([page[offset] ^ 1]) + page[offset + 1 :]


def content(pid: int, addr: int) -> bytes:
    with ProcessMemory(pid) as memory:
        page = memory.read(addr, addr + PAGE_BYTES)
    assert page is not None
    return page


def test_truth_is_equal(idle: tuple[int, int]) -> None:
    pid, _ = idle
    found = compare_view(pid, TrueView(pid))
    assert found.mismatches == []
    assert found.pages_compared > 256
    assert found.pages_skipped == 0


@pytest.mark.parametrize("offset", [0, 1234, PAGE_BYTES - 1])
def test_one_flipped_bit(idle: tuple[int, int], offset: int) -> None:
    pid, start = idle
    addr = start + 77 * PAGE_BYTES
    view = TrueView(pid)
    view.pages[addr] = flipped(content(pid, addr), offset)
    assert [where for where, _ in compare_view(pid, view).mismatches] == [addr + offset]
    assert compare_view(pid, view, [(addr + offset, addr + offset + 1)]).mismatches == []
    assert len(compare_view(pid, view, [(addr + offset + 1, addr + offset + 9)]).mismatches) == 1


def test_page_claimed_zero(idle: tuple[int, int]) -> None:
    pid, start = idle
    view = TrueView(pid)
    view.pages[start] = bytes(PAGE_BYTES)
    assert len(compare_view(pid, view).mismatches) == 1


def test_page_claimed_absent(idle: tuple[int, int]) -> None:
    pid, start = idle
    view = TrueView(pid)
    view.pages[start + 3 * PAGE_BYTES] = None
    ((_, why),) = compare_view(pid, view).mismatches
    assert "absent" in why


def test_data_where_the_process_has_a_hole(idle: tuple[int, int]) -> None:
    pid, _ = idle
    stack = next(one for one in read_maps(pid) if one.path == "[stack]")
    view = TrueView(pid)
    with ProcessMemory(pid) as memory:
        assert list(memory.populated(stack.start_addr, stack.start_addr + PAGE_BYTES)) == []
    view.pages[stack.start_addr] = bytes(PAGE_BYTES)
    assert compare_view(pid, view).mismatches == [], "zeros are no data"
    view.pages[stack.start_addr] = flipped(bytes(PAGE_BYTES), 5)
    ((where, why),) = compare_view(pid, view).mismatches
    assert where == stack.start_addr
    assert "hole" in why


def test_clean_file_page_flipped(idle: tuple[int, int]) -> None:
    pid, _ = idle
    text = next(one for one in read_maps(pid) if one.perms == "r-xp" and one.has_file)
    view = TrueView(pid)
    view.pages[text.start_addr] = flipped(content(pid, text.start_addr), 9)
    assert len(compare_view(pid, view).mismatches) == 1


def test_changed_page_of_a_private_file_claimed_absent(idle: tuple[int, int]) -> None:
    pid, _ = idle
    data = next(one for one in read_maps(pid) if one.perms == "rw-p" and one.has_file)
    view = TrueView(pid)
    for addr in range(data.start_addr, data.end_addr, PAGE_BYTES):
        view.pages[addr] = None
    assert len(compare_view(pid, view).mismatches) >= 1


def test_missing_vma(idle: tuple[int, int]) -> None:
    pid, start = idle
    view = TrueView(pid)
    view.vmas = [vma for vma in view.vmas if not vma.start_addr <= start < vma.end_addr]
    ((_, why),) = compare_view(pid, view).mismatches
    assert "nothing in the checkpoint" in why


def test_vma_that_is_not_there(idle: tuple[int, int]) -> None:
    pid, _ = idle
    view = TrueView(pid)
    view.vmas.append(Recorded(0x10000, 0x12000, "rw-p"))
    ((_, why),) = compare_view(pid, view).mismatches
    assert "is nothing here" in why


def test_wrong_permissions(idle: tuple[int, int]) -> None:
    pid, start = idle
    view = TrueView(pid)
    view.vmas = [replace(vma, perms="r--p") if vma.start_addr <= start < vma.end_addr else vma for vma in view.vmas]
    ((_, why),) = compare_view(pid, view).mismatches
    assert "is rw-p here, r--p in the checkpoint" in why


def test_vma_split_in_two_is_the_same(idle: tuple[int, int]) -> None:
    pid, start = idle
    view = TrueView(pid)
    (whole,) = [vma for vma in view.vmas if vma.start_addr <= start < vma.end_addr]
    middle = whole.start_addr + PAGE_BYTES
    view.vmas.remove(whole)
    view.vmas += [replace(whole, end_addr=middle), replace(whole, start_addr=middle)]
    assert compare_view(pid, view).mismatches == []


def test_named_gap_is_skipped_and_counted(idle: tuple[int, int]) -> None:
    pid, start = idle
    view = TrueView(pid)
    for page in range(4):
        view.pages[start + page * PAGE_BYTES] = None
    assert len(compare_view(pid, view).mismatches) == 4
    view.unreadable.append(Range(start, start + 4 * PAGE_BYTES))
    found = compare_view(pid, view)
    assert found.mismatches == []
    assert found.pages_skipped == 4


def test_every_kind_of_memory(tmp_path: Path) -> None:
    """Holes of 64 GiB stay holes, guard pages and pages past the end of a file are skipped."""
    with memory_target(tmp_path) as target:
        target.command("zap 500")
        with stopped(target.pid):
            before_kb = page_tables_kb(target.pid)
            found = compare_view(target.pid, TrueView(target.pid))
            assert found.mismatches == []
            assert 4096 < found.pages_compared < (1 << 30) // PAGE_BYTES, "holes are no pages"
            assert found.pages_skipped <= 4 + 2
            assert page_tables_kb(target.pid) - before_kb <= 64, "looking must not populate"
        target.check()


def test_clean_page_of_a_deleted_file_claimed_absent(tmp_path: Path) -> None:
    """There is no file to have it from."""
    with Target.spawn("kinds", "private-deleted-file", tmp_path / "file") as target, stopped(target.pid):
        (mapping,) = [one for one in read_maps(target.pid) if one.path == f"{tmp_path}/file (deleted)"]
        view = TrueView(target.pid)
        assert compare_view(target.pid, view).mismatches == []
        clean = mapping.start_addr + PAGE_BYTES
        view.pages[clean] = None
        assert [addr - clean < PAGE_BYTES for addr, _ in compare_view(target.pid, view).mismatches] == [True]


def test_holes_of_terabytes_are_passed_over(idle: tuple[int, int]) -> None:
    """What PAGEMAP_SCAN calls no hole is what pagemap says, page by page, in one scan or many."""
    pid, _ = idle
    maps = [one for one in read_maps(pid) if one.path != "[vsyscall]"]
    with ProcessMemory(pid) as memory:
        scanned = [run for run in memory.populated(maps[0].start_addr, maps[-1].end_addr) if not run[2]]
        one_by_one = [run for one in maps for run in memory.populated(one.start_addr, one.end_addr) if not run[2]]
        assert maps[-1].end_addr - maps[0].start_addr >= SCANNED_BYTES
    assert len(scanned) > 3
    assert pages_of(scanned) == pages_of(one_by_one)


def test_more_regions_than_one_scan_returns() -> None:
    with Target.spawn("kinds", "reservation") as target, stopped(target.pid):
        (reserved,) = [one for one in read_maps(target.pid) if one.end_addr - one.start_addr >= 16 << 40]
        before_kb = page_tables_kb(target.pid)
        with ProcessMemory(target.pid) as memory:
            found = list(memory.populated(reserved.start_addr, reserved.end_addr))
        stride = (16 << 40) // len(found)
        assert [start for start, _, _ in found] == [reserved.start_addr + i * stride for i in range(len(found))]
        assert len(found) == RESERVED_PAGES
        assert page_tables_kb(target.pid) == before_kb


def pages_of(runs: list[tuple[int, int, bool]]) -> set[int]:
    return {addr for start, end, _ in runs for addr in range(start, end, PAGE_BYTES)}


def test_memory_that_cannot_be_read_must_be_named(tmp_path: Path) -> None:
    with memory_target(tmp_path, "secret") as target, stopped(target.pid):
        (secret,) = [one for one in read_maps(target.pid) if "secretmem" in one.path]
        view = TrueView(target.pid)
        assert len(compare_view(target.pid, view).mismatches) == 4
        view.unreadable.append(Range(secret.start_addr, secret.end_addr))
        assert compare_view(target.pid, view).mismatches == []


def test_parse_maps_keeps_blanks_in_paths() -> None:
    (one,) = parse_maps("7f00-8000 rw-s 00001000 fe:00 12    /tmp/a b (deleted)\n")
    assert (one.start_addr, one.end_addr, one.offset_bytes) == (0x7F00, 0x8000, 0x1000)
    assert (one.perms, one.inode, one.path) == ("rw-s", 12, "/tmp/a b (deleted)")
