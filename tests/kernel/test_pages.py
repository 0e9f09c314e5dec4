"""The native layer on live memory: scans, classification, copies and packing of a child process.

The child does what it is told, so that every page has a known state; what the native code says of
it is compared with plain Python that knows those states.
"""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dumper.kernel.copy import Copier, FileMaps, PageBuffer, Source, pack
from dumper.kernel.pages import Scanner, Span, SpanFlag, SpanTable
from dumper.kernel.runs import RunKind, RunList
from tests.harness import page_tables_kb
from tests.kernel.child import (
    ANON,
    COPY,
    DATA,
    MADV_GUARD_INSTALL,
    MAP_HUGETLB,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE,
    PARENT,
    PROT_NONE,
    STAGED,
    ZERO,
    ZERO_PAGE,
    Child,
    PageOf,
    Run,
    pages_of,
    run_list,
    running_child,
)


def scan(
    child: Child,
    addr: int,
    spans: list[Span],
    *,
    reset: bool,
    staged: Iterable[Run] = (),
    covered: Iterable[Run] = (),
    regions: int = Scanner.REGIONS,
    out_runs: int = 1 << 12,
) -> list[PageOf]:
    """All pages a scan yields, taken in portions of `regions` regions and `out_runs` runs."""
    scanner = Scanner(child.pagemap_fd)
    scanner.REGIONS = regions  # never more than there was room made for
    staged_list, covered_list = run_list(addr, staged), run_list(addr, covered)
    scanner.start(SpanTable(spans), staged_list, covered_list)  # keeps neither alive
    out, found = RunList(out_runs), []
    while scanner.next_runs(out, reset=reset):
        found += pages_of(addr, out)
        out.clear()
    return found


# ---- PAGEMAP_SCAN ----------------------------------------------------------------------------------


@pytest.mark.parametrize("regions", [1, 7, 511, 512, 513, 700, 999, 1000, 1001, Scanner.REGIONS])
@pytest.mark.parametrize("between", ["holes", "unwritten"])
def test_each_written_page_is_reported_once(child: Child, between: str, regions: int) -> None:
    """Also where the last batch of the kernel is not full: its walk_end is stale then."""
    n_pages = 2000
    addr = child.map(n_pages)
    span = [Span(addr, addr + n_pages * PAGE)]
    covered = [(0, n_pages, DATA, 0)]
    child.track(addr, n_pages)
    others = range(0) if between == "holes" else range(1, n_pages, 2)
    child.touch(addr, others)
    scan(child, addr, span, reset=True)
    child.touch(addr, range(0, n_pages, 2))

    first = scan(child, addr, span, reset=True, covered=covered, regions=regions)
    second = scan(child, addr, span, reset=True, covered=covered, regions=regions)

    written = [(page, COPY, 0) for page in range(0, n_pages, 2)]
    assert first == sorted(written + [(page, PARENT, 0) for page in others])
    assert second == [(page, PARENT, 0) for page, _, _ in first]


def test_page_tables_of_a_sparse_mapping_do_not_grow(child: Child) -> None:
    n_pages, touched = (64 << 30) // PAGE, range(5, (64 << 30) // PAGE, 160_001)
    addr = child.map(n_pages)
    span = [Span(addr, addr + n_pages * PAGE)]
    child.touch(addr, touched)
    before_kb = page_tables_kb(child.pid)

    child.track(addr, n_pages)
    first = scan(child, addr, span, reset=True)
    child.touch(addr, touched[::2])
    second = scan(child, addr, span, reset=True, covered=[(0, n_pages, DATA, 0)])

    assert page_tables_kb(child.pid) == before_kb
    assert first == [(page, COPY, 0) for page in touched]
    assert second == [(page, PARENT if i % 2 else COPY, 0) for i, page in enumerate(touched)]


