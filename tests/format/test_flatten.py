"""A flattened round is what the chain was, page by page, to readers and to later rounds; a damaged one is refused."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import frameplan
from formats.chain import Checkpoint, MemoryView, Segment, SegmentKind
from formats.check import verify
from formats.checkpointlock import CheckpointBusy
from formats.errors import ImageCorrupt, NotACheckpoint, ParentMissing, PredumpError, UsageError
from formats.flatten import FlattenOptions, FlattenReport, flatten_into
from formats.frameplan import Part, joined, planned
from formats.frames import compress_frames
from formats.layout import FLATTEN_NAME, FRAME_PAGES, PAGE_BYTES, RunKind, round_name
from formats.manifest import Parent, RoundKind
from formats.replacing import chosen_round, flatten_in_place, tidy_up
from formats.roundwriter import RoundWriter
from tests.format.images import (
    PID,
    ZERO_PAGE,
    ImageObject,
    ImageRound,
    PageState,
    addr_of,
    manifest_of,
    object_vma,
    pack_runs,
    page_of,
    process_of,
    vma_of,
    write_chain,
    write_round,
    write_tree,
)
from tests.harness import poll_until

N_PAGES = 40
SMALL_FRAME_PAGES = 8
OPTIONS = FlattenOptions(threads=2)

Content = dict[int, bytes | None]
"""Bytes of each page of a process, None for a hole."""


def no_progress(_done: int, _total: int) -> None:
    pass


def content_of(checkpoint: Checkpoint, number: int, pid: int = PID) -> Content:
    """All that a round has of a process, as a reader of the chain sees it."""
    found: Content = {}
    with MemoryView(checkpoint, number, pid) as view:
        for vma in view.vmas:
            for start, end, content in view.chunks(vma.start_addr, vma.end_addr):
                for addr in range(start, end, PAGE_BYTES):
                    found[addr] = None if content is None else content[addr - start :][:PAGE_BYTES]
    return found


def kinds_of(checkpoint: Checkpoint, number: int) -> dict[int, SegmentKind]:
    """Which pages a round has data, zeros or nothing for."""
    with MemoryView(checkpoint, number) as view:
        return {
            addr: segment.kind
            for vma in view.vmas
            for segment in view.segments(vma.start_addr, vma.end_addr)
            for addr in range(segment.start_addr, segment.end_addr, PAGE_BYTES)
        }


def segments_of(checkpoint: Checkpoint, number: int) -> list[Segment]:
    with MemoryView(checkpoint, number) as view:
        return list(view.segments(addr_of(0), addr_of(N_PAGES)))


# ---- the plan of frames ----


@st.composite
def wanted_pages(draw: st.DrawFn) -> list[tuple[int, int]]:
    """(source, page of it): pages of each source ascend, in stretches."""
    position = dict.fromkeys(range(3), 0)
    pages = []
    for source, skipped, n_pages in draw(
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from((0, 0, 0, 1, 5, 64)), st.integers(1, 150)), max_size=12)
    ):
        start = position[source] + skipped
        pages += [(source, page) for page in range(start, start + n_pages)]
        position[source] = start + n_pages
    return pages


def parts_of(pages: list[tuple[int, int]], frame_pages: int) -> Iterator[Part]:
    """One by one, of files whose frames have so many pages each."""
    for source, page in pages:
        yield Part(source, page // frame_pages, frame_pages, page % frame_pages, 1)


def pages_of(part: Part) -> list[tuple[int, int]]:
    first = part.frame_index * part.frame_pages + part.first_page
    return [(part.source, page) for page in range(first, first + part.n_pages)]


@given(pages=wanted_pages(), frame_pages=st.sampled_from((FRAME_PAGES, 40, 32, 7, 1)))
def test_a_plan_has_every_page_once_and_in_order(pages: list[tuple[int, int]], frame_pages: int) -> None:
    frames = list(planned(parts_of(pages, frame_pages)))
    assert [page for frame in frames for part in frame for page in pages_of(part)] == pages
    assert all(1 <= sum(part.n_pages for part in frame) <= FRAME_PAGES for frame in frames)


@given(pages=wanted_pages(), frame_pages=st.sampled_from((FRAME_PAGES, 40, 32)))
def test_whole_frames_go_on_as_they_are(pages: list[tuple[int, int]], frame_pages: int) -> None:
    whole = [part for part in joined(parts_of(pages, frame_pages)) if part.is_whole]
    assert [frame[0] for frame in planned(parts_of(pages, frame_pages)) if frame[0].is_whole] == whole


def test_short_frames_do_not_add_up() -> None:
    """Flattened again and again, a file has no more frames than twice what its pages need."""
    pages = [(0, page) for page in range(40 * FRAME_PAGES)]
    frames = list(planned(parts_of(pages, 5)))
    assert len(frames) == 40


# ---- chains ----


@dataclass(frozen=True)
class Chain:
    """Rounds as a dumper would write them, and the pages in each frame of them."""

    images: list[ImageRound]
    frame_pages: list[int]

    def write(self, path: Path) -> Checkpoint:
        parent: Parent | None = None
        for number, (image, frame_pages) in enumerate(zip(self.images, self.frame_pages, strict=True), start=1):
            writer = RoundWriter(path, number)
            pages, pagemap = writer.open_process(PID)
            content = b"".join(state for _, state in sorted(image.pages.items()) if isinstance(state, bytes))
            pages.append(*compress_frames(memoryview(content), frame_pages * PAGE_BYTES, 1))
            pagemap.append(pack_runs(image.pages))
            _, sha256 = writer.commit(manifest_of(number, process_of(image), parent))
            parent = Parent(round=number, sha256=sha256)
        return Checkpoint.open(path)


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    images: list[ImageRound] = []
    memory: dict[int, bytes] = {}
    seed = 0
    for number in range(draw(st.integers(1, 5))):
        least = N_PAGES // 2 if number == 0 else 0
        changes = draw(
            st.dictionaries(
                st.integers(0, N_PAGES - 1), st.sampled_from(["data", "data", "zero", "drop"]), min_size=least
            )
        )
        earlier, memory = memory, dict(memory)
        for page, change in changes.items():
            if change == "drop":
                memory.pop(page, None)
                continue
            seed += 1
            memory[page] = page_of(seed) if change == "data" else ZERO_PAGE
        pages: dict[int, PageState] = {}
        for page, content in memory.items():
            if page not in changes and page in earlier:
                pages[page] = RunKind.PARENT
            else:
                pages[page] = RunKind.ZERO if content == ZERO_PAGE else content
        # Two VMAs that touch: runs go across.
        images.append(ImageRound(pages, vmas=(vma_of(0, N_PAGES // 3), vma_of(N_PAGES // 3, N_PAGES))))
    frame_pages = [draw(st.sampled_from((SMALL_FRAME_PAGES, 3, 1))) for _ in images]
    return Chain(images, frame_pages)


@contextmanager
def small_frames() -> Iterator[None]:
    """New frames have a few pages only, so that small chains have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frameplan, "FRAME_PAGES", SMALL_FRAME_PAGES)
        patch.setattr(frameplan, "COPIED_MIN_PAGES", SMALL_FRAME_PAGES // 2)
        yield


def assert_sound(path: Path) -> Checkpoint:
    checkpoint = Checkpoint.open(path)
    assert verify(checkpoint).findings == []
    return checkpoint


@settings(max_examples=60)
@given(chain=chains(), data=st.data())
def test_a_flattened_round_is_the_chain(chain: Chain, data: st.DataObject) -> None:
    number = data.draw(st.integers(1, len(chain.images)))
    with tempfile.TemporaryDirectory() as name, small_frames():
        before = chain.write(Path(name, "before"))
        out = Path(name, "out")
        report = flatten_into(before, number, out, OPTIONS, no_progress)
        after = assert_sound(out)
        assert after.numbers == [number]
        assert content_of(after, number) == content_of(before, number)
        assert kinds_of(after, number) == kinds_of(before, number)
        manifest = after.round().manifest
        assert manifest.full
        assert (report.pages_data, report.pages_zero) == (manifest.stats.pages_data, manifest.stats.pages_zero)

        for later in range(number + 1, len(chain.images) + 1):
            shutil.copytree(before.path / round_name(later), out / round_name(later))
        after = assert_sound(out)
        for later in range(number + 1, len(chain.images) + 1):
            assert content_of(after, later) == content_of(before, later)


@settings(max_examples=30)
@given(chain=chains(), data=st.data())
def test_in_place_the_rounds_before_are_gone_and_later_ones_are_as_they_were(chain: Chain, data: st.DataObject) -> None:
    n_rounds = len(chain.images)
    with tempfile.TemporaryDirectory() as name, small_frames():
        path = Path(name, "checkpoint")
        before = chain.write(path)
        contents = {number: content_of(before, number) for number in before.numbers}
        while n_rounds > 1:  # again and again
            keep = data.draw(st.integers(0, n_rounds - 2))
            _, dropped = flatten_in_place(path, None, keep, OPTIONS, no_progress)
            assert dropped == n_rounds - 1 - keep
            n_rounds = keep + 1
            after = assert_sound(path)
            assert len(after.numbers) == n_rounds
            assert sorted(path.iterdir()) == [path / round_name(number) for number in after.numbers]
            for number in after.numbers:
                assert content_of(after, number) == contents[number]
        assert flatten_in_place(path, None, 0, OPTIONS, no_progress) == (None, 0)


def test_what_need_not_change_is_not_compressed_again(tmp_path: Path) -> None:
    """Of 20 frames, a page of one was written: it alone is made anew, the others are the same bytes."""
    n_pages = 20 * FRAME_PAGES
    vmas = (vma_of(0, n_pages),)
    first = ImageRound({page: page_of(page) for page in range(n_pages)}, vmas)
    second = ImageRound({page: page_of(9999) if page == 700 else RunKind.PARENT for page in range(n_pages)}, vmas)
    checkpoint = Checkpoint.open(write_chain(tmp_path / "checkpoint", first, second))
    report = flatten_into(checkpoint, None, tmp_path / "out", OPTIONS, no_progress)
    assert (report.copied_frames, report.made_frames) == (19, 1)
    assert report.rounds == 2
    stored = (tmp_path / "out" / "0002" / f"pages-{PID}.zst").read_bytes()
    original = (checkpoint.path / "0001" / f"pages-{PID}.zst").read_bytes()
    assert stored[: report.copied_bytes // 4] == original[: report.copied_bytes // 4]
    assert content_of(assert_sound(tmp_path / "out"), 2) == content_of(checkpoint, 2)


def tree_with_objects(path: Path) -> Checkpoint:
    vmas = (vma_of(0, 8), object_vma(8, 12, 1), object_vma(12, 14, 2))
    images = {PID: ImageRound({0: page_of(1), 3: RunKind.ZERO}, vmas), PID + 1: ImageRound({5: page_of(2)}, vmas)}
    objects = [ImageObject(1, {0: page_of(3), 2: RunKind.ZERO}), ImageObject(2, {})]
    parent = write_tree(path, 1, images, objects)
    later = {PID: ImageRound({0: RunKind.PARENT, 3: page_of(4)}, vmas), PID + 1: ImageRound({5: RunKind.PARENT}, vmas)}
    write_tree(
        path, 2, later, [ImageObject(1, {0: page_of(5), 3: page_of(6)}), ImageObject(2, {1: page_of(7)})], parent
    )
    return Checkpoint.open(path)


def test_all_processes_and_the_objects_of_the_round_are_in_it(tmp_path: Path) -> None:
    before = tree_with_objects(tmp_path / "before")
    flatten_into(before, None, tmp_path / "out", OPTIONS, no_progress)
    after = assert_sound(tmp_path / "out")
    for pid in (PID, PID + 1):
        assert content_of(after, 2, pid) == content_of(before, 2, pid)
    was, now = before.round(2).manifest, after.round(2).manifest
    assert now.kind is RoundKind.DUMP
    assert now.objects == was.objects
    assert now.created_ns == was.created_ns
    assert now.stands_for == [before.round(2).sha256]


def test_a_process_of_an_earlier_round_with_the_same_pid_is_another_one(tmp_path: Path) -> None:
    before = Checkpoint.open(
        write_chain(
            tmp_path / "before",
            ImageRound({0: page_of(1)}, start_time_ticks=6),
            ImageRound({0: RunKind.PARENT}, start_time_ticks=7),
        )
    )
    with pytest.raises(ImageCorrupt):
        flatten_into(before, None, tmp_path / "out", OPTIONS, no_progress)


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    before = tree_with_objects(tmp_path / "before")
    seen: list[tuple[int, int]] = []
    flatten_into(before, None, tmp_path / "out", OPTIONS, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0


# ---- what is refused ----


def chain_of_three(path: Path) -> Checkpoint:
    """Frames that are copied, frames of which parts are needed, and one that nobody needs any more."""
    n_pages = 5 * FRAME_PAGES
    vmas = (vma_of(0, n_pages),)
    first: dict[int, PageState] = {page: page_of(page) for page in range(n_pages)}
    second = dict.fromkeys(first, RunKind.PARENT) | {page: page_of(1000 + page) for page in range(64, 128)}
    third = dict.fromkeys(first, RunKind.PARENT) | {page: page_of(2000 + page) for page in (3, 200, 201)}
    return Checkpoint.open(write_chain(path, *(ImageRound(pages, vmas) for pages in (first, second, third))))


def exit_code_of(checkpoint: Path, out: Path) -> int:
    """Of flattening round 3."""
    try:
        flatten_into(Checkpoint.open(checkpoint), 3, out, OPTIONS, no_progress)
    except PredumpError as error:
        return error.exit_code
    return 0


def test_a_damaged_source_never_makes_a_wrong_round(tmp_path: Path) -> None:
    """One bit, anywhere: it is refused, or it is in bytes that nobody needs."""
    before = chain_of_three(tmp_path / "before")
    right = content_of(before, 3)
    random = Random(20261)
    refused = 0
    for number, path in [(n, p) for n in before.numbers for p in sorted((before.path / round_name(n)).iterdir())]:
        sound = path.read_bytes()
        for offset in {0, len(sound) - 1, *(random.randrange(len(sound)) for _ in range(12))}:
            path.write_bytes(sound[:offset] + bytes([sound[offset] ^ 1 << random.randrange(8)]) + sound[offset + 1 :])
            out = tmp_path / "out"
            code = exit_code_of(before.path, out)
            if code:
                assert code in {20, 21}, (number, path.name, offset)
                assert not out.exists()
                refused += 1
            else:
                assert content_of(assert_sound(out), 3) == right, (number, path.name, offset)
                shutil.rmtree(out)
        path.write_bytes(sound)
    assert refused > 60


@pytest.mark.parametrize("frame", range(5))
def test_a_frame_with_other_content_of_the_same_checksum_is_refused(tmp_path: Path, frame: int) -> None:
    """The bytes of a frame that is copied are not decompressed: the digest of its file tells."""
    before = chain_of_three(tmp_path / "before")
    path = before.path / "0001" / f"pages-{PID}.zst"
    sound = bytearray(path.read_bytes())
    from formats.framereader import FrameReader  # noqa: PLC0415

    with FrameReader(path, max_frame_bytes=64 * PAGE_BYTES) as reader:
        start, end = reader.stored_range(frame)
    sound[(start + end) // 2] ^= 0x40
    path.write_bytes(sound)
    with pytest.raises(ImageCorrupt, match="0001"):
        flatten_into(before, 3, tmp_path / "out", OPTIONS, no_progress)
    assert not (tmp_path / "out").exists()


def test_a_missing_parent(tmp_path: Path) -> None:
    before = chain_of_three(tmp_path / "before")
    shutil.rmtree(before.path / "0001")
    with pytest.raises(ParentMissing):
        flatten_into(Checkpoint.open(before.path), None, tmp_path / "out", OPTIONS, no_progress)
    with pytest.raises(ParentMissing):
        flatten_in_place(before.path, None, 0, OPTIONS, no_progress)
    assert not (tmp_path / "out").exists()
    assert not (before.path / FLATTEN_NAME).exists()


def test_runs_outside_of_the_vmas(tmp_path: Path) -> None:
    write_chain(tmp_path / "before", ImageRound({0: page_of(1), 70: page_of(2)}, vmas=(vma_of(0, 64),)))
    with pytest.raises(ImageCorrupt, match="in no VMA"):
        flatten_into(Checkpoint.open(tmp_path / "before"), None, tmp_path / "out", OPTIONS, no_progress)


def test_a_parent_page_that_the_parent_lacks(tmp_path: Path) -> None:
    write_chain(tmp_path / "before", ImageRound({0: page_of(1)}), ImageRound({1: RunKind.PARENT}))
    with pytest.raises(ImageCorrupt, match="refers to its parent"):
        flatten_into(Checkpoint.open(tmp_path / "before"), None, tmp_path / "out", OPTIONS, no_progress)


def test_into_a_checkpoint(tmp_path: Path) -> None:
    before = chain_of_three(tmp_path / "before")
    with pytest.raises(UsageError, match="already"):
        flatten_into(before, None, before.path, OPTIONS, no_progress)
    assert before.path.is_dir()


def test_round_that_is_not_there(tmp_path: Path) -> None:
    before = chain_of_three(tmp_path / "before")
    with pytest.raises(UsageError, match="no round 4"):
        flatten_into(before, 4, tmp_path / "out", OPTIONS, no_progress)
    with pytest.raises(UsageError, match="no round 4"):
        flatten_in_place(before.path, 4, 0, OPTIONS, no_progress)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotACheckpoint):
        flatten_in_place(tmp_path / "empty", None, 0, OPTIONS, no_progress)


@pytest.mark.parametrize(("keep", "chosen"), [(0, 3), (1, 2), (2, 1), (3, None), (9, None)])
def test_how_many_are_kept(tmp_path: Path, keep: int, chosen: int | None) -> None:
    assert chosen_round(chain_of_three(tmp_path / "checkpoint"), None, keep) == chosen


# ---- in place ----


def test_a_later_round_that_builds_on_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    first = write_round(path, 1, ImageRound({0: page_of(1)}))
    write_round(path, 2, ImageRound({0: page_of(2)}), first)
    write_round(path, 3, ImageRound({0: RunKind.PARENT}), first)
    with pytest.raises(UsageError, match=r"Round 3 of .* builds on round 1"):
        flatten_in_place(path, 2, 0, OPTIONS, no_progress)
    assert Checkpoint.open(path).numbers == [1, 2, 3]


def test_a_full_round_needs_no_flattening(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    write_round(path, 1, ImageRound({0: page_of(1)}))
    sha256 = write_round(path, 2, ImageRound({0: page_of(2)})).sha256
    assert flatten_in_place(path, None, 0, OPTIONS, no_progress) == (None, 1)
    assert Checkpoint.open(path).numbers == [2]
    assert Checkpoint.open(path).round().sha256 == sha256


def test_only_a_round_that_stands_for_it_is_taken_for_a_parent(tmp_path: Path) -> None:
    """A flattened round of another chain with the same number is not the one that was meant."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    chain_of_three(mine)
    write_chain(other, ImageRound({0: page_of(5)}), ImageRound({0: page_of(6)}))
    flatten_into(Checkpoint.open(other), 2, tmp_path / "out", OPTIONS, no_progress)
    shutil.rmtree(mine / "0002")
    shutil.copytree(tmp_path / "out" / "0002", mine / "0002")
    with pytest.raises(ImageCorrupt, match="not the one it was taken on top of"):
        content_of(Checkpoint.open(mine), 3)


def test_it_waits_for_a_command_that_writes(tmp_path: Path) -> None:
    path = chain_of_three(tmp_path / "checkpoint").path
    done: list[tuple[FlattenReport | None, int]] = []
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: done.append(flatten_in_place(path, None, 0, OPTIONS, no_progress)))
        thread.start()
        waiting = f"{os.fstat(fd).st_ino} "
        poll_until(
            lambda: "-> FLOCK" in Path("/proc/locks").read_text(), 20, f"somebody to wait for the lock {waiting}"
        )
        assert Checkpoint.open(path).numbers == [1, 2, 3]
    finally:
        os.close(fd)
    thread.join(20)
    assert done[0][1] == 2
    assert assert_sound(path).numbers == [3]


def test_rounds_may_be_added_while_it_is_at_work(tmp_path: Path) -> None:
    """What another command leaves alone, and finds unfinished, is not what is at work here."""
    path = chain_of_three(tmp_path / "checkpoint").path
    added: list[int] = []

    def add_one(_done: int, _total: int) -> None:
        if not added:
            added.append(4)
            assert tidy_up(path) == []
            last = Checkpoint.open(path).round()
            pages = dict.fromkeys(range(5 * FRAME_PAGES), RunKind.PARENT) | {1: page_of(7)}
            image = ImageRound(pages, vmas=(vma_of(0, 5 * FRAME_PAGES),))
            write_round(path, 4, image, Parent(round=3, sha256=last.sha256))
            with pytest.raises(CheckpointBusy):
                flatten_in_place(path, None, 0, OPTIONS, no_progress)

    flatten_in_place(path, None, 0, OPTIONS, add_one)
    after = assert_sound(path)
    assert after.numbers == [3, 4]
    assert content_of(after, 4)[addr_of(1)] == page_of(7)
    assert content_of(after, 4)[addr_of(64)] == page_of(1064)


def leave_half_done(path: Path, fail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a death would: nothing is tidied up on the way out."""
    from formats import replacing  # noqa: PLC0415

    class Death(BaseException):
        pass

    def reached(point: str) -> None:
        if point == fail:
            raise Death

    with monkeypatch.context() as patch:
        patch.setattr(replacing, "reached", reached)
        patch.setattr(replacing._Place, "close", lambda place: place._lock.close())
        with pytest.raises(Death):
            flatten_in_place(path, 3, 0, OPTIONS, no_progress)


@pytest.mark.parametrize(
    ("point", "rounds"),
    [
        ("flatten-begun", [1, 2, 3, 4]),
        ("flatten-written", [1, 2, 3, 4]),
        ("flatten-swapped", [3, 4]),
        ("flatten-moved", [3, 4]),
        ("flatten-replaced", [3, 4]),
        ("flatten-removed", [3, 4]),
    ],
)
def test_the_next_command_ends_what_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, rounds: list[int]
) -> None:
    path = chain_of_three(tmp_path / "checkpoint").path
    image = ImageRound(dict.fromkeys(range(320), RunKind.PARENT), vmas=(vma_of(0, 320),))
    write_round(path, 4, image, Parent(round=3, sha256=Checkpoint.open(path).round().sha256))
    before = Checkpoint.open(path)
    contents = {number: content_of(before, number) for number in (3, 4)}
    leave_half_done(path, point, monkeypatch)
    left = assert_sound(path)
    assert {number: content_of(left, number) for number in (3, 4)} == contents
    assert tidy_up(path) == []
    assert assert_sound(path).numbers == rounds
    assert not (path / FLATTEN_NAME).exists()
    flatten_in_place(path, 3, 0, OPTIONS, no_progress)
    after = assert_sound(path)
    assert after.numbers == [3, 4]
    assert {number: content_of(after, number) for number in (3, 4)} == contents


def test_a_damaged_round_in_the_place_of_others_costs_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the swap the old round is kept until somebody has read the new one's manifest."""
    path = chain_of_three(tmp_path / "checkpoint").path
    leave_half_done(path, "flatten-swapped", monkeypatch)
    manifest = path / "0003" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-40])
    with pytest.raises(ImageCorrupt):
        tidy_up(path)
    assert (path / FLATTEN_NAME / "0003" / "manifest.json").exists()
    assert (path / "0001").exists()


def test_files_of_others_are_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = chain_of_three(tmp_path / "checkpoint").path
    leave_half_done(path, "flatten-swapped", monkeypatch)
    (path / "0002" / "notes").write_text("mine")
    with pytest.raises(PredumpError, match="notes"):
        tidy_up(path)
    assert (path / FLATTEN_NAME / "0002" / "notes").read_text() == "mine"


def test_pages_of_many_rounds_side_by_side(tmp_path: Path) -> None:
    """Each frame is made of pages of four rounds, and each of theirs has pages for four frames."""
    n_pages = 64 * 64
    vmas = (vma_of(0, n_pages),)
    images = [ImageRound({page: page_of(page) for page in range(n_pages)}, vmas)]
    images += [
        ImageRound({page: page_of(page * 7 + k) if page % 4 == k else RunKind.PARENT for page in range(n_pages)}, vmas)
        for k in range(4)
    ]
    checkpoint = Checkpoint.open(write_chain(tmp_path / "checkpoint", *images))
    report = flatten_into(checkpoint, None, tmp_path / "out", OPTIONS, no_progress)
    assert report.made_frames == 64
    assert content_of(assert_sound(tmp_path / "out"), 5) == content_of(checkpoint, 5)
