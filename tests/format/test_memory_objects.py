"""Pages of memory objects: shared memory and deleted files, as each process that maps them sees them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import checkpoint as checkpoints
from formats.chain import AddressAbsent, Checkpoint, MemoryView, Segment, SegmentKind
from formats.check import verify
from formats.layout import PAGE_BYTES, RUNS_PER_FRAME, RunKind, object_pages_name
from formats.manifest import Gap, Vma
from formats.roundpages import RoundPages
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
    write_round,
    write_tree,
)

ZSTD = "/usr/bin/zstd"
CHILD = PID + 1
N_PAGES = 12
MAX_OFFSET = 6
KINDS = ["shmem", "memfd", "hugetlb", "deleted", "file"]

Memory = dict[int, bytes | None]
"""What a page must read as; None stands for what nobody can know."""


@dataclass
class Tree:
    """Two rounds of a process tree, and the memory of each process as of the second, the dump."""

    first: ImageRound
    images: dict[int, ImageRound]
    objects: list[ImageObject]
    memories: dict[int, Memory] = field(default_factory=dict)

    def write(self, checkpoint: Path) -> Path:
        parent = write_round(checkpoint, 1, self.first)
        write_tree(checkpoint, 2, self.images, self.objects, parent)
        return checkpoint


@st.composite
def objects_drawn(draw: st.DrawFn, number: int) -> ImageObject:
    size_bytes = draw(st.integers(0, (N_PAGES + MAX_OFFSET) * PAGE_BYTES))
    n_pages = -(-size_bytes // PAGE_BYTES)
    held = draw(st.sets(st.integers(0, n_pages - 1))) if n_pages else set()
    zeros = draw(st.sets(st.sampled_from(sorted(held)))) if held else set()
    pages = {page: RunKind.ZERO if page in zeros else page_of(1000 * (number + 1) + page) for page in held}
    gap = draw(st.integers(0, N_PAGES))
    gaps = (Gap(start_addr=gap * PAGE_BYTES, end_addr=(gap + 2) * PAGE_BYTES, reason="poison"),)
    return ImageObject(
        number, pages, size_bytes, draw(st.sampled_from(KINDS)), gaps if draw(st.integers(0, 3)) == 0 else ()
    )


@st.composite
def vmas_drawn(draw: st.DrawFn, n_objects: int) -> tuple[Vma, ...]:
    cuts = sorted(draw(st.sets(st.integers(0, N_PAGES), min_size=2, max_size=6)))
    vmas: list[Vma] = []
    for start, end in pairwise(cuts):
        number = draw(st.integers(-2, n_objects - 1))
        if number >= 0:
            vmas.append(
                object_vma(
                    start, end, number, draw(st.integers(0, MAX_OFFSET)), draw(st.sampled_from(["file", "shmem"]))
                )
            )
        elif number == -1:
            vmas.append(vma_of(start, end, draw(st.sampled_from(["anon", "file"]))))
    return tuple(vmas) or (vma_of(0, 1),)


def expected_memory(
    own: dict[int, PageState], first: ImageRound, vmas: tuple[Vma, ...], tree: Tree, gap: Gap | None
) -> Memory:
    """The model: one page at a time, private copy first."""
    memory: Memory = {}
    for vma in vmas:
        for addr in range(vma.start_addr, vma.end_addr, PAGE_BYTES):
            page = (addr - addr_of(0)) // PAGE_BYTES
            state = own.get(page)
            if state is RunKind.PARENT:
                state = first.pages[page]
            unknown = gap is not None and gap.start_addr <= addr < gap.end_addr
            if state is None and vma.object is not None:
                held = tree.objects[vma.object]
                offset_bytes = vma.offset_bytes + addr - vma.start_addr
                state = held.pages.get(offset_bytes // PAGE_BYTES)
                size_bytes = held.size_bytes or 0
                unknown = unknown or any(item.start_addr <= offset_bytes < item.end_addr for item in held.unreadable)
                unknown = unknown or offset_bytes >= size_bytes or held.kind == "file"
            elif state is None:
                unknown = unknown or vma.kind == "file"
            if state is None:
                memory[page] = None if unknown else ZERO_PAGE
            else:
                memory[page] = state if isinstance(state, bytes) else ZERO_PAGE
    return memory


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    first_pages = draw(st.dictionaries(st.integers(0, N_PAGES - 1), st.sampled_from([RunKind.ZERO, page_of(1)])))
    first = ImageRound(first_pages, vmas=(vma_of(0, N_PAGES),))
    objects = [draw(objects_drawn(number)) for number in range(draw(st.integers(1, 3)))]
    tree = Tree(first, {}, objects)
    for pid in (PID, CHILD):
        vmas = draw(vmas_drawn(len(objects)))
        mapped = [page for page in range(N_PAGES) if any(v.start_addr <= addr_of(page) < v.end_addr for v in vmas)]
        own: dict[int, PageState] = {}
        for page in draw(st.sets(st.sampled_from(mapped))):
            choices: list[PageState] = [RunKind.ZERO, page_of(100 * pid + page)]
            if pid == PID and page in first_pages:
                choices.append(RunKind.PARENT)
            own[page] = draw(st.sampled_from(choices))
        start = draw(st.integers(0, N_PAGES - 1))
        gap = Gap(start_addr=addr_of(start), end_addr=addr_of(start + 1), reason="EIO") if draw(st.booleans()) else None
        tree.images[pid] = ImageRound(own, vmas, (gap,) if gap else ())
        tree.memories[pid] = expected_memory(own, first, vmas, tree, gap)
    return tree


@settings(max_examples=150)
@given(tree=trees(), data=st.data())
def test_every_process_sees_its_pages_then_those_of_the_objects(
    tmp_path_factory: pytest.TempPathFactory, tree: Tree, data: st.DataObject
) -> None:
    checkpoint = Checkpoint.open(tree.write(tmp_path_factory.mktemp("tree") / "checkpoint"))
    assert verify(checkpoint).exit_code == 0
    for pid, memory in tree.memories.items():
        with MemoryView(checkpoint, pid=pid) as view:
            for page in range(N_PAGES):
                content = memory.get(page)
                if content is None:
                    with pytest.raises(AddressAbsent):
                        view.read(addr_of(page), 1)
                else:
                    assert view.read(addr_of(page), PAGE_BYTES) == content
            max_bytes = data.draw(st.integers(1, 3)) * PAGE_BYTES
            assert_covered(view, memory, max_bytes)


def assert_covered(view: MemoryView, memory: Memory, max_bytes: int) -> None:
    """Segments and chunks cover the range without a gap and agree with the model."""
    position = addr_of(0)
    for segment in view.segments(addr_of(0), addr_of(N_PAGES)):
        assert segment.start_addr == position < segment.end_addr
        position = segment.end_addr
        for page in range((segment.start_addr - addr_of(0)) // PAGE_BYTES, (position - addr_of(0)) // PAGE_BYTES):
            if segment.kind is SegmentKind.ABSENT:
                # Nothing is known, or it is an anonymous VMA's zero page.
                assert memory.get(page) in {None, ZERO_PAGE}
                assert (segment.round, segment.page_index, segment.object) == (2, 0, None)
            elif segment.kind is SegmentKind.ZERO:
                assert memory[page] == ZERO_PAGE
            else:
                assert memory[page] not in {None, ZERO_PAGE}
            assert segment.object is None or segment.round == 2
    assert position == addr_of(N_PAGES)
    position = addr_of(0)
    for start, end, content in view.chunks(addr_of(0), addr_of(N_PAGES), max_bytes):
        assert start == position < end
        position = end
        if content is not None:
            assert len(content) == end - start <= max_bytes
            first = (start - addr_of(0)) // PAGE_BYTES
            assert content == b"".join(memory[first + i] or b"" for i in range((end - start) // PAGE_BYTES))
    assert position == addr_of(N_PAGES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Pages 0 to 7 map pages 2 to 9 of an object of 8.5 pages; 8 to 11 are a file's."""
    held = ImageObject(7, {2: page_of(2), 3: RunKind.ZERO, 4: page_of(4), 5: page_of(5)}, 8 * PAGE_BYTES + 100)
    file = ImageObject(9, {1: page_of(91)}, 4 * PAGE_BYTES, "file")
    root = ImageRound({3: page_of(33)}, (object_vma(0, 8, 7, 2), object_vma(8, 12, 9)))
    child = ImageRound({0: page_of(40)}, (vma_of(0, 1), object_vma(1, 3, 7, 4), object_vma(3, 5, 7, 2)))
    zombie = ImageRound({}, ())
    write_tree(tmp_path / "checkpoint", 1, {PID: root, CHILD: child, CHILD + 1: zombie}, [held, file])
    return tmp_path / "checkpoint"