def test_scanning_memory_that_is_gone_says_so(child: Child) -> None:
    addr = child.map(1)
    scanner, nothing = Scanner(child.pagemap_fd), RunList(1)
    scanner.check_memory()
    child.end()

    with pytest.raises(ProcessLookupError):
        scanner.check_memory()
    scanner.start(SpanTable([Span(addr, addr + PAGE)]), nothing, nothing)
    with pytest.raises(ProcessLookupError):
        scanner.next_runs(RunList(1), reset=True)


# ---- classification --------------------------------------------------------------------------------


def test_what_becomes_of_each_page(child: Child) -> None:
    n_pages = 12
    addr = child.map(n_pages)
    span = [Span(addr, addr + n_pages * PAGE)]
    child.track(addr, n_pages)
    child.touch(addr, range(9))
    scan(child, addr, span, reset=True)
    child.touch(addr, [0, 5])
    child.read(addr, [9])
    covered: list[Run] = [(0, 2, DATA, 7), (2, 1, ZERO, 0), (3, 1, PARENT, 0), (9, 3, DATA, 9)]
    staged: list[Run] = [(3, 1, PARENT, 0), (5, 2, STAGED, 40), (7, 1, COPY, 0)]

    assert scan(child, addr, span, reset=False, staged=staged, covered=covered) == [
        (0, COPY, 0),  # written
        (1, PARENT, 0),  # unwritten, in an earlier round as data,
        (2, PARENT, 0),  # as a zero page,
        (3, PARENT, 0),  # as unchanged
        (4, COPY, 0),  # unwritten, but in no earlier round
        (5, COPY, 0),  # staged, but written after that
        (6, STAGED, 41),
        (7, COPY, 0),  # staging it failed
        (8, COPY, 0),  # unwritten, but in no earlier round
        (9, ZERO, 0),  # whatever is known of it
        # 10, 11: holes
    ]


@pytest.mark.parametrize("flags", [SpanFlag.UNSEEN, SpanFlag.WHOLE])
def test_pages_whose_writes_go_unseen_are_copied(child: Child, flags: SpanFlag) -> None:
    addr = child.map(8)
    child.track(addr, 8)
    child.touch(addr, range(6))
    scan(child, addr, [Span(addr, addr + 8 * PAGE)], reset=True)

    span = [Span(addr, addr + 8 * PAGE, flags)]
    present = 8 if flags is SpanFlag.WHOLE else 6
    found = scan(child, addr, span, reset=False, covered=[(0, 8, DATA, 0)])
    assert found == [(page, COPY, 0) for page in range(present)]


def test_pages_that_nobody_tracks_are_copied(child: Child) -> None:
    addr = child.map(4)
    child.touch(addr, range(4))
    span = [Span(addr, addr + 4 * PAGE)]
    found = scan(child, addr, span, reset=False, covered=[(0, 4, DATA, 0)])
    assert found == [(page, COPY, 0) for page in range(4)]


def test_a_mapping_that_a_move_took_the_registration_from(child: Child) -> None:
    """Pages that come back to the end of it: the kernel drops the registration of all, and keeps their protection."""
    addr, elsewhere = child.map(8), child.map(1)
    child.touch(addr, range(8))
    child.track(addr, 8)
    child.remap(addr + 7 * PAGE, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere)
    child.track(addr, 7)
    child.track(elsewhere, 1)
    assert scan(child, addr, [Span(addr, addr + 7 * PAGE)], reset=True) == [(page, COPY, 0) for page in range(7)]
    child.remap(elsewhere, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED, addr + 7 * PAGE)
    child.touch(addr, [2])  # unseen
    child.track(addr, 8)
    spans, covered = [Span(addr, addr + 8 * PAGE)], [(0, 7, DATA, 0)]
    kinds = {page: kind for page, kind, _ in scan(child, addr, spans, reset=True, covered=covered)}
    assert kinds[2] is COPY
    child.touch(addr, [2])
    covered = [(0, 8, DATA, 0)]
    kinds = {page: kind for page, kind, _ in scan(child, addr, spans, reset=True, covered=covered)}
    assert kinds == {page: COPY if page == 2 else PARENT for page in range(8)}


