"""What counts as written, case by case, in the own memory and in that of another process."""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

import pytest

from dumper.writewatch import NotWatchable
from tests.harness import page_tables_kb
from tests.kernel.child import (
    ANON,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MADV_PAGEOUT,
    MAP_HUGETLB,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE,
    PROT_NONE,
    PROT_RW,
    ZERO_PAGE,
)
from tests.tally import Count, Tally
from tests.watch.place import Place, contents, pages, told

HUGE_PAGES_PER = 512  # small pages in a huge one
SHARED_ANON = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS


def test_a_write_is_told_until_the_reset(place: Place) -> None:
    addr = place.memory.map(10)
    place.memory.touch(addr, range(5))
    with place.watch(addr, 10) as watch:
        assert told(watch, addr) == [], "nothing counts as written at first"
        place.memory.touch(addr, [0, 3, 4])
        assert told(watch, addr, reset=False) == [0, 3, 4]
        assert told(watch, addr, reset=False) == [0, 3, 4]
        place.memory.touch(addr, [1])
        assert told(watch, addr) == [0, 1, 3, 4]
        assert told(watch, addr) == []
        place.memory.touch(addr, [2])
        watch.reset()
        assert told(watch, addr) == []


def test_the_first_write_to_a_hole_is_told_and_its_first_read_is_not(place: Place) -> None:
    addr = place.memory.map(10)
    with place.watch(addr, 10) as watch:
        place.memory.read(addr, [1, 2])
        place.memory.touch(addr, [4])
        assert told(watch, addr) == [4]
        place.memory.read(addr, range(4))
        assert told(watch, addr) == []
        place.memory.touch(addr, [2, 9])
        assert told(watch, addr) == [2, 9]


def test_holes_cost_nothing(place: Place) -> None:
    n_pages = (16 << 30) // PAGE
    addr = place.memory.map(n_pages)
    place.memory.touch(addr, [0, n_pages - 1])
    before_kb = page_tables_kb(place.pid)
    with place.watch(addr, n_pages) as watch:
        place.memory.touch(addr, [n_pages - 1])
        assert told(watch, addr) == [n_pages - 1]
        assert page_tables_kb(place.pid) < before_kb + 1024, "32 MiB of page tables for a marker in each hole"
    place.memory.unmap(addr, range(n_pages))


@pytest.mark.parametrize("advice", [mmap.MADV_DONTNEED, MADV_GUARD_INSTALL], ids=["dropped", "guard"])
def test_content_that_is_gone_is_told_until_something_else_is_seen(place: Place, advice: int) -> None:
    addr = place.memory.map(10)
    place.memory.touch(addr, range(8))
    with place.watch(addr, 10) as watch:
        place.memory.advise(addr, range(2, 5), advice)
        assert told(watch, addr, reset=False) == [2, 3, 4]
        assert told(watch, addr) == [2, 3, 4]
        assert told(watch, addr) == [2, 3, 4], "it might have been written and dropped again"
        if advice == MADV_GUARD_INSTALL:
            place.memory.advise(addr, range(2, 5), MADV_GUARD_REMOVE)
        place.memory.touch(addr, [3])
        assert contents(place, addr, [2, 4]) == [ZERO_PAGE] * 2
        assert told(watch, addr) == [2, 3, 4]
        assert told(watch, addr) == [], "now zero pages show that nothing was written"
        place.memory.touch(addr, [2])
        assert told(watch, addr) == [2]


def test_content_that_comes_and_goes_between_two_calls(place: Place) -> None:
    """A page that is told as gone is copied while it has content for a moment: the copy is stale, and that is told."""
    addr = place.memory.map(4)
    place.memory.touch(addr, [1])
    with place.watch(addr, 4) as watch:
        for reset in (True, False, True):
            place.memory.advise(addr, range(4), mmap.MADV_DONTNEED)
            assert told(watch, addr, reset=reset) == [1]
            place.memory.touch(addr, [1])
            assert contents(place, addr, [1]) != [ZERO_PAGE]
            place.memory.advise(addr, range(4), mmap.MADV_DONTNEED)
            assert told(watch, addr, reset=reset) == [1]