def test_segments_tell_whose_file_the_data_is_in(path: Path) -> None:
    with MemoryView(Checkpoint.open(path)) as view:
        assert list(view.segments(addr_of(0), addr_of(13))) == [
            Segment(addr_of(0), addr_of(1), SegmentKind.DATA, 1, 0, object=7),
            Segment(addr_of(1), addr_of(2), SegmentKind.ZERO, 1, 0, object=7),
            Segment(addr_of(2), addr_of(3), SegmentKind.DATA, 1, 1, object=7),
            Segment(addr_of(3), addr_of(4), SegmentKind.DATA, 1, 0),
            Segment(addr_of(4), addr_of(7), SegmentKind.ZERO, 1, 0, object=7),
            Segment(addr_of(7), addr_of(8), SegmentKind.ABSENT, 1, 0),
            Segment(addr_of(8), addr_of(9), SegmentKind.ABSENT, 1, 0),
            Segment(addr_of(9), addr_of(10), SegmentKind.DATA, 1, 0, object=9),
            Segment(addr_of(10), addr_of(12), SegmentKind.ABSENT, 1, 0),
            Segment(addr_of(12), addr_of(13), SegmentKind.ABSENT, 1, 0),
        ]


def test_two_vmas_of_one_process_on_one_object(path: Path) -> None:
    with MemoryView(Checkpoint.open(path), pid=CHILD) as view:
        expected = page_of(40) + page_of(4) + page_of(5) + page_of(2) + ZERO_PAGE
        assert view.read(addr_of(0), 5 * PAGE_BYTES) == expected
        assert view.read(addr_of(1) - 3, PAGE_BYTES) == expected[PAGE_BYTES - 3 : 2 * PAGE_BYTES - 3]


