"""The page store: any range of pages, across frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.errors import ImageCorrupt
from formats.framefile import DiskFile
from formats.framereader import FrameReader
from formats.frames import FrameWriter, compress_frames
from formats.layout import FRAME_PAGES, PAGE_BYTES, PAGES_FRAME_BYTES
from formats.pages import PageStore
from tests.format.images import page_of

N_PAGES = 3 * FRAME_PAGES + 5
CONTENT = b"".join(page_of(page) for page in range(N_PAGES))


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    path = tmp_path / "pages-1.zst"
    writer = FrameWriter(DiskFile(path))
    writer.append(*compress_frames(memoryview(CONTENT), PAGES_FRAME_BYTES, 1))
    writer.close()
    return path


@pytest.mark.parametrize(
    ("page_index", "n_pages"),
    [(0, 1), (63, 1), (63, 2), (64, 64), (1, 150), (0, N_PAGES), (N_PAGES - 1, 1), (N_PAGES, 0)],
)
def test_reads_what_was_written(store_path: Path, page_index: int, n_pages: int) -> None:
    with PageStore(store_path) as store:
        assert store.n_pages == N_PAGES
        start = page_index * PAGE_BYTES
        assert store.read(page_index, n_pages) == CONTENT[start : start + n_pages * PAGE_BYTES]


@pytest.mark.parametrize(("page_index", "n_pages"), [(N_PAGES, 1), (0, N_PAGES + 1), (1 << 63, 1), (-1, 1)])
def test_pages_that_are_not_there(store_path: Path, page_index: int, n_pages: int) -> None:
    with PageStore(store_path) as store, pytest.raises(ImageCorrupt, match="pages"):
        store.read(page_index, n_pages)


def test_what_pages_take_of_the_file(store_path: Path) -> None:
    with PageStore(store_path) as store, FrameReader(store_path, max_frame_bytes=PAGES_FRAME_BYTES) as reader:
        ends = [0, *(reader.stored_range(index)[1] for index in range(reader.frame_count))]
        frames = [store.stored_bytes_before(min(index * FRAME_PAGES, N_PAGES)) for index in range(len(ends))]
        assert frames == ends
        assert store.stored_bytes_before(FRAME_PAGES // 2) == ends[1] // 2
        assert store.stored_bytes_before(N_PAGES - 1) == ends[3] + (ends[4] - ends[3]) * 4 // 5
        for page_index in (-1, N_PAGES + 1):
            with pytest.raises(ImageCorrupt, match="pages"):
                store.stored_bytes_before(page_index)


def test_one_page_decodes_one_frame_once(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    read_frame = FrameReader.read_frame

    def counting_read_frame(reader: FrameReader, index: int) -> bytes:
        decoded.append(index)
        return read_frame(reader, index)

    monkeypatch.setattr(FrameReader, "read_frame", counting_read_frame)
    with PageStore(store_path) as store:
        store.read(70, 1)
        store.read(71, 1)
    assert decoded == [1]


def test_content_is_whole_pages(tmp_path: Path) -> None:
    writer = FrameWriter(DiskFile(tmp_path / "pages-1.zst"))
    writer.append(*compress_frames(memoryview(bytes(PAGE_BYTES + 1)), PAGES_FRAME_BYTES, 1))
    writer.close()
    with pytest.raises(ImageCorrupt, match="impossible size"):
        PageStore(tmp_path / "pages-1.zst")
