"""What the kernel does that the tracking of writes is built on: if it did otherwise, dumps could be stale.

docs/kernel.md has a table of what is relied on and which test shows it; most stand here, the others beside what they
serve.
"""

from __future__ import annotations

import ast
import errno
import mmap
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from dumper.kernel import uffd
from dumper.kernel.pages import Scanner, Span, SpanTable
from dumper.kernel.probes import PAGE_IS_GUARD, knows_category
from dumper.kernel.runs import RunList
from tests.harness import REPO, poll_until
from tests.kernel.child import (
    ANON,
    MADV_GUARD_INSTALL,
    MADV_PAGEOUT,
    MAP_HUGETLB,
    MREMAP_DONTUNMAP,
    MREMAP_MAYMOVE,
    PAGE,
    PROT_NONE,
    PROT_RW,
    Child,
)

WPALLOWED, WRITTEN, FILE, PRESENT, SWAPPED, PFNZERO, HUGE = (1 << bit for bit in range(7))  # linux/fs.h
N_PAGES = 16
HUGE_PAGES_PER = 512  # small pages in a huge one
MADV_FREE, MADV_HUGEPAGE = 8, 14
UNKNOWN_CATEGORY = 1 << 40


class Tracked:
    """Pages of a child under write tracking: what PAGEMAP_SCAN says of them, by number."""

    def __init__(self, child: Child, addr: int, n_pages: int = N_PAGES) -> None:
        self.addr = addr
        self._end_addr = addr + n_pages * PAGE
        self._scanner = Scanner(child.pagemap_fd)

    def of(self, category: int) -> list[int]:
        """Numbers of the pages that have all bits of the category."""
        ranges = self._scanner.ranges(self.addr, self._end_addr, category)
        return [page for start, end in ranges for page in range((start - self.addr) // PAGE, (end - self.addr) // PAGE)]

    def arm(self) -> None:
        """Write-protects what has content, as a round does."""
        nothing, found = RunList(1), RunList(1 << 10)
        self._scanner.start(SpanTable([Span(self.addr, self._end_addr)]), nothing, nothing)
        self._scanner.all_runs(found, reset=True)


@pytest.fixture
def pages(child: Child) -> Tracked:
    """Small pages, of which the first eight have content; registered and armed."""
    addr = child.map(N_PAGES)
    child.touch(addr, range(8))
    child.track(addr, N_PAGES)
    tracked = Tracked(child, addr)
    tracked.arm()
    return tracked


# ---- registering and arming ----


def test_everything_counts_as_written_until_it_is_armed(child: Child) -> None:
    addr = child.map(N_PAGES)
    child.touch(addr, [1, 3])
    child.track(addr, N_PAGES)
    tracked = Tracked(child, addr)
    assert tracked.of(WRITTEN) == list(range(N_PAGES)), "holes, too"
    assert tracked.of(PRESENT) == [1, 3]
    assert tracked.of(WPALLOWED) == list(range(N_PAGES))


def test_holes_stay_holes_and_count_as_written(pages: Tracked) -> None:
    assert pages.of(PRESENT) == list(range(8))
    assert pages.of(WRITTEN) == list(range(8, N_PAGES))
    assert pages.of(SWAPPED) == [], "no markers"


def test_the_first_touch_of_a_hole_shows(child: Child, pages: Tracked) -> None:
    child.touch(pages.addr, [9])
    child.read(pages.addr, [10])
    assert pages.of(WRITTEN | PRESENT) == [9, 10]
    assert pages.of(PFNZERO) == [10]


def test_another_userfaultfd_is_refused(child: Child, pages: Tracked) -> None:
    other = child.take_fd(child.userfaultfd())
    uffd.enable(other)
    span = SpanTable([Span(pages.addr, pages.addr + PAGE)])
    assert uffd.register(other, child.pagemap_fd, span) == [errno.EBUSY]
    child.touch(pages.addr, [2])
    assert pages.of(WRITTEN | PRESENT) == [2], "the first one goes on"


def test_a_userfaultfd_that_was_set_up_before_says_so(child: Child, pages: Tracked) -> None:
    assert pages.of(WPALLOWED)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
        uffd.enable(child.uffd)
    assert caught.value.errno == errno.EINVAL


def test_any_copy_of_the_userfaultfd_keeps_the_tracking_and_the_last_one_ends_it(child: Child, pages: Tracked) -> None:
    copy = os.dup(child.uffd)
    os.close(child.uffd)
    child.close_descriptor()
    child.touch(pages.addr, [5])
    assert pages.of(WRITTEN | PRESENT) == [5]
    os.close(copy)
    os.dup2(child.pagemap_fd, child.uffd)  # for the fixture to close
    poll_until(lambda: pages.of(WPALLOWED) == [], 10, "the registration to end")
    assert pages.of(WRITTEN | PRESENT) == list(range(8))


def test_special_mappings_cannot_be_registered(child: Child, pages: Tracked) -> None:
    assert pages.of(WPALLOWED)
    maps = Path(f"/proc/{child.pid}/maps").read_text()
    special = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*\[(?:vdso|vvar)\]$", maps, re.MULTILINE)
    spans = SpanTable([Span(int(start, 16), int(end, 16)) for start, end in special])
    assert uffd.register(child.uffd, child.pagemap_fd, spans) == [errno.EINVAL] * len(special)
    assert special


def test_an_exec_ends_it(child: Child, pages: Tracked) -> None:
    span = SpanTable([Span(pages.addr, pages.addr + PAGE)])
    child.send("exec", "/bin/sleep", "60")

    def has_ended() -> bool:
        return uffd.register(child.uffd, child.pagemap_fd, span) == [errno.ENOMEM]

    poll_until(has_ended, 10, "the exec")
    with pytest.raises(ProcessLookupError):
        pages.of(WRITTEN)


# ---- what shows as written ----


WRITES: dict[str, Callable[[Child, int], object]] = {
    "instruction": lambda child, addr: child.touch(addr, [3]),
    "read(2)": lambda child, addr: child.read_into(addr, 3),
    "process_vm_writev(2)": lambda child, addr: child.write_from_outside(addr, 3),
    "/proc/PID/mem": lambda child, addr: _write_mem(child.pid, addr + 3 * PAGE),
}


def _write_mem(pid: int, addr: int) -> None:
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as mem:
        mem.seek(addr)
        mem.write(b"x")


@pytest.mark.parametrize("write", WRITES)
def test_writes_of_every_kind_show(child: Child, pages: Tracked, write: str) -> None:
    WRITES[write](child, pages.addr)
    assert pages.of(WRITTEN | PRESENT) == [3]


def test_what_is_dropped_becomes_a_hole(child: Child, pages: Tracked) -> None:
    child.advise(pages.addr, range(2, 4), mmap.MADV_DONTNEED)
    assert pages.of(PRESENT) == [0, 1, 4, 5, 6, 7]
    assert {2, 3} <= set(pages.of(WRITTEN))
    assert pages.of(SWAPPED) == [], "nothing that looks like content"


def test_pages_to_be_freed_keep_their_state(child: Child, pages: Tracked) -> None:
    child.advise(pages.addr, range(2, 5), MADV_FREE)
    child.touch(pages.addr, [3])
    assert pages.of(WRITTEN | PRESENT) == [3]


def test_permissions_change_nothing(child: Child, pages: Tracked) -> None:
    child.touch(pages.addr, [1])
    child.protect(pages.addr, range(4), PROT_NONE)
    child.protect(pages.addr, range(2, 6), mmap.PROT_READ)
    child.protect(pages.addr, range(8), PROT_RW)
    assert pages.of(WRITTEN | PRESENT) == [1]
    child.touch(pages.addr, [2])
    assert pages.of(WRITTEN | PRESENT) == [1, 2]


def test_guards_are_told_from_content(child: Child, pages: Tracked) -> None:
    if not knows_category(PAGE_IS_GUARD):
        pytest.skip("this kernel has no category for guard pages")
    child.advise(pages.addr, range(2, 4), MADV_GUARD_INSTALL)
    assert pages.of(PAGE_IS_GUARD) == [2, 3]
    with pytest.raises(OSError, match=r".*"):
        os.pread(child.mem_fd, PAGE, pages.addr + 2 * PAGE)


def test_a_category_that_the_kernel_does_not_know_is_refused() -> None:
    assert not knows_category(UNKNOWN_CATEGORY)


@pytest.mark.usefixtures("swap")
def test_swap_changes_nothing(child: Child, pages: Tracked) -> None:
    child.touch(pages.addr, [1])

    def is_out() -> bool:
        child.advise(pages.addr, range(8), MADV_PAGEOUT)
        return len(pages.of(SWAPPED)) == 8

    poll_until(is_out, 10, "the pages to be swapped out")
    assert pages.of(WRITTEN | SWAPPED) == [1]
    child.read(pages.addr, range(4))
    assert pages.of(WRITTEN | PRESENT) == [1]
    child.touch(pages.addr, [2, 6])
    assert pages.of(WRITTEN | PRESENT) == [1, 2, 6]


# ---- mappings that change ----


def test_a_moved_mapping_is_not_registered_and_all_of_it_written(child: Child, pages: Tracked) -> None:
    to_addr = child.map(2 * N_PAGES)
    moved = child.remap(pages.addr, N_PAGES, 2 * N_PAGES, MREMAP_MAYMOVE)
    if moved == pages.addr:
        pytest.skip("it grew in its place")
    assert moved != to_addr
    tracked = Tracked(child, moved, N_PAGES)
    assert tracked.of(WPALLOWED) == []
    assert tracked.of(WRITTEN | PRESENT) == list(range(8))


def test_what_a_move_leaves_behind_is_empty(child: Child, pages: Tracked) -> None:
    child.remap(pages.addr, N_PAGES, N_PAGES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP)
    assert pages.of(PRESENT) == []
    assert pages.of(SWAPPED) == []
    assert pages.of(WRITTEN) == list(range(N_PAGES))


def test_memory_mapped_over_is_not_registered(child: Child, pages: Tracked) -> None:
    child.map(2, at=pages.addr + 2 * PAGE)
    child.touch(pages.addr, [2])
    assert {2, 3}.isdisjoint(pages.of(WPALLOWED))
    child.track(pages.addr, 2)
    assert pages.of(WRITTEN | PRESENT) == [2], "the rest keeps its state"


# ---- huge pages and files ----


def test_a_huge_page_is_armed_whole_and_split_by_the_first_write(child: Child) -> None:
    raw = child.map_huge(3 * HUGE_PAGES_PER)
    addr = -(-raw // (HUGE_PAGES_PER * PAGE)) * HUGE_PAGES_PER * PAGE
    child.advise(addr, range(HUGE_PAGES_PER), MADV_HUGEPAGE)
    child.touch(addr, [0])
    child.track(addr, HUGE_PAGES_PER)
    tracked = Tracked(child, addr, HUGE_PAGES_PER)
    if tracked.of(HUGE) != list(range(HUGE_PAGES_PER)):
        pytest.skip("no huge page was to be had")
    tracked.arm()
    assert tracked.of(WRITTEN) == []
    assert len(tracked.of(HUGE)) == HUGE_PAGES_PER
    child.touch(addr, [77])
    assert tracked.of(WRITTEN) == [77]
    assert tracked.of(HUGE) == []


@pytest.mark.usefixtures("huge_pages")
def test_pages_of_hugetlbfs_are_whole_and_their_holes_no_content(child: Child) -> None:
    addr = child.map_huge(2 * HUGE_PAGES_PER, ANON | MAP_HUGETLB)
    child.touch(addr, [0])
    child.track(addr, 2 * HUGE_PAGES_PER)
    tracked = Tracked(child, addr, 2 * HUGE_PAGES_PER)
    tracked.arm()
    assert tracked.of(PRESENT) == list(range(HUGE_PAGES_PER))
    assert not {*tracked.of(WRITTEN | PRESENT)}
    child.touch(addr, [5])
    assert tracked.of(WRITTEN | PRESENT) == list(range(HUGE_PAGES_PER))


def test_page_cache_is_told_from_private_copies(child: Child, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"f" * N_PAGES * PAGE)
    addr = child.map(N_PAGES, mmap.MAP_PRIVATE, child.open(str(path)))
    child.track(addr, N_PAGES)
    child.read(addr, range(6))
    child.touch(addr, [2])
    tracked = Tracked(child, addr)
    assert 2 in tracked.of(PRESENT)
    assert 2 not in tracked.of(FILE | PRESENT)
    assert {0, 1, 3, 4, 5} <= set(tracked.of(FILE | PRESENT))


def test_writes_to_shared_memory_by_another_way_do_not_show(child: Child) -> None:
    """Why it is taken in full in the freeze, and never tracked."""
    fd = child.memfd()
    here = child.take_fd(fd)
    os.truncate(here, N_PAGES * PAGE)
    addr = child.map(N_PAGES, mmap.MAP_SHARED, fd)
    child.touch(addr, range(8))
    child.track(addr, N_PAGES)
    tracked = Tracked(child, addr)
    tracked.arm()
    os.pwrite(here, b"other", 3 * PAGE)
    assert tracked.of(WRITTEN | PRESENT) == []
    assert child.read(addr, [3])[0].startswith(b"other")


def test_looking_for_pages_makes_none(child: Child, pages: Tracked) -> None:
    """Reading a hole of shared memory would allocate it: what is not present is not read."""
    fd = child.memfd()
    here = child.take_fd(fd)
    os.truncate(here, N_PAGES * PAGE)
    addr = child.map(N_PAGES, mmap.MAP_SHARED, fd)
    child.touch(addr, [1])
    blocks = os.fstat(here).st_blocks
    tracked = Tracked(child, addr)
    assert tracked.of(PRESENT) == [1]
    assert os.fstat(here).st_blocks == blocks
    os.pread(child.mem_fd, PAGE, addr + 5 * PAGE)
    assert os.fstat(here).st_blocks > blocks, "or this would show nothing"
    assert pages.of(PRESENT) == list(range(8))


# ---- the table ----


@cache
def _tests_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_table_names_tests_that_exist() -> None:
    text = (REPO / "docs" / "kernel.md").read_text()
    named = re.findall(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`", text)
    assert len(named) > 30
    missing = [f"{path}::{name}" for path, name in named if name not in _tests_of(REPO / path)]
    assert missing == []