def test_a_process_without_memory_has_none_to_read(path: Path) -> None:
    with MemoryView(Checkpoint.open(path), pid=CHILD + 1) as view:
        assert [item.kind for item in view.segments(addr_of(0), addr_of(2))] == [SegmentKind.ABSENT]
        with pytest.raises(AddressAbsent, match="was not mapped"):
            view.read(addr_of(0), 1)


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        (7, r"lies past the end of /object/7, which has 32868 bytes"),
        (8, r"is in no round: it is memory of /object/9 from byte 0x0 on"),
        (10, r"/object/9 from byte 0x2000 on"),
        (12, r"was not mapped"),
    ],
)
def test_why_a_page_is_absent(path: Path, page: int, problem: str) -> None:
    with MemoryView(Checkpoint.open(path)) as view, pytest.raises(AddressAbsent, match=problem) as caught:
        view.read(addr_of(page) + 1, 1)
    assert caught.value.fields["addr"] == addr_of(page)


def test_what_could_not_be_read_is_not_zero(tmp_path: Path) -> None:
    """Neither in the object nor in the process; but what the object has, it has."""
    gap = Gap(start_addr=PAGE_BYTES, end_addr=2 * PAGE_BYTES, reason="poison")
    held = ImageObject(0, {3: page_of(3)}, 8 * PAGE_BYTES, unreadable=(gap,))
    lost = Gap(start_addr=addr_of(3), end_addr=addr_of(5), reason="EIO")
    image = ImageRound({}, (object_vma(0, 8, 0),), (lost,))
    write_tree(tmp_path / "checkpoint", 1, {PID: image}, [held])
    with MemoryView(Checkpoint.open(tmp_path / "checkpoint")) as view:
        assert view.read(addr_of(0), PAGE_BYTES) == ZERO_PAGE
        assert view.read(addr_of(3), PAGE_BYTES) == page_of(3)
        for page, reason in ((1, "poison"), (4, "EIO")):
            with pytest.raises(AddressAbsent, match=f"could not be read .{reason}"):
                view.read(addr_of(page), 1)