def test_content_that_came_and_went_without_a_reset_stays_told(place: Place) -> None:
    """Whoever copied the page when it was told must learn that it is gone."""
    addr = place.memory.map(4)
    with place.watch(addr, 4) as watch:
        place.memory.touch(addr, [1])
        assert told(watch, addr, reset=False) == [1]
        place.memory.advise(addr, range(4), mmap.MADV_DONTNEED)
        assert told(watch, addr, reset=False) == [1]
        assert told(watch, addr) == [1]


def test_what_has_content_at_first(place: Place) -> None:
    addr = place.memory.map(10)
    place.memory.touch(addr, [1, 2, 5])
    place.memory.read(addr, [3])
    with place.watch(addr, 10) as watch:
        assert pages(addr, watch.populated()) == [1, 2, 5]
        place.memory.touch(addr, [2, 7])
        place.memory.advise(addr, range(1, 2), mmap.MADV_DONTNEED)
        assert pages(addr, watch.populated(reset=True)) == [1, 2, 5, 7], "1 is told as changed"
        assert told(watch, addr) == [1]


@pytest.mark.parametrize("way", ["read", "process_vm_writev", "/proc/PID/mem"])
def test_writes_by_the_kernel_are_told(place: Place, way: str) -> None:
    addr = place.memory.map(4)
    place.memory.touch(addr, range(3))
    with place.watch(addr, 4) as watch:
        if way == "read":
            place.memory.read_into(addr, 1)
            place.memory.read_into(addr, 3)
        elif way == "process_vm_writev":
            place.memory.write_from_outside(addr, 1)
            place.memory.write_from_outside(addr, 3)
        else:
            fd = os.open(f"/proc/{place.pid}/mem", os.O_RDWR)
            for page in (1, 3):
                os.pwrite(fd, b"m", addr + page * PAGE)
            os.close(fd)
        assert told(watch, addr) == [1, 3]


def test_memory_mapped_anew_counts_as_written(place: Place) -> None:
    addr = place.memory.map(10)
    place.memory.touch(addr, range(6))
    with place.watch(addr, 10) as watch:
        place.memory.map(4, at=addr + 2 * PAGE)
        place.memory.touch(addr, [2, 3, 7])
        assert told(watch, addr) == [2, 3, 4, 5, 7], "4 and 5 are gone"
        place.memory.touch(addr, [4, 5])
        assert told(watch, addr) == [4, 5]
        place.memory.touch(addr, [2, 4])
        assert told(watch, addr) == [2, 4], "the new mapping is watched as well"


def test_memory_moved_into_a_region_counts_as_written(place: Place) -> None:
    addr, elsewhere = place.memory.map(10), place.memory.map(4)
    place.memory.touch(elsewhere, range(3))
    with place.watch(addr, 10) as watch:
        place.memory.remap(elsewhere, 4, 4, MREMAP_MAYMOVE | MREMAP_FIXED, addr + 4 * PAGE)
        assert told(watch, addr) == [4, 5, 6]
        place.memory.touch(addr, [5, 7])
        assert told(watch, addr) == [5, 7]


def test_memory_moved_away_is_told(place: Place) -> None:
    addr = place.memory.map(4)
    place.memory.touch(addr, [1, 2])
    with place.watch(addr, 4) as watch:
        moved = place.memory.remap(addr, 4, 4, MREMAP_MAYMOVE | MREMAP_DONTUNMAP)
        assert moved != addr
        assert told(watch, addr) == [1, 2]


def test_a_part_that_is_unmapped_is_an_error_and_nothing_else_is_lost(place: Place) -> None:
    addr = place.memory.map(10)
    place.memory.touch(addr, range(10))
    with place.watch(addr, 10) as watch:
        place.memory.touch(addr, [1])
        place.memory.unmap(addr, range(4, 6))
        with pytest.raises(NotWatchable, match="is not mapped") as caught:
            watch.written(reset=True)
        assert caught.value.fields["addr"] == addr + 4 * PAGE
        place.memory.touch(addr, [8])
        place.memory.map(2, at=addr + 4 * PAGE)
        assert told(watch, addr) == [1, 4, 5, 8]


