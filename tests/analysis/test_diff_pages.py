"""Pages that differ, against a plain comparison of what both rounds read as."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.diff.byteranges import JOINED_BYTES, KEPT_BYTES, ByteRange, ByteRanges
from analysis.diff.pages import Difference, PageChange
from analysis.diff.rounds import BytesWanted, PageCounts, ProcessDiff, RoundDiff
from analysis.diff.vmas import Span
from analysis.places import Places
from analysis.selection import VmaSelection
from formats.chain import MemoryView
from formats.checkpoint import Checkpoint
from formats.errors import ImageCorrupt, UsageError
from formats.layout import PAGE_BYTES, RunKind
from formats.manifest import Gap
from tests.format.histories import N_PAGES, Memory, histories
from tests.format.images import (
    PID,
    ZERO_PAGE,
    ImageObject,
    ImageRound,
    PageState,
    addr_of,
    object_vma,
    page_of,
    vma_of,
    write_chain,
    write_tree,
)

NO_NOTICE = pytest.fail


def compared(
    before: tuple[Path, int], after: tuple[Path, int], max_ranges: int = 0, selection: VmaSelection | None = None
) -> list[ProcessDiff]:
    """All processes of two rounds; those of one path are a chain."""
    images = {path: Checkpoint.open(path) for path, _ in (before, after)}
    wanted = BytesWanted(max_ranges, Path("/nowhere"), NO_NOTICE) if max_ranges else None
    diff = RoundDiff((images[before[0]], before[1]), (images[after[0]], after[1]), selection, wanted)
    return [diff.process(pair) for pair in diff.pairs()]


def plain_counts(before: Memory, after: Memory) -> PageCounts:
    """Page by page. What is absent reads as zeros."""
    counts = PageCounts()
    for page in range(N_PAGES):
        old, new = before.get(page), after.get(page)
        if (old or ZERO_PAGE) == (new or ZERO_PAGE):
            continue
        if old is None:
            counts.pages_added += 1
        elif new is None:
            counts.pages_gone += 1
        else:
            counts.pages_changed += 1
    return counts


def read_all(path: Path, number: int) -> bytes:
    with MemoryView(Checkpoint.open(path), number) as view:
        return view.read(addr_of(0), N_PAGES * PAGE_BYTES)


def assert_ranges_tell_all(ranges: list[ByteRange], before: bytes, after: bytes, base_addr: int = addr_of(0)) -> None:
    """They are where the bytes differ, and nowhere else; none could be joined with the next."""
    told = set()
    for one in ranges:
        start, end = one.start_addr - base_addr, one.end_addr - base_addr
        assert one.before == before[start:end][:KEPT_BYTES]
        assert one.after == after[start:end][:KEPT_BYTES]
        inside = [offset for offset in range(start, end) if before[offset] != after[offset]]
        assert (inside[0], inside[-1]) == (start, end - 1)
        assert all(b - a <= JOINED_BYTES for a, b in pairwise(inside))
        told |= set(inside)
    assert told == {offset for offset in range(len(before)) if before[offset] != after[offset]}
    assert all(b.start_addr - a.end_addr >= JOINED_BYTES for a, b in pairwise(ranges))


@settings(max_examples=12, deadline=None)
@given(history=histories(), data=st.data())
def test_any_two_rounds_of_a_chain(
    tmp_path_factory: pytest.TempPathFactory, history: tuple[list[ImageRound], list[Memory]], data: st.DataObject
) -> None:
    images, memories = history
    directory = tmp_path_factory.mktemp("chain")
    path = write_chain(directory / "one", *images)
    first, second = (data.draw(st.integers(1, len(images))) for _ in range(2))
    (result,) = compared((path, first), (path, second), max_ranges=10_000)
    assert result.counts == plain_counts(memories[first - 1], memories[second - 1])
    assert_ranges_tell_all(result.ranges, read_all(path, first), read_all(path, second))
    assert result.pages_left == 0
    # The same by content: a copy of the chain is another checkpoint.
    copy = write_chain(directory / "two", *images)
    (other,) = compared((path, first), (copy, second), max_ranges=10_000)
    assert (other.counts, other.ranges) == (result.counts, result.ranges)


@settings(max_examples=60, deadline=None)
@given(
    flips=st.sets(st.integers(0, 3 * PAGE_BYTES - 1), max_size=12),
    near=st.integers(0, 3 * PAGE_BYTES - 1),
    steps=st.lists(st.integers(1, 12), max_size=8),
    cuts=st.sets(st.sampled_from([PAGE_BYTES, 2 * PAGE_BYTES])),
)
def test_any_bytes(flips: set[int], near: int, steps: list[int], cuts: set[int]) -> None:
    """Single bytes, some close together, also over borders of pages, which come as one difference or several."""
    old = ZERO_PAGE + page_of(1) + page_of(2)
    new = bytearray(old)
    for flip in flips | {near + step for step in accumulate(steps)}:
        if flip < len(new):
            new[flip] ^= 0x5A
    span = Span(vma_of(0, 3), vma_of(0, 3), addr_of(0), addr_of(3), 0)
    gathered = ByteRanges(10_000, Places([span.after]))
    for start, end in pairwise(sorted({0, *cuts, len(old)})):
        bytes_of = old[start:end], bytes(new[start:end])
        if bytes_of[0] != bytes_of[1]:
            gathered.add(Difference(span, addr_of(0) + start, addr_of(0) + end, PageChange.CHANGED, *bytes_of))
    assert_ranges_tell_all(gathered.ranges, old, bytes(new))
    assert gathered.pages_left == 0


def test_what_is_stored_in_one_place_is_not_read(tmp_path: Path) -> None:
    """A damaged page that both rounds have from the same place is in nobody's way; in a copy of the chain it is."""
    images = [
        ImageRound({page: page_of(page) for page in range(200)}, (vma_of(0, 200),)),
        ImageRound({**dict.fromkeys(range(200), RunKind.PARENT), 7: page_of(1000)}, (vma_of(0, 200),)),
    ]
    path = write_chain(tmp_path / "one", *images)
    copy = write_chain(tmp_path / "two", *images)
    file = path / "0001" / "pages-42.zst"
    content = bytearray(file.read_bytes())
    table_bytes = 17 + 12 * 4  # header and footer, and an entry for each of the frames
    content[-table_bytes - 20] ^= 1  # in the last frame
    file.write_bytes(content)
    (result,) = compared((path, 1), (path, 2))
    assert result.counts == PageCounts(pages_changed=1)
    with pytest.raises(ImageCorrupt):
        compared((path, 1), (copy, 1))