def test_a_parent_page_never_consults_an_object(tmp_path: Path) -> None:
    """The object counts for what is absent in the round asked for, not in a round before it."""
    vmas = (object_vma(0, 2, 0),)
    held = ImageObject(0, {0: page_of(10), 1: page_of(11)})
    checkpoint = tmp_path / "checkpoint"
    parent = write_tree(checkpoint, 1, {PID: ImageRound({0: page_of(1)}, vmas)}, [held])
    later = ImageObject(0, {0: page_of(20)}, 2 * PAGE_BYTES)
    write_tree(checkpoint, 2, {PID: ImageRound({0: RunKind.PARENT}, vmas)}, [later], parent)
    with MemoryView(Checkpoint.open(checkpoint)) as view:
        assert view.read(addr_of(0), 2 * PAGE_BYTES) == page_of(1) + ZERO_PAGE
    with MemoryView(Checkpoint.open(checkpoint), 1) as view:
        assert view.read(addr_of(0), 2 * PAGE_BYTES) == page_of(1) + page_of(11)


class TestManyObjects:
    N_OBJECTS = 40

    @pytest.fixture
    def view(self, tmp_path: Path) -> Iterator[MemoryView]:
        objects = [ImageObject(number, {0: page_of(number), 2: page_of(99)}) for number in range(self.N_OBJECTS)]
        vmas = tuple(object_vma(3 * number, 3 * number + 3, number) for number in range(self.N_OBJECTS))
        write_tree(tmp_path / "checkpoint", 1, {PID: ImageRound({}, vmas)}, objects)
        with MemoryView(Checkpoint.open(tmp_path / "checkpoint")) as opened:
            yield opened

    def test_few_files_are_open_at_a_time(self, view: MemoryView, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[RoundPages] = []
        closed: list[RoundPages] = []

        class Counted(RoundPages):
            def __init__(self, *args: object) -> None:
                super().__init__(*args)  # type: ignore[arg-type]
                opened.append(self)

            def close(self) -> None:
                super().close()
                closed.append(self)

        monkeypatch.setattr(checkpoints, "RoundPages", Counted)
        for number in range(self.N_OBJECTS):
            assert view.read(addr_of(3 * number), PAGE_BYTES) == page_of(number)
            assert len(opened) - len(closed) <= 8
        assert len(opened) == self.N_OBJECTS
        view.close()
        assert set(opened) == set(closed)

    def test_a_walk_goes_on_while_others_are_read(self, tmp_path: Path) -> None:
        """Also into frames of the pagemap that were not read before the others were."""
        pages: dict[int, RunKind] = {2 * number: RunKind.ZERO for number in range(RUNS_PER_FRAME + 10)}
        n_pages = max(pages) + 1
        objects = [ImageObject(0, pages)]
        objects += [ImageObject(number, {0: page_of(number)}) for number in range(1, self.N_OBJECTS)]
        vmas = [object_vma(0, n_pages, 0)]
        vmas += [object_vma(n_pages + number, n_pages + number + 1, number) for number in range(1, self.N_OBJECTS)]
        write_tree(tmp_path / "checkpoint", 1, {PID: ImageRound({}, tuple(vmas))}, objects)
        with MemoryView(Checkpoint.open(tmp_path / "checkpoint")) as view:
            walk = view.segments(addr_of(0), addr_of(n_pages))
            first = next(walk)
            for number in range(1, self.N_OBJECTS):
                assert view.read(addr_of(n_pages + number), PAGE_BYTES) == page_of(number)
            walked = [first, *walk]
        assert [segment.start_addr for segment in walked] == [addr_of(page) for page in range(n_pages)]


def test_zstd_reads_the_files_of_an_object(path: Path) -> None:
    file = path / "0001" / object_pages_name(7)
    content = subprocess.run([ZSTD, "-dc", str(file)], check=True, capture_output=True).stdout
    assert content == page_of(2) + page_of(4) + page_of(5)


def test_the_view_of_a_round_without_objects_is_as_before(tmp_path: Path) -> None:
    """One segment for a hole, however many VMAs it spans."""
    vmas = (vma_of(0, 2), replace(vma_of(2, 4), perms="r--p"))
    write_round(tmp_path / "checkpoint", 1, ImageRound({}, vmas))
    with MemoryView(Checkpoint.open(tmp_path / "checkpoint")) as view:
        assert list(view.segments(addr_of(0), addr_of(9))) == [
            Segment(addr_of(0), addr_of(9), SegmentKind.ABSENT, 1, 0)
        ]