@pytest.mark.parametrize("kind", ["small", "huge"])
def test_registering_again_changes_nothing(child: Child, kind: str, request: pytest.FixtureRequest) -> None:
    flags, n_pages = ANON, 700
    if kind == "huge":
        request.getfixturevalue("huge_pages")
        flags, n_pages = ANON | MAP_HUGETLB, 1024
    addr = child.map(n_pages, flags)
    child.touch(addr, range(512))
    spans, covered = [Span(addr, addr + n_pages * PAGE)], [(0, n_pages, DATA, 0)]
    for expected in (COPY, PARENT, PARENT):
        child.track(addr, n_pages)
        found = scan(child, addr, spans, reset=True, covered=covered)
        assert {(page, kind) for page, kind, _ in found} == {(page, expected) for page in range(512)}


def test_a_dropped_private_copy_of_a_file_page_is_copied(child: Child) -> None:
    """It leaves a marker that looks like a page in swap; its bytes are the file's again."""
    fd = child.memfd()
    os.pwrite(child.take_fd(fd), b"f" * 4 * PAGE, 0)
    addr = child.map(4, mmap.MAP_PRIVATE, fd)
    span = [Span(addr, addr + 4 * PAGE, SpanFlag.FILE)]
    child.track(addr, 4)
    child.touch(addr, range(4))
    scan(child, addr, span, reset=True)
    child.advise(addr, range(1, 3), mmap.MADV_DONTNEED)

    found = scan(child, addr, span, reset=False, covered=[(0, 4, DATA, 0)])
    assert found == [(0, PARENT, 0), (1, COPY, 0), (2, COPY, 0), (3, PARENT, 0)]


def _random_runs(rng: random.Random, n_pages: int, kinds: list[RunKind]) -> list[Run]:
    runs: list[Run] = []
    page = rng.randrange(4)
    while page < n_pages:
        length = min(rng.choice([1, 2, 5, 30]), n_pages - page)
        kind = rng.choice(kinds)
        runs.append((page, length, kind, rng.randrange(1000) if kind in (DATA, STAGED) else 0))
        page += length + rng.choice([0, 0, 1, 6])
    return runs


def _find(runs: list[Run], page: int, kinds: set[RunKind]) -> Run | None:
    hits = (r for r in runs if r[2] in kinds and r[0] <= page < r[0] + r[1])
    return next(hits, None)


def _model(states: list[str], staged: list[Run], covered: list[Run]) -> list[PageOf]:
    found: list[PageOf] = []
    for page, state in enumerate(states):
        if state in ("hole", "dropped", "guard"):
            continue
        newer = _find(staged, page, {STAGED, COPY})
        if state in ("zero", "old zero"):
            found.append((page, ZERO, 0))
        elif state == "written":
            found.append((page, COPY, 0))
        elif newer:
            index = newer[3] + page - newer[0] if newer[2] is STAGED else 0
            found.append((page, newer[2], index))
        else:
            earlier = _find(covered, page, {DATA, ZERO, PARENT})
            found.append((page, PARENT if earlier else COPY, 0))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_classification_agrees_with_a_model(child: Child, seed: int) -> None:
    rng = random.Random(seed)
    names = ["unwritten", "written", "zero", "old zero", "hole", "dropped", "guard"]
    states: list[str] = []
    while len(states) < 300:
        states += rng.choices(names, weights=[6, 2, 1, 1, 1, 1, 1]) * rng.choice([1, 1, 3, 20])
    n_pages = len(states)
    pages = {name: [i for i, state in enumerate(states) if state == name] for name in names}
    addr = child.map(n_pages)
    span = [Span(addr, addr + n_pages * PAGE)]
    child.track(addr, n_pages)
    child.read(addr, pages["old zero"])
    child.touch(addr, pages["unwritten"] + pages["written"] + pages["dropped"] + pages["guard"])
    scan(child, addr, span, reset=True)
    child.touch(addr, pages["written"])
    child.read(addr, pages["zero"])
    for name, advice in (("dropped", mmap.MADV_DONTNEED), ("guard", MADV_GUARD_INSTALL)):
        for page in pages[name]:
            child.advise(addr, range(page, page + 1), advice)
    staged = _random_runs(rng, n_pages, [STAGED, STAGED, COPY, PARENT, ZERO])
    covered = _random_runs(rng, n_pages, [DATA, DATA, ZERO, PARENT])

    for regions, out_runs in ((Scanner.REGIONS, 1 << 12), (rng.randrange(1, 50), 3), (1, 1)):
        found = scan(
            child,
            addr,
            span,
            reset=False,
            staged=staged,
            covered=covered,
            regions=regions,
            out_runs=out_runs,
        )
        assert found == _model(states, staged, covered)