def test_what_is_left_to_the_older_round_is_not_looked_up(tmp_path: Path) -> None:
    """Runs of rounds before it, which are damaged, are in nobody's way as long as nothing there differs."""
    vmas = (vma_of(0, 4),)
    unchanged: dict[int, PageState] = dict.fromkeys(range(4), RunKind.PARENT)
    path = write_chain(
        tmp_path / "ck",
        ImageRound({page: page_of(page) for page in range(4)}, vmas),
        ImageRound(unchanged, vmas),
        ImageRound(unchanged, vmas),
        ImageRound({**unchanged, 1: page_of(9)}, vmas),
    )
    file = path / "0001" / "pagemap-42.zst"
    content = bytearray(file.read_bytes())
    content[8] ^= 1
    file.write_bytes(content)
    (result,) = compared((path, 2), (path, 3))
    assert result.counts == PageCounts()
    with pytest.raises(ImageCorrupt):
        compared((path, 2), (path, 4))


def test_only_so_many_ranges(tmp_path: Path) -> None:
    vmas = (vma_of(0, 8),)
    after = {page: page_of(page)[:-1] + b"x" for page in range(4)}
    after |= {page: page_of(100 + page) for page in range(4, 8)}
    path = write_chain(
        tmp_path / "ck", ImageRound({page: page_of(page) for page in range(8)}, vmas), ImageRound(after, vmas)
    )
    (result,) = compared((path, 1), (path, 2), max_ranges=2)
    assert [one.start_addr for one in result.ranges] == [addr_of(1) - 1, addr_of(2) - 1]
    assert (result.pages_left, result.counts) == (6, PageCounts(pages_changed=8))


def test_pages_of_files(tmp_path: Path) -> None:
    """A page that the process wrote to comes in the place of the file's; what a round could not read is unknown."""
    vmas = (vma_of(0, 4), vma_of(4, 8, "file", "/lib/libc.so"), vma_of(8, 10, "special", "[vdso]"))
    gap = Gap(start_addr=addr_of(2), end_addr=addr_of(3), reason="device")
    path = write_chain(
        tmp_path / "ck",
        ImageRound({0: page_of(0), 5: page_of(5)}, vmas, (gap,)),
        ImageRound({0: RunKind.PARENT, 2: page_of(2), 4: page_of(4), 9: page_of(9)}, vmas),
    )
    (result,) = compared((path, 1), (path, 2), max_ranges=10)
    counts = {item.pair.vma.kind: item.counts for item in result.mappings}
    assert counts == {
        "anon": PageCounts(pages_unknown=1),
        "file": PageCounts(pages_added=1, pages_gone=1),
        "special": PageCounts(),
    }
    assert (result.ranges, result.pages_unread) == ([], 2)


def test_mappings_that_come_and_go_have_all_of_their_pages(tmp_path: Path) -> None:
    before = ImageRound({0: page_of(0), 1: RunKind.ZERO, 20: page_of(20)}, (vma_of(0, 4), vma_of(20, 24)))
    after = ImageRound({0: page_of(0), 5: page_of(5), 6: RunKind.ZERO, 30: page_of(30)}, (vma_of(0, 8), vma_of(30, 31)))
    path = write_chain(tmp_path / "ck", before, after)
    (result,) = compared((path, 1), (path, 2))
    counts = [(item.pair.vma.start_addr, item.counts) for item in result.mappings]
    assert counts == [
        (addr_of(0), PageCounts(pages_added=2)),
        (addr_of(20), PageCounts(pages_gone=1)),
        (addr_of(30), PageCounts(pages_added=1)),
    ]
    assert result.differs