def test_protection_changes_nothing(place: Place) -> None:
    addr = place.memory.map(8)
    place.memory.touch(addr, range(8))
    with place.watch(addr, 8) as watch:
        place.memory.touch(addr, [3])
        place.memory.protect(addr, range(2, 6), mmap.PROT_READ)
        place.memory.protect(addr, range(2, 6), PROT_NONE)
        assert told(watch, addr) == [3]
        place.memory.protect(addr, range(2, 6), PROT_RW)
        assert told(watch, addr) == []
        place.memory.touch(addr, [4])
        assert told(watch, addr) == [4]


def test_own_copies_of_file_pages_are_told_and_the_file_is_not(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"f" * 8 * PAGE)
    addr = place.memory.map(8, mmap.MAP_PRIVATE, place.memory.open(str(path)))
    place.memory.touch(addr, [0, 1, 2])
    with place.watch(addr, 8) as watch:
        place.memory.read(addr, range(8))
        path.open("r+b").write(b"g" * 8 * PAGE)
        assert told(watch, addr) == []
        place.memory.touch(addr, [1, 5])
        assert told(watch, addr) == [1, 5]
        place.memory.advise(addr, range(2), mmap.MADV_DONTNEED)
        assert told(watch, addr) == [0, 1]
        assert told(watch, addr) == [0, 1]
        assert contents(place, addr, [0, 1]) == [b"g" * PAGE] * 2, "what the file has is there again"
        assert told(watch, addr) == [0, 1]
        place.memory.touch(addr, [0, 1])
        assert told(watch, addr) == [0, 1], "until there is an own copy again"
        assert told(watch, addr) == []


@pytest.mark.parametrize("kind", ["anonymous", "memfd", "file"])
def test_shared_memory_is_refused(place: Place, kind: str, tmp_path: Path) -> None:
    """Its writes through other mappings would go unnoticed."""
    if kind == "anonymous":
        addr = place.memory.map(4, SHARED_ANON)
    else:
        (tmp_path / "file").write_bytes(bytes(4 * PAGE))
        fd = place.memory.memfd() if kind == "memfd" else place.memory.open(str(tmp_path / "file"))
        addr = place.memory.map(4, mmap.MAP_SHARED, fd)
    with pytest.raises(NotWatchable, match="is shared memory") as caught:
        place.watch(addr, 4)
    assert "MAP_PRIVATE" in caught.value.hint


def test_shared_memory_that_comes_later_is_an_error(place: Place) -> None:
    addr = place.memory.map(6)
    with place.watch(addr, 6) as watch:
        place.memory.map(2, SHARED_ANON, at=addr + 2 * PAGE)
        with pytest.raises(NotWatchable, match="is shared memory"):
            watch.written()