# ---- copies ----------------------------------------------------------------------------------------


class Zoo:
    """A child with pages of every sort; `contents` has the bytes of each, None if unreadable."""

    N_PAGES = 2600

    def __init__(self, child: Child) -> None:
        rng = random.Random(7)
        self.child = child
        self.addr = child.map(self.N_PAGES)
        self.contents: list[bytes | None] = []
        unmapped: list[range] = []
        protected: list[tuple[range, int]] = []
        sorts = ["random", "zero", "one byte", "unmapped", "PROT_NONE", "PROT_WRITE"]
        while len(self.contents) < self.N_PAGES:
            sort = rng.choices(sorts, weights=[6, 3, 1, 1, 1, 1])[0]
            length = min(rng.choice([1, 2, 3, 17, 90]), self.N_PAGES - len(self.contents))
            block = range(len(self.contents), len(self.contents) + length)
            self.contents += [self._content(rng, sort) for _ in block]
            if sort == "unmapped":
                unmapped.append(block)
            elif sort.startswith("PROT_"):
                protected.append((block, PROT_NONE if sort == "PROT_NONE" else mmap.PROT_WRITE))
        child.write(self.addr, {i: c for i, c in enumerate(self.contents) if c is not None})
        for block in unmapped:
            child.unmap(self.addr, block)
        for block, prot in protected:
            child.protect(self.addr, block, prot)

    @staticmethod
    def _content(rng: random.Random, sort: str) -> bytes | None:
        if sort == "unmapped":
            return None
        if sort == "zero":
            return ZERO_PAGE
        if sort == "one byte":  # not a zero page, wherever the byte is
            page = bytearray(PAGE)
            page[rng.choice([0, 15, 16, PAGE - 1])] = 1
            return bytes(page)
        return rng.randbytes(PAGE)

    def expected(self, runs: list[Run]) -> tuple[list[tuple[int, RunKind, bytes]], list[int]]:
        """(page, kind, bytes) of what a round of these runs holds, and the pages that are lost."""
        held: list[tuple[int, RunKind, bytes]] = []
        lost = []
        for first, n_pages, kind, _ in runs:
            for page in range(first, first + n_pages):
                content = self.contents[page]
                if kind is not COPY:
                    held.append((page, kind, b""))
                elif content is None:
                    lost.append(page)
                elif content == ZERO_PAGE:
                    held.append((page, ZERO, b""))
                else:
                    held.append((page, DATA, content))
        return held, lost

    def source(self, staging: PageBuffer | None = None) -> Source:
        return Source(self.child.pid, self.child.mem_fd, FileMaps(), staging)


@pytest.fixture(scope="module")
def zoo() -> Iterator[Zoo]:
    with running_child() as child:
        yield Zoo(child)


