"""What `inspect` shows, as it stood when somebody looked at it last: tests/display/golden.

Where the view is meant to change, `pytest tests/display --renew-golden` writes the files anew; look at what `git diff`
says of them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.mappings import Order
from analysis.selection import VmaSelection
from analysis.subject import subject_of
from commands.inspect import SECTIONS
from display.inspect import shown
from display.view import View
from formats.checkpoint import Checkpoint
from formats.images import Images
from formats.layout import MANIFEST_NAME, PAGE_BYTES, RunKind
from formats.manifest import FreezeBy, Parent, RoundKind, Stats
from formats.roundwriter import RoundWriter
from tests.display import samples
from tests.display.samples import MemoryCheckpoint, render
from tests.format.images import ImageRound, PageState, fill_round, process_of, vma_of

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = (80, 160)
CHECKPOINT = Path("ck")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Paths and times that are the same everywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def tree() -> Images:
    return MemoryCheckpoint(samples.tree_manifest())


def pre_dump() -> Images:
    process = replace(samples.process_of(samples.SERVER, 1, "server"), unseen_writers=["io_uring of descriptor 9"])
    manifest = samples.manifest_of(process, kind=RoundKind.PRE_DUMP)
    return MemoryCheckpoint(replace(manifest, stats=replace(manifest.stats, frozen_ns=0)))


def chain() -> Images:
    """Two pre-dumps and a dump, with pages that no compressor makes smaller: their sizes are the same everywhere."""
    noise = random.Random(1)
    vmas = (
        vma_of(0, 96, "heap", "[heap]"),
        replace(vma_of(128, 192, "file", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3"), perms="r-xp"),
        vma_of(256, 288),
        vma_of(300, 310),
        replace(vma_of(320, 356, "stack", "[stack]"), note="grows"),
    )

    def data(*pages: int) -> dict[int, PageState]:
        return {page: noise.randbytes(PAGE_BYTES) for page in pages}

    first = data(*range(64), 130, *range(256, 288), 355) | dict.fromkeys(range(64, 80), RunKind.ZERO)
    parents = dict.fromkeys(first, RunKind.PARENT)
    parent = None
    for number, written in enumerate((first, data(*range(256, 280), 355), data(5, *range(256, 272), 355)), start=1):
        parent = _write(number, ImageRound(parents | written if parent else written, vmas), parent)
    return Checkpoint.open(CHECKPOINT)


def _write(number: int, image: ImageRound, parent: Parent | None) -> Parent:
    process = replace(
        process_of(image, samples.SERVER),
        name="server",
        cmdline=["server", "--config", "/etc/server with a long name.conf", "--listen", "127.0.0.1:6379", "--verbose"],
        threads=[samples.thread_of(samples.SERVER), samples.thread_of(samples.SERVER + 1, "worker")],
        pages_present=128,
    )
    n_data, is_dump = process.pages_data, number == 3
    stats = Stats(
        pages_present=128,
        pages_data=n_data,
        pages_zero=process.pages_zero,
        pages_parent=process.pages_parent,
        raw_bytes=n_data * PAGE_BYTES,
        stored_bytes=n_data * 1800,
        duration_ns=20_000_000 // number,
        frozen_ns=2_300_000 if is_dump else 0,
        predicted_freeze_ns=2_000_000 if is_dump else 0,
        stop_ns=100_000 if is_dump else 0,
        scan_ns=700_000 if is_dump else 0,
        copy_ns=1_400_000 if is_dump else 0,
        pages_copied_frozen=17 if is_dump else 0,
        micro_rounds=2 if is_dump else 0,
    )
    manifest = samples.manifest_of(
        process,
        kind=RoundKind.DUMP if is_dump else RoundKind.PRE_DUMP,
        round=number,
        created_ns=1_750_000_000_000_000_000 + number * 1_000_000_000,
        parent=parent,
        full=parent is None,
        full_reason="it is the first round" if parent is None else "",
        freeze_by=FreezeBy.COPY if is_dump else None,
        stats=stats,
    )
    writer = RoundWriter(CHECKPOINT, number)
    fill_round(writer, image, samples.SERVER)
    _, sha256 = writer.commit(manifest)
    return Parent(round=number, sha256=sha256)


def damaged() -> Images:
    chain()
    (CHECKPOINT / "0001" / f"pages-{samples.SERVER}.zst").unlink()
    path = CHECKPOINT / "0002" / MANIFEST_NAME
    path.write_bytes(path.read_bytes().replace(b"worker", b"walker"))
    return Checkpoint.open(CHECKPOINT)


ALL_BUT_THE_SUMMARY = SECTIONS[1:]
CASES: dict[str, tuple[Callable[[], Images], tuple[str, ...]]] = {
    "tree": (tree, ("summary",)),
    "tree-in-full": (tree, ALL_BUT_THE_SUMMARY),
    "pre-dump": (pre_dump, ("summary",)),
    "chain": (chain, ("summary",)),
    "chain-in-full": (chain, ALL_BUT_THE_SUMMARY),
    "damaged": (damaged, ("summary",)),
}


def assert_as_it_was(request: pytest.FixtureRequest, name: str, text: str) -> None:
    text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--renew-golden"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", CASES)
def test_as_it_was(name: str, columns: int, request: pytest.FixtureRequest) -> None:
    make, sections = CASES[name]
    assert_as_it_was(request, f"{name}-{columns}", render(shown(subject_of(make()), View(columns), sections), columns))


def test_mappings_that_are_meant_in_the_order_that_is_wanted(request: pytest.FixtureRequest) -> None:
    selection = VmaSelection(words=("heap", "stack", "anon"), min_bytes=11 * PAGE_BYTES)
    subject = subject_of(chain(), selection=selection, order=Order.WRITTEN)
    assert_as_it_was(request, "filtered-80", render(shown(subject, View(80, plain=True, limit=2), ("vmas",)), 80))