def test_memory_of_the_kernel_is_refused(place: Place) -> None:
    lines = Path(f"/proc/{place.pid}/maps").read_text().splitlines()
    start, end = (int(word, 16) for line in lines if "[vdso]" in line for word in line.split()[0].split("-"))
    with pytest.raises(NotWatchable, match="no ordinary memory"):
        place.watch(start, (end - start) // PAGE)


def test_huge_pages_are_split_by_the_write_and_told_by_small_ones(place: Place) -> None:
    addr = place.memory.map_huge(3 * HUGE_PAGES_PER)
    first = -addr // PAGE % HUGE_PAGES_PER  # of a whole huge page
    block = range(first, first + 2 * HUGE_PAGES_PER)
    place.memory.advise(addr, block, mmap.MADV_HUGEPAGE)
    place.memory.touch(addr, block)
    with place.watch(addr, 3 * HUGE_PAGES_PER) as watch:
        assert told(watch, addr) == []
        place.memory.touch(addr, [first + 7])
        assert told(watch, addr) == [first + 7]
        place.memory.advise(addr, block[HUGE_PAGES_PER:], mmap.MADV_DONTNEED)
        assert told(watch, addr) == list(block[HUGE_PAGES_PER:]), "one that is dropped as a whole"
        place.memory.touch(addr, block)
        assert told(watch, addr) == list(block)
        place.memory.touch(addr, [block[-1]])
        assert told(watch, addr) == [block[-1]]


@pytest.mark.usefixtures("huge_pages")
def test_pages_of_hugetlbfs_are_told_whole(place: Place) -> None:
    addr = place.memory.map_huge(4 * HUGE_PAGES_PER, ANON | MAP_HUGETLB)
    place.memory.touch(addr, [0, HUGE_PAGES_PER])
    first, second, third = (list(range(n * HUGE_PAGES_PER, (n + 1) * HUGE_PAGES_PER)) for n in range(3))
    with place.watch(addr + 5 * PAGE, 3 * HUGE_PAGES_PER - 10) as watch:
        page_bytes = HUGE_PAGES_PER * PAGE
        assert watch.regions == ((addr, addr + 3 * page_bytes, page_bytes),)
        assert told(watch, addr) == []
        place.memory.touch(addr, [3])
        assert told(watch, addr) == first
        place.memory.touch(addr, [2 * HUGE_PAGES_PER + 9])
        assert told(watch, addr) == third, "a hole before"
        place.memory.advise(addr, range(HUGE_PAGES_PER, 2 * HUGE_PAGES_PER), mmap.MADV_DONTNEED)
        assert told(watch, addr) == second
        assert told(watch, addr) == second
        place.memory.touch(addr, [HUGE_PAGES_PER])
        assert told(watch, addr) == second
        assert told(watch, addr) == []
    place.memory.unmap(addr, range(4 * HUGE_PAGES_PER))


@pytest.mark.usefixtures("swap")
def test_swap_changes_nothing(place: Place) -> None:
    addr = place.memory.map(64)
    place.memory.touch(addr, range(32))
    with place.watch(addr, 64) as watch:
        place.memory.touch(addr, [7])
        place.memory.advise(addr, range(64), MADV_PAGEOUT)
        assert told(watch, addr) == [7]
        contents(place, addr, range(16))
        assert told(watch, addr) == []
        place.memory.touch(addr, [3, 20])
        assert told(watch, addr) == [3, 20]
        place.memory.advise(addr, range(64), MADV_PAGEOUT)
        place.memory.advise(addr, range(2, 5), mmap.MADV_DONTNEED)
        assert told(watch, addr) == [2, 3, 4], "content in swap that is dropped"


@pytest.mark.parametrize("seed", range(8))
def test_no_change_is_missed(place: Place, seed: int, tally: Tally) -> None:
    """Random operations; what differs from the copy that a user of the watch keeps must have been told."""
    rng = random.Random(seed)
    n_pages = 200
    addr = place.memory.map(n_pages)
    place.memory.touch(addr, range(0, n_pages, 3))
    known = set(range(0, n_pages, 3))  # pages that may have content, or were told
    with place.watch(addr, n_pages) as watch:
        copy = contents(place, addr, range(n_pages))
        changed: set[int] = set()
        gone: set[int] = set()  # told until they are seen to be zeros, or written
        for _ in range(300):
            start = rng.randrange(n_pages)
            some = range(start, min(n_pages, start + rng.randrange(1, 12)))
            operation = rng.randrange(6)
            if operation < 2:
                place.memory.write(addr, {page: rng.randbytes(8) for page in some})
                changed |= set(some)
                known |= set(some)
                gone -= set(some)
            elif operation == 2:
                place.memory.advise(addr, some, mmap.MADV_DONTNEED)
                changed |= set(some) & known
                gone |= set(some) & known
            elif operation == 3:
                place.memory.read(addr, some)
            elif operation == 4 and rng.randrange(4) == 0:
                place.memory.map(len(some), at=addr + start * PAGE)
                changed |= set(some) & known
                gone |= set(some) & known
            else:
                reset = rng.randrange(2) == 0
                found = told(watch, addr, reset=reset)
                assert set(found) <= changed | gone, "nothing is told that was left alone"
                for page, content in zip(found, contents(place, addr, found), strict=True):
                    copy[page] = content
                now = contents(place, addr, range(n_pages))
                missed = [page for page in range(n_pages) if copy[page] != now[page]]
                tally.add(Count.WATCHED_WRITES, len(changed))
                tally.add(Count.WATCHED_WRITES_MISSED, len(missed))
                assert missed == []
                if reset:
                    changed.clear()
