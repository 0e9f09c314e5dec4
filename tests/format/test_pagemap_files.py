"""Pagemaps: found and iterated runs against a plain list of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats import layout
from formats.errors import ImageCorrupt
from formats.framefile import DiskFile
from formats.framereader import FrameReader
from formats.layout import ADDR_LIMIT, PAGE_BYTES, RUN, RunKind
from formats.pagemap import Pagemap, PagemapWriter, Run


def write_pagemap(path: Path, records: bytes) -> None:
    writer = PagemapWriter(DiskFile(path))
    writer.append(records)
    writer.close()


def pack(runs: list[Run]) -> bytes:
    return b"".join(RUN.pack(run.start_addr, run.n_pages, run.kind, run.page_index) for run in runs)


@st.composite
def run_lists(draw: st.DrawFn) -> list[Run]:
    runs: list[Run] = []
    page = 0
    page_index = 0
    for gap_pages, n_pages, kind in draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.sampled_from(RunKind)), max_size=30)
    ):
        page += gap_pages
        is_data = kind is RunKind.DATA
        runs.append(Run(page * PAGE_BYTES, n_pages, kind, page_index if is_data else 0))
        page += n_pages
        page_index += n_pages if is_data else 0
    return runs


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PAGEMAP_FRAME_BYTES", 4 * RUN.size)


@pytest.mark.usefixtures("small_frames")
class TestAcrossFrames:
    @given(runs=run_lists(), start=st.integers(0, 60), size=st.integers(0, 60))
    def test_clipped_iteration_matches_the_model(
        self, tmp_path_factory: pytest.TempPathFactory, runs: list[Run], start: int, size: int
    ) -> None:
        path = tmp_path_factory.mktemp("pagemap") / "pagemap-1.zst"
        write_pagemap(path, pack(runs))
        end = start + size
        model: dict[int, tuple[RunKind, int]] = {}
        for run in runs:
            for offset in range(run.n_pages):
                page = run.start_addr // PAGE_BYTES + offset
                index = run.page_index + offset if run.kind is RunKind.DATA else 0
                model[page] = run.kind, index
        with Pagemap(path) as pagemap:
            seen: dict[int, tuple[RunKind, int]] = {}
            for run in pagemap.runs(start * PAGE_BYTES, end * PAGE_BYTES):
                for offset in range(run.n_pages):
                    index = run.page_index + offset if run.kind is RunKind.DATA else 0
                    seen[run.start_addr // PAGE_BYTES + offset] = run.kind, index
            assert seen == {page: at for page, at in model.items() if start <= page < end}
            assert list(pagemap.runs()) == runs
            columns = [row for frame in pagemap.columns() for row in zip(*frame, strict=True)]
            assert columns == [(run.start_addr, run.end_addr, run.kind, run.page_index) for run in runs]
            assert pagemap.run_count == len(runs)

    @given(runs=run_lists(), page=st.integers(0, 200), offset=st.integers(0, PAGE_BYTES - 1))
    def test_find_matches_the_model(
        self, tmp_path_factory: pytest.TempPathFactory, runs: list[Run], page: int, offset: int
    ) -> None:
        path = tmp_path_factory.mktemp("pagemap") / "pagemap-1.zst"
        write_pagemap(path, pack(runs))
        addr = page * PAGE_BYTES + offset
        expected = next((run for run in runs if run.start_addr <= addr < run.end_addr), None)
        with Pagemap(path) as pagemap:
            assert pagemap.find(addr) == expected

    def test_records_may_come_in_any_portions(self, tmp_path: Path) -> None:
        runs = [Run(page * 2 * PAGE_BYTES, 1, RunKind.ZERO, 0) for page in range(11)]
        records = pack(runs)
        writer = PagemapWriter(DiskFile(tmp_path / "pagemap-1.zst"))
        for cut in (slice(0, 24), slice(24, 24), slice(24, 240), slice(240, None)):
            writer.append(memoryview(records)[cut])
        writer.close()
        assert writer.run_count == 11
        with Pagemap(tmp_path / "pagemap-1.zst") as pagemap:
            assert list(pagemap.runs()) == runs

    def test_a_lookup_decodes_a_logarithm_of_the_frames(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        runs = [Run(page * 2 * PAGE_BYTES, 1, RunKind.ZERO, 0) for page in range(4 * 256)]
        write_pagemap(tmp_path / "pagemap-1.zst", pack(runs))
        decoded: list[int] = []
        read_frame = FrameReader.read_frame

        def counting_read_frame(reader: FrameReader, index: int) -> bytes:
            decoded.append(index)
            return read_frame(reader, index)

        monkeypatch.setattr(FrameReader, "read_frame", counting_read_frame)
        with Pagemap(tmp_path / "pagemap-1.zst") as pagemap:
            assert pagemap.find(runs[777].start_addr) == runs[777]
        assert 0 < len(decoded) <= 12

    @pytest.mark.parametrize(
        "runs",
        [
            pytest.param(
                [Run(page * PAGE_BYTES, 2, RunKind.ZERO, 0) for page in (0, 2, 4, 6, 7)],
                id="overlap between frames",
            ),
            pytest.param(
                [Run(page * PAGE_BYTES, 1, RunKind.DATA, page) for page in (0, 1, 2, 3, 5)],
                id="page index jumps between frames",
            ),
        ],
    )
    def test_frames_must_fit_together(self, tmp_path: Path, runs: list[Run]) -> None:
        write_pagemap(tmp_path / "pagemap-1.zst", pack(runs))
        with Pagemap(tmp_path / "pagemap-1.zst") as pagemap, pytest.raises(ImageCorrupt):
            list(pagemap.runs())


def record(start_addr: int, n_pages: int, kind: int, page_index: int) -> bytes:
    return RUN.pack(start_addr, n_pages, kind, page_index)


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(record(1, 1, 2, 0), id="start not on a page"),
        pytest.param(record(0, 0, 2, 0), id="no pages"),
        pytest.param(record(0, 1, 0, 0), id="kind 0"),
        pytest.param(record(0, 1, 4, 0), id="kind 4"),
        pytest.param(record(0, 1, 0xFFFFFFFF, 0), id="kind of 32 bits"),
        pytest.param(record(0, 1, 2, 1), id="index on a zero run"),
        pytest.param(record(0, 1, 3, 1), id="index on a parent run"),
        pytest.param(record(0, 1, 1, 1), id="first index is not 0"),
        pytest.param(record(0, 2, 1, 0) + record(8192, 1, 1, 1), id="index counts wrong"),
        pytest.param(record(0, 2, 2, 0) + record(4096, 1, 2, 0), id="overlap"),
        pytest.param(record(8192, 1, 2, 0) + record(0, 1, 2, 0), id="descending"),
        pytest.param(record(0, 1, 2, 0) * 2, id="twice"),
        pytest.param(record(ADDR_LIMIT - 4096, 2, 2, 0), id="behind the limit"),
        pytest.param(record((1 << 64) - 4096, 1, 2, 0), id="at the end of 64 bits"),
        pytest.param(record(0, 1, 1, 0) + record(4096, 1, 1, (1 << 64) - 1), id="huge index"),
    ],
)
def test_impossible_runs_are_damage(tmp_path: Path, records: bytes) -> None:
    path = tmp_path / "pagemap-1.zst"
    write_pagemap(path, records)
    with Pagemap(path) as pagemap, pytest.raises(ImageCorrupt, match="damaged") as caught:
        list(pagemap.runs())
    assert str(path) in caught.value.message


def test_the_last_page_below_the_limit_is_fine(tmp_path: Path) -> None:
    write_pagemap(tmp_path / "pagemap-1.zst", record(ADDR_LIMIT - 4096, 1, 2, 0))
    with Pagemap(tmp_path / "pagemap-1.zst") as pagemap:
        assert pagemap.find(ADDR_LIMIT - 1) is not None


def test_an_empty_pagemap_has_no_runs(tmp_path: Path) -> None:
    write_pagemap(tmp_path / "pagemap-1.zst", b"")
    with Pagemap(tmp_path / "pagemap-1.zst") as pagemap:
        assert list(pagemap.runs()) == []
        assert pagemap.find(0) is None


def test_half_a_record_is_refused(tmp_path: Path) -> None:
    writer = PagemapWriter(DiskFile(tmp_path / "pagemap-1.zst"))
    with pytest.raises(ValueError, match="whole run records"):
        writer.append(b"x" * 25)
    writer.abort()
