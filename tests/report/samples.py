"""Checkpoints and pages to look at: a small tree with something of everything, and one of very many mappings."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from analysis.history.history import History, ProcessHistory, RoundSeen
from analysis.history.regions import MappedOverTime, cut_into_cells
from analysis.history.writecount import Presence, RegionTotals
from analysis.survey import RoundFigures
from display.report.data import report_data
from formats.checkpoint import Checkpoint
from formats.layout import RunKind
from formats.manifest import FreezeBy, Missing, Parent, RoundKind, Stats, Vma
from formats.roundwriter import RoundWriter
from tests.display.samples import thread_of
from tests.format.images import (
    ImageObject,
    ImageRound,
    PageState,
    fill_round,
    object_vma,
    page_of,
    process_of,
    tree_manifest,
    vma_of,
    write_pages,
)

ROOT, WORKER = 4242, 4243
LIBRARY = "/usr/lib/x86_64-linux-gnu/libexample.so.6"
CELLS, ROUNDS, MAPPINGS = 20_000, 100, 10_000

_HEAP, _LIBRARY, _ANON, _SHARED, _STACK = (0, 40), (60, 70), (70, 74), (80, 96), (200, 208)
_PARENT = RunKind.PARENT


def _vmas(*, gone: bool, dump: bool) -> tuple[Vma, ...]:
    found = [
        vma_of(*_HEAP, kind="heap", path="[heap]"),
        replace(vma_of(*_LIBRARY, kind="file", path=LIBRARY), inode=7),
        vma_of(*_ANON),
        *([vma_of(76, 80, path="/gone")] if gone else []),
        object_vma(*_SHARED, 1) if dump else vma_of(*_SHARED, kind="shmem", path="/object/1"),
        vma_of(*_STACK, kind="stack", path="[stack]"),
    ]
    return tuple(found)


def _pages(number: int) -> dict[int, PageState]:
    """Round 1 has everything. After it the heap's first pages are always written, others less and less."""
    everything = [*range(*_HEAP), *range(60, 64), *range(*_ANON), *range(76, 78), *range(*_STACK)]
    if number == 1:
        return {page: RunKind.ZERO if page in range(30, 36) else page_of(page) for page in everything}
    written = [*range(4), *range(4, 24 // number), *range(*_STACK)[-2:]]
    pages: dict[int, PageState] = dict.fromkeys(everything, _PARENT)
    pages |= {page: page_of(1000 * number + page) for page in written}
    if number > 2:
        pages = {page: state for page, state in pages.items() if page not in range(76, 80)}
    return pages


def _stats(number: int, pages: dict[int, PageState]) -> Stats:
    data = sum(isinstance(state, bytes) for state in pages.values())
    kept = sum(state is _PARENT for state in pages.values())
    zero = len(pages) - data - kept
    is_dump = number >= 4
    phases = {"stop_ns": 400_000, "state_ns": 900_000, "copy_ns": 2_100_000, "resume_ns": 150_000} if is_dump else {}
    return Stats(
        pages_present=len(pages),
        pages_written=data,
        pages_data=data,
        pages_zero=zero,
        pages_parent=kept,
        raw_bytes=data * 4096,
        stored_bytes=data * 1500,
        duration_ns=90_000_000 // number,
        frozen_ns=3_600_000 if is_dump else 0,
        predicted_freeze_ns=3_900_000 if is_dump else 0,
        pages_copied_frozen=2 if is_dump else 0,
        **phases,
    )


def write_sample(checkpoint: Path, name: str = "server", path: str = "/opt/server/data") -> Path:
    """Three pre-dumps and two dumps of a process, called `name`, with a worker since the third.

    One of its mappings is of a file at `path`.
    """
    parent: Parent | None = None
    for number in range(1, 6):
        is_dump = number >= 4
        pages = _pages(number)
        vmas = tuple(
            replace(one, path=path) if one.path == LIBRARY and path else one
            for one in _vmas(gone=number <= 2, dump=is_dump)
        )
        images = {ROOT: ImageRound(pages, vmas)}
        if number >= 3:
            images[WORKER] = ImageRound({page: page_of(page) for page in range(*_ANON)}, (vma_of(*_ANON),))
        objects = [ImageObject(1, {page: page_of(500 + page) for page in range(16)})] if is_dump else []
        writer = RoundWriter(checkpoint, number)
        for pid, image in images.items():
            fill_round(writer, image, pid)
        for item in objects:
            write_pages(writer.open_object(item.id), item.pages, base_addr=0)
        manifest = tree_manifest(number, images, objects, parent)
        root, *others = manifest.processes
        threads = [thread_of(ROOT), thread_of(ROOT + 100, name)]
        root = replace(root, name=name, cmdline=[name, "--serve"], threads=threads, pages_present=len(pages))
        others = [replace(one, name="worker", ppid=ROOT) for one in others]
        root = replace(root, missing=[Missing(what="descriptor 7", reason=f"it is {name}")] if is_dump else [])
        _, sha256 = writer.commit(
            replace(
                manifest,
                kind=RoundKind.DUMP if is_dump else RoundKind.PRE_DUMP,
                freeze_by=FreezeBy.COPY if is_dump else None,
                created_ns=(1_795_910_000 + number) * 10**9,
                processes=[root, *others],
                stats=_stats(number, pages),
            )
        )
        parent = Parent(round=number, sha256=sha256)
    return checkpoint


def data_of(checkpoint: Path) -> dict[str, object]:
    """What the page of a checkpoint knows."""
    opened = Checkpoint.open(checkpoint)
    history = History(opened, None, None, lambda _done, _total: None)
    return report_data(opened, history, history.processes(lambda _done, _total: None))


@dataclass(frozen=True)
class _Crowd:
    """Stands for a History that would take long to write to a disk."""

    last: object
    rounds: list[RoundSeen]
    rounds_left_out: int = 0
    processes_left_out: int = 0


def crowded_data() -> dict[str, object]:
    """A process of ten thousand mappings with long names, in all of which each of a hundred rounds wrote something."""
    chance = random.Random(7)
    vmas = [
        replace(
            vma_of(
                20 * at, 20 * at + 16, "file" if at % 3 else "anon", f"/usr/lib/x86_64-linux-gnu/libnumber-{at}.so.{at}"
            ),
            pages_data=8,
            pages_parent=6,
            note="a note that is much like others",
        )
        for at in range(MAPPINGS)
    ]
    process = replace(process_of(ImageRound({}, ())), name="crowded", vmas=vmas, pages_data=8 * MAPPINGS)
    regions = MappedOverTime(vmas).regions
    cut_into_cells(regions, CELLS)
    assert sum(region.n_cells for region in regions) == CELLS
    stats = _stats(2, _pages(2))
    seen = [
        RoundSeen(RoundFigures(at + 1, RoundKind.PRE_DUMP, at * 10**9, not at, "", False, stats), at or None, None)
        for at in range(ROUNDS)
    ]
    totals = [RegionTotals(chance.randrange(10**6), chance.randrange(ROUNDS), chance.randrange(10**9)) for _ in regions]
    presence = [Presence.FIRST, *[Presence.LATER] * (ROUNDS - 1)]
    history = ProcessHistory(process, regions, totals, 0, presence, [chance.randbytes(CELLS) for _ in range(ROUNDS)])
    manifest = tree_manifest(ROUNDS, {ROOT: ImageRound({}, ())}, [], Parent(round=1, sha256="0" * 64))
    crowd = _Crowd(SimpleNamespace(number=ROUNDS, manifest=replace(manifest, processes=[process])), seen)
    checkpoint = cast(Checkpoint, SimpleNamespace(path=Path("/var/tmp/crowded")))
    return report_data(checkpoint, cast(History, crowd), [history])