def copied(
    addr: int, source: Source, runs: RunList, buffer_pages: int, room_runs: int = 0
) -> tuple[list[tuple[int, RunKind, bytes]], list[int]]:
    """Copies and packs `runs`, and gives back what `Zoo.expected` gives."""
    copier = Copier(source, runs)
    buffer = PageBuffer(buffer_pages)
    out, packed = RunList((1 << 11) + room_runs), RunList(1)
    held: list[tuple[int, RunKind, bytes]] = []
    next_index, more = 1000, True  # not from 0: page_index counts through the whole round
    while more:
        buffer.clear()
        out.clear()
        packed.clear()
        more = copier.fill(buffer, out)
        pack(out, buffer, next_index, packed)
        content = buffer.content()
        first_index = next_index
        for page, kind, index in pages_of(addr, packed):
            data = b""
            if kind is DATA:
                assert index == next_index
                at = (index - first_index) * PAGE
                data = bytes(content[at : at + PAGE])
                next_index += 1
            held.append((page, kind, data))
        assert next_index - first_index == buffer.n_pages
    ranges = [range((s - addr) // PAGE, (e - addr) // PAGE) for s, e in copier.lost]
    return held, [page for pages in ranges for page in pages]


@st.composite
def copy_runs(draw: st.DrawFn) -> list[Run]:
    """Runs of random shape in the zoo: sorted, and neighbours may touch."""
    shapes = draw(
        st.lists(
            st.tuples(
                st.integers(0, 40),
                st.one_of(st.integers(1, 6), st.integers(1, 1500)),
                st.sampled_from([COPY, COPY, COPY, PARENT, ZERO]),
            ),
            max_size=60,
        )
    )
    runs: list[Run] = []
    page = 0
    for gap, wanted, kind in shapes:
        page += gap
        length = min(wanted, Zoo.N_PAGES - page)
        if length <= 0:
            break
        runs.append((page, length, kind, 0))
        page += length
    return runs


ALL: list[Run] = [(0, Zoo.N_PAGES, COPY, 0)]
SINGLES: list[Run] = [(page, 1, COPY, 0) for page in range(0, Zoo.N_PAGES, 2)]
reproducible = settings(derandomize=True, deadline=None, max_examples=60, database=None)


@reproducible
@given(runs=copy_runs(), buffer_pages=st.integers(1, 3000), room_runs=st.integers(0, 3000))
@example(runs=ALL, buffer_pages=1024, room_runs=0)
@example(runs=ALL, buffer_pages=Zoo.N_PAGES, room_runs=1 << 13)
@example(runs=SINGLES, buffer_pages=Zoo.N_PAGES, room_runs=0)
@example(runs=[], buffer_pages=1, room_runs=0)
def test_copies_agree_with_a_model(zoo: Zoo, runs: list[Run], buffer_pages: int, room_runs: int) -> None:
    got = copied(zoo.addr, zoo.source(), run_list(zoo.addr, runs), buffer_pages, room_runs)
    assert got == zoo.expected(runs)


@reproducible
@given(runs=copy_runs(), staging_pages=st.integers(1, 3000), buffer_pages=st.integers(1, 1500))
@example(runs=ALL, staging_pages=Zoo.N_PAGES, buffer_pages=1024)
@example(runs=ALL, staging_pages=1025, buffer_pages=1024)
@example(runs=SINGLES, staging_pages=700, buffer_pages=64)
def test_staged_copies_agree_with_a_model(zoo: Zoo, runs: list[Run], staging_pages: int, buffer_pages: int) -> None:
    staging, staged = PageBuffer(staging_pages), RunList(1)
    complete = Copier(zoo.source(), run_list(zoo.addr, runs)).stage(staging, staged)
    found = pages_of(zoo.addr, staged)
    to_copy = [page for first, n, kind, _ in runs if kind is COPY for page in range(first, first + n)]
    kept = [page for page, kind, _ in found if kind is COPY]

    assert [page for page, _, _ in found] == [p for f, n, _, _ in runs for p in range(f, f + n)]
    assert complete == (len(to_copy) <= staging_pages)
    assert staging.n_pages == min(len(to_copy), staging_pages)
    unreadable = [page for page in to_copy if zoo.contents[page] is None]
    assert kept == sorted({*unreadable, *to_copy[staging_pages:]})

    records = staged.packed()
    held, lost = zoo.expected(runs)
    assert copied(zoo.addr, zoo.source(staging), staged, buffer_pages) == (held, lost)

    # Without the process, what was staged is all there is.
    again = RunList(1)
    again.extend_packed(records)
    source = Source(0, -1, FileMaps(), staging)
    missing = set(kept)
    held = [entry for entry in held if entry[0] not in missing]
    assert copied(zoo.addr, source, again, buffer_pages) == (held, kept)


def test_copying_from_a_process_that_is_gone_says_so(child: Child) -> None:
    addr = child.map(1)
    child.touch(addr, [0])
    child.end()
    source = Source(child.pid, child.mem_fd, FileMaps())
    with pytest.raises(ProcessLookupError):
        copied(addr, source, run_list(addr, [(0, 1, COPY, 0)]), 1)


# ---- spans by descriptor ---------------------------------------------------------------------------


def _data_pages(fd: int) -> set[int]:
    """Pages of a file that hold data, as SEEK_DATA tells."""
    found: set[int] = set()
    end_bytes = os.fstat(fd).st_size
    at = 0
    while at < end_bytes:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            break
        hole = os.lseek(fd, at, os.SEEK_HOLE)
        found |= set(range(at // PAGE, -(-hole // PAGE)))
        at = hole
    return found


@pytest.fixture(params=["memfd", "deleted file"])
def sparse_file(request: pytest.FixtureRequest, child: Child, tmp_path: Path) -> tuple[int, int, set[int]]:
    """A file without a name, of 64 pages with holes: its descriptor there, here, and data pages."""
    theirs = child.memfd() if request.param == "memfd" else child.deleted_file(f"{tmp_path}/f")
    ours = child.take_fd(theirs)
    os.truncate(ours, 63 * PAGE + 100)  # the last page is not full
    for page in (0, 6, 7, 8, 20, 40, 41):
        os.pwrite(ours, bytes([page + 1]) * PAGE, page * PAGE)
    os.pwrite(ours, b"e" * 100, 63 * PAGE)
    return theirs, ours, _data_pages(ours)


@pytest.mark.parametrize("regions", [1, 2, Scanner.REGIONS])
@pytest.mark.parametrize("offset_pages", [0, 6, 10])
def test_shared_mapping_of_a_nameless_file(
    child: Child, sparse_file: tuple[int, int, set[int]], offset_pages: int, regions: int
) -> None:
    """Its pages are the data of the file, read there: the child itself touched none of them."""
    theirs, ours, data = sparse_file
    n_pages = 72 - offset_pages
    addr = child.map(n_pages, mmap.MAP_SHARED, theirs, offset_pages)
    end_addr = addr + n_pages * PAGE
    flags = SpanFlag.SHARED | SpanFlag.BY_FD
    span = Span(addr, end_addr, flags, ours, offset_pages * PAGE)

    found = scan(child, addr, [span], reset=False, covered=[(0, n_pages, DATA, 0)], regions=regions)

    wanted = sorted(page - offset_pages for page in data if page >= offset_pages)
    assert found == [(page, COPY, 0) for page in wanted]
    files = FileMaps([(addr, end_addr, ours, offset_pages * PAGE)])
    held, lost = copied(addr, Source(0, -1, files), run_list(addr, [(p, 1, COPY, 0) for p in wanted]), 16)
    assert lost == []
    assert [content or ZERO_PAGE for _, _, content in held] == child.read(addr, wanted)


@pytest.mark.parametrize("first", [0, 1, 2, 3, 5])
def test_a_run_over_the_borders_of_a_file_mapping(child: Child, first: int) -> None:
    """Pages of the file come from the file even where the run begins before it."""
    addr = child.map(6)
    child.write(addr, dict.fromkeys(range(6), b"p" * PAGE))
    fd = child.take_fd(child.memfd())
    os.pwrite(fd, b"f" * 6 * PAGE, 0)  # not what the child has there: the bytes tell the source
    files = FileMaps([(addr + n * PAGE, addr + (n + 1) * PAGE, fd, 0) for n in (2, 4)])

    source = Source(child.pid, child.mem_fd, files)
    held, lost = copied(addr, source, run_list(addr, [(first, 6 - first, COPY, 0)]), 6)

    assert lost == []
    origin = "".join(chr(content[0]) for _, _, content in held)
    assert origin == "ppfpfp"[first:]
