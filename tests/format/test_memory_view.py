"""Memory as of a round, against a plain dictionary of pages per round."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import lineage
from formats.chain import AddressAbsent, Checkpoint, MemoryView, Segment, SegmentKind
from formats.errors import ImageCorrupt, UsageError
from formats.layout import PAGE_BYTES, RunKind
from formats.manifest import Gap
from tests.format.histories import N_PAGES, Memory, histories
from tests.format.images import (
    PID,
    ZERO_PAGE,
    ImageRound,
    PageState,
    addr_of,
    page_of,
    vma_of,
    write_chain,
)


@settings(max_examples=50)
@given(history=histories(), data=st.data(), window_pages=st.integers(1, N_PAGES))
def test_every_round_reads_as_the_memory_it_stands_for(
    tmp_path_factory: pytest.TempPathFactory,
    history: tuple[list[ImageRound], list[Memory]],
    data: st.DataObject,
    window_pages: int,
) -> None:
    """However much of it is looked at at once."""
    images, memories = history
    path = write_chain(tmp_path_factory.mktemp("chain") / "checkpoint", *images)
    checkpoint = Checkpoint.open(path)
    for number, memory in enumerate(memories, start=1):
        with MemoryView(checkpoint, number) as view, pytest.MonkeyPatch.context() as patch:
            patch.setattr(lineage, "_WINDOW_BYTES", window_pages * PAGE_BYTES)
            whole = b"".join(memory.get(page, ZERO_PAGE) for page in range(N_PAGES))
            assert view.read(addr_of(0), len(whole)) == whole
            start = data.draw(st.integers(0, len(whole)))
            length = data.draw(st.integers(0, len(whole) - start))
            assert view.read(addr_of(0) + start, length) == whole[start : start + length]
            assert_segments_match(view, memory, images, number)


def assert_segments_match(view: MemoryView, memory: Memory, images: list[ImageRound], number: int) -> None:
    position = addr_of(0)
    for segment in view.segments(addr_of(0), addr_of(N_PAGES)):
        assert segment.start_addr == position < segment.end_addr
        position = segment.end_addr
        for addr in range(segment.start_addr, segment.end_addr, PAGE_BYTES):
            page = (addr - addr_of(0)) // PAGE_BYTES
            if segment.kind is SegmentKind.ABSENT:
                assert page not in memory
                assert segment.round == number
                continue
            # Nearest: every later round up to this one says PARENT.
            later = [images[index].pages[page] for index in range(segment.round, number)]
            assert later == [RunKind.PARENT] * len(later)
            held = images[segment.round - 1].pages[page]
            assert held == (memory[page] if segment.kind is SegmentKind.DATA else RunKind.ZERO)
    assert position == addr_of(N_PAGES)


@pytest.fixture
def view(tmp_path: Path) -> Iterator[MemoryView]:
    first = ImageRound({0: page_of(1), 1: page_of(2), 2: RunKind.ZERO, 3: page_of(4)})
    second = ImageRound({0: RunKind.PARENT, 1: page_of(5), 2: RunKind.PARENT})
    third = ImageRound({0: RunKind.PARENT, 1: RunKind.PARENT, 2: RunKind.PARENT, 3: page_of(6)})
    path = write_chain(tmp_path / "checkpoint", first, second, third)
    with MemoryView(Checkpoint.open(path)) as opened:
        yield opened


def test_the_picture_in_the_module(view: MemoryView) -> None:
    assert list(view.segments(addr_of(0), addr_of(5))) == [
        Segment(addr_of(0), addr_of(1), SegmentKind.DATA, 1, 0),
        Segment(addr_of(1), addr_of(2), SegmentKind.DATA, 2, 0),
        Segment(addr_of(2), addr_of(3), SegmentKind.ZERO, 1, 0),
        Segment(addr_of(3), addr_of(4), SegmentKind.DATA, 3, 0),
        Segment(addr_of(4), addr_of(5), SegmentKind.ABSENT, 3, 0),
    ]


def test_kinds_compare_as_text(view: MemoryView) -> None:
    kinds = [str(segment.kind) for segment in view.segments(addr_of(2), addr_of(5))]
    assert kinds == ["zero", "data", "absent"]


def test_chunks_are_bounded_and_holes_are_not(tmp_path: Path) -> None:
    pages: dict[int, PageState] = {page: page_of(page) for page in range(10)}
    pages |= dict.fromkeys(range(10, 15), RunKind.ZERO)
    path = write_chain(tmp_path / "checkpoint", ImageRound(pages))
    with MemoryView(Checkpoint.open(path)) as view:
        chunks = list(view.chunks(addr_of(1), addr_of(60), max_bytes=4 * PAGE_BYTES + 1))
        with pytest.raises(ValueError, match="less than a page"):
            next(view.chunks(addr_of(0), addr_of(1), max_bytes=100))
    edges = [1, 5, 9, 10, 14, 15, 60]
    assert [(start, end) for start, end, _ in chunks] == [
        (addr_of(start), addr_of(end)) for start, end in pairwise(edges)
    ]
    assert chunks[-1][2] is None
    content = b"".join(content for _, _, content in chunks if content is not None)
    assert content == b"".join(map(page_of, range(1, 10))) + 5 * ZERO_PAGE


def test_a_chain_longer_than_the_stack(tmp_path: Path) -> None:
    """Resolution must not recurse: 300 rounds here are as good as any number."""
    images = [ImageRound({0: page_of(1)})] + [ImageRound({0: RunKind.PARENT})] * 299
    path = write_chain(tmp_path / "checkpoint", *images)
    with MemoryView(Checkpoint.open(path)) as view:
        assert view.read(addr_of(0), PAGE_BYTES) == page_of(1)


class TestAbsent:
    @pytest.fixture
    def view(self, tmp_path: Path) -> Iterator[MemoryView]:
        vmas = (
            vma_of(0, 4),
            vma_of(4, 8, "file", "/lib/libc.so"),
            vma_of(10, 12, "shmem", "/dev/shm/x"),
            vma_of(12, 14, "stack", "[stack]"),
        )
        gaps = (
            Gap(start_addr=addr_of(3), end_addr=addr_of(4), reason="memfd_secret"),
            Gap(start_addr=addr_of(2), end_addr=addr_of(3), reason="I/O error"),
        )
        image = ImageRound({1: page_of(1), 4: page_of(2)}, vmas, gaps)
        path = write_chain(tmp_path / "checkpoint", image)
        with MemoryView(Checkpoint.open(path)) as opened:
            yield opened

    def test_absent_anonymous_memory_is_zero(self, view: MemoryView) -> None:
        expected = ZERO_PAGE + page_of(1)
        assert view.read(addr_of(0), 2 * PAGE_BYTES) == expected
        assert view.read(addr_of(12) + 5, 10) == bytes(10)

    def test_across_vmas(self, view: MemoryView) -> None:
        assert [vma.kind for vma in view.vmas_in(addr_of(3), addr_of(11))] == [
            "anon",
            "file",
            "shmem",
        ]
        assert list(view.vmas_in(addr_of(8), addr_of(10))) == []

    @pytest.mark.parametrize(
        ("page", "n_pages", "first_absent", "problem"),
        [
            (8, 1, 8, "was not mapped"),
            (9, 2, 9, "was not mapped"),
            (7, 2, 8, "was not mapped"),
            (14, 1, 14, "was not mapped"),
            (13, 2, 14, "was not mapped"),
            (4, 2, 5, r"file memory, /lib/libc.so from byte 0x1000 on"),
            (6, 1, 6, r"/lib/libc.so from byte 0x2000 on"),
            (10, 1, 10, "shmem memory"),
            (3, 1, 3, "could not be read .memfd_secret"),
            (1, 2, 2, "could not be read .I/O error"),
        ],
    )
    def test_what_nobody_knows_is_not_made_up(
        self, view: MemoryView, page: int, n_pages: int, first_absent: int, problem: str
    ) -> None:
        with pytest.raises(AddressAbsent, match=problem) as caught:
            view.read(addr_of(page) + 1, n_pages * PAGE_BYTES - 2)
        assert caught.value.fields["addr"] == addr_of(first_absent)
        assert caught.value.exit_code == 1

    def test_impossible_ranges(self, view: MemoryView) -> None:
        assert view.read(0, 0) == b""
        for addr, length in ((-1, 1), (0, -1)):
            with pytest.raises(UsageError):
                view.read(addr, length)
        with pytest.raises(AddressAbsent):
            view.read(1 << 70, 1)


class TestParents:
    def test_a_hole_in_between_is_damage(self, tmp_path: Path) -> None:
        """Round 1's bytes are older than round 2's hole: they must not come back."""
        images = (
            ImageRound({0: page_of(1)}),
            ImageRound({1: page_of(2)}),
            ImageRound({0: RunKind.PARENT}),
        )
        path = write_chain(tmp_path / "checkpoint", *images)
        with MemoryView(Checkpoint.open(path)) as view:
            with pytest.raises(ImageCorrupt, match="round 2, where that leads, does not have it"):
                view.read(addr_of(0), 1)
            assert view.read(addr_of(1), 1) == b"\0"

    def test_a_full_round_has_no_parent_runs(self, tmp_path: Path) -> None:
        path = write_chain(tmp_path / "checkpoint", ImageRound({0: RunKind.PARENT}))
        with MemoryView(Checkpoint.open(path)) as view, pytest.raises(ImageCorrupt):
            view.read(addr_of(0), 1)

    def test_another_process_with_the_same_pid_is_not_a_parent(self, tmp_path: Path) -> None:
        images = (
            ImageRound({0: page_of(1)}, start_time_ticks=7),
            ImageRound({0: RunKind.PARENT}, start_time_ticks=8),
        )
        path = write_chain(tmp_path / "checkpoint", *images)
        with MemoryView(Checkpoint.open(path)) as view, pytest.raises(ImageCorrupt):
            view.read(addr_of(0), 1)


def test_which_process(tmp_path: Path) -> None:
    path = write_chain(tmp_path / "checkpoint", ImageRound({}))
    checkpoint = Checkpoint.open(path)
    with MemoryView(checkpoint, pid=PID) as view:
        assert view.process.pid == PID
    with pytest.raises(UsageError, match="no process 7") as caught:
        MemoryView(checkpoint, pid=7)
    assert str(PID) in caught.value.hint