def test_a_selection(tmp_path: Path) -> None:
    vmas = (vma_of(0, 2, "heap", "[heap]"), vma_of(2, 4))
    path = write_chain(tmp_path / "ck", ImageRound({}, vmas), ImageRound({0: page_of(0), 2: page_of(2)}, vmas))
    (result,) = compared((path, 1), (path, 2), selection=VmaSelection(("heap",)))
    assert [item.pair.vma.kind for item in result.mappings] == ["heap"]
    assert result.counts == PageCounts(pages_added=1)


class TestObjects:
    """Shared memory is stored once for all who map it, and compared once."""

    SHARED = 8
    OTHER = PID + 1

    def tree(self, path: Path, number: int, pages: dict[int, bytes | RunKind], *, maps: bool = True) -> None:
        vmas = (vma_of(0, 4), object_vma(4, 12, 1))
        both = {PID: ImageRound({}, vmas), self.OTHER: ImageRound({}, vmas if maps else vmas[:1])}
        write_tree(path, number, both, [ImageObject(1, pages, 8 * PAGE_BYTES)])

    def test_once(self, tmp_path: Path) -> None:
        path = tmp_path / "ck"
        self.tree(path, 1, {0: page_of(0), 1: page_of(1), 2: page_of(2)})
        self.tree(path, 2, {0: page_of(0), 1: page_of(9), 5: page_of(5), 6: RunKind.ZERO})
        results = compared((path, 1), (path, 2), max_ranges=100)
        assert [result.counts for result in results] == [
            PageCounts(pages_changed=1, pages_added=1, pages_gone=1),
            PageCounts(),
        ]
        assert {one.start_addr // PAGE_BYTES * PAGE_BYTES for one in results[0].ranges} <= {
            addr_of(page) for page in (5, 6, 9)
        }

    def test_another_process_that_maps_it_adds_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "ck"
        self.tree(path, 1, {0: page_of(0)}, maps=False)
        self.tree(path, 2, {0: page_of(0)})
        results = compared((path, 1), (path, 2))
        assert [result.counts.total for result in results] == [0, 0]
        assert [item.pair.before is None for item in results[1].mappings] == [False, True]

    def test_parts_of_it(self, tmp_path: Path) -> None:
        """Two windows that overlap: each page counts in the first that shows it."""
        path = tmp_path / "ck"
        windows = {PID: (0, 5), self.OTHER: (3, 8)}
        for number in (1, 2):
            pages: dict[int, bytes | RunKind] = {page: page_of(10 * number + page) for page in range(8)}
            images = {pid: ImageRound({}, (object_vma(start, end, 1, start),)) for pid, (start, end) in windows.items()}
            write_tree(path, number, images, [ImageObject(1, pages)])
        assert [result.counts.pages_changed for result in compared((path, 1), (path, 2))] == [5, 3]

    def test_a_pre_dump_has_none(self, tmp_path: Path) -> None:
        path = tmp_path / "ck"
        vma = replace(object_vma(4, 12, 1), object=None)
        write_chain(path, ImageRound({}, (vma_of(0, 4), vma)))
        self.tree(path, 2, {0: page_of(0)})
        results = compared((path, 1), (path, 2))
        assert results[0].counts == PageCounts(pages_unknown=8)
        assert results[1].pair.before is None

    def test_an_own_copy_hides_it(self, tmp_path: Path) -> None:
        """Of a deleted file that is mapped privately: pages that the process wrote to are its own."""
        path = tmp_path / "ck"
        vmas = (object_vma(0, 4, 1, kind="file"),)
        for number, own in ((1, {}), (2, {1: page_of(77), 2: page_of(2)})):
            objects = [ImageObject(1, {page: page_of(page) for page in range(4)}, kind="deleted")]
            write_tree(path, number, {PID: ImageRound(own, vmas)}, objects)
        (result,) = compared((path, 1), (path, 2))
        assert result.counts == PageCounts(pages_changed=1)


def test_a_process_that_is_not_there(tmp_path: Path) -> None:
    images = Checkpoint.open(write_chain(tmp_path / "ck", ImageRound({}), ImageRound({})))
    diff = RoundDiff((images, 1), (images, 2))
    assert [pair.before is not None for pair in diff.pairs(PID)] == [True]
    for pid, to_pid in ((7, None), (PID, 7), (None, 7)):
        with pytest.raises(UsageError, match="has no process 7"):
            diff.pairs(pid, to_pid)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """16 MiB of which every second page is another one: Python holds a small part of it at a time."""
    n_pages = 4096
    vmas = (vma_of(0, n_pages),)
    before = ImageRound({page: page_of(page) for page in range(n_pages)}, vmas)
    after = ImageRound({page: page_of(page + n_pages) if page % 2 else RunKind.PARENT for page in range(n_pages)}, vmas)
    path = write_chain(tmp_path / "ck", before, after)
    tracemalloc.start()
    try:
        (result,) = compared((path, 1), (path, 2), max_ranges=50)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.counts == PageCounts(pages_changed=n_pages // 2)
    assert len(result.ranges) == 50
    assert peak_bytes < 5 << 20
