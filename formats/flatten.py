"""Flatten: a round and all that it builds on, as one round that builds on nothing.

It has the same number, and the same pages as before, bytes and holes alike, so that later rounds may go on building on
it: `stands_for` says which manifest file it had before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from formats.checkpoint import Checkpoint, RoundInfo
from formats.checkpointlock import CheckpointLock
from formats.closing import Closing
from formats.errors import UsageError
from formats.framecopy import CopyFigures, FrameCopier, PagesFile
from formats.frameplan import Part
from formats.layout import (
    ADDR_LIMIT,
    PAGE_BYTES,
    pagemap_name,
)
from formats.lineage import PageLineage
from formats.manifest import Manifest, MemoryObject, Process
from formats.mergedruns import RunMerger, VmaCounts
from formats.rounddirs import is_committed, list_round_paths
from formats.roundfiles import PageWriters
from formats.roundpages import RoundPages
from formats.roundwriter import RoundWriter, remove_unfinished
from formats.segments import Segment, SegmentKind
from formats.sources import ObjectSources

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class FlattenOptions:
    """`level` is zstd's, for what is compressed anew; so many threads do that."""

    level: int = 1
    threads: int = 1


@dataclass(frozen=True, slots=True)
class FlattenReport:
    """The round that was written, and out of how many; `copied_bytes` went on as they were stored, in frames."""

    round: int
    kind: str
    rounds: int
    pages_data: int
    pages_zero: int
    raw_bytes: int
    stored_bytes: int
    copied_frames: int
    copied_bytes: int
    made_frames: int
    made_bytes: int


DEFAULTS = FlattenOptions()


def no_progress(_done_bytes: int, _all_bytes: int) -> None:
    """A ProgressCallback for those who do not want to know."""


def flatten(
    checkpoint: Checkpoint, number: int | None, out: Path, options: FlattenOptions, on_progress: ProgressCallback
) -> FlattenReport:
    """Write round `number` (the selected one by default) into the checkpoint `out`, which has no such round yet.

    `on_progress` is called with the bytes of pages that are written and those to write. Memory is bounded, whatever
    the rounds hold. Raises UsageError for a round that is not there, ParentMissing, ImageCorrupt,
    ImageVersionUnsupported, StorageError; `out` has no new round then.
    """
    info = checkpoint.round(number)
    numbers, levels = _levels(checkpoint, info)
    writer = RoundWriter(out, info.number)
    try:
        with _Flattener(info, writer, options, on_progress) as flattener:
            flattened = flattener.manifest(numbers, levels)
        flattened, _ = writer.commit(flattened)
    except BaseException:
        writer.abandon()
        raise
    stats, figures = flattened.stats, flattener.figures
    return FlattenReport(
        round=info.number,
        kind=flattened.kind.value,
        rounds=len(numbers),
        pages_data=stats.pages_data,
        pages_zero=stats.pages_zero,
        raw_bytes=stats.raw_bytes,
        stored_bytes=stats.stored_bytes,
        copied_frames=figures.copied_frames,
        copied_bytes=figures.copied_bytes,
        made_frames=figures.made_frames,
        made_bytes=figures.made_bytes,
    )


def flatten_into(
    checkpoint: Checkpoint,
    number: int | None,
    out: Path,
    options: FlattenOptions = DEFAULTS,
    on_progress: ProgressCallback = no_progress,
) -> FlattenReport:
    """The same into a new checkpoint `out`, which is made if it is missing; nothing is left of it on failure.

    Raises as `flatten`, UsageError if there are rounds in it, CheckpointBusy.
    """
    is_new = not out.is_dir()
    try:
        with CheckpointLock(out):
            if any(map(is_committed, list_round_paths(out))):
                raise UsageError(f"{out} is a checkpoint already.", hint="Name a new directory with -o.", path=str(out))
            remove_unfinished(out)
            return flatten(checkpoint, number, out, options, on_progress)
    except BaseException:
        if is_new:
            with suppress(OSError):
                out.rmdir()
        raise


def _levels(checkpoint: Checkpoint, info: RoundInfo) -> tuple[list[int], dict[int, list[RoundPages]]]:
    """The numbers of a round and of those it builds on, and what each has of the round's processes, by pid."""
    numbers: list[int] = []
    levels: dict[int, list[RoundPages]] = {process.pid: [] for process in info.manifest.processes}
    for level in checkpoint.lineage(info.number):  # once for all: its manifests are large
        numbers.append(level.number)
        for process in info.manifest.processes:
            levels[process.pid].append(level.pages_of(process))
    return numbers, levels


class _Flattener(Closing):
    """Writes the pages of a round, process by process and object by object."""

    def __init__(
        self,
        info: RoundInfo,
        writer: RoundWriter,
        options: FlattenOptions,
        on_progress: ProgressCallback,
    ) -> None:
        self._info = info
        self._writer = writer
        self._on_progress = on_progress
        self._done_bytes = 0
        stats = info.manifest.stats
        self._total_bytes = (stats.pages_data + stats.pages_parent) * PAGE_BYTES  # some of these may be zero
        self._stored_bytes = 0
        self._copier = FrameCopier(options.threads, options.level, self._advance)

    def close(self) -> None:
        self._copier.close()

    @property
    def figures(self) -> CopyFigures:
        return self._copier.figures

    def manifest(self, numbers: list[int], levels: dict[int, list[RoundPages]]) -> Manifest:
        """The manifest of the round, once its pages are written. `numbers` and `levels` are those of `_levels`."""
        manifest = self._info.manifest
        processes = [self._process(process, levels[process.pid]) for process in manifest.processes]
        objects = [self._object(held) for held in manifest.objects]
        self._on_progress(self._total_bytes, self._total_bytes)
        owners: list[Process | MemoryObject] = [*processes, *objects]
        data_pages = sum(owner.pages_data for owner in owners)
        one = len(numbers) == 1
        return replace(
            manifest,
            parent=None,
            full=True,
            full_reason=manifest.full_reason if one else f"flattened from rounds {numbers[-1]} to {numbers[0]}",
            stands_for=[*manifest.stands_for, self._info.sha256],
            processes=processes,
            objects=objects,
            stats=replace(
                manifest.stats,
                pages_data=data_pages,
                pages_zero=sum(owner.pages_zero for owner in owners),
                pages_parent=0,
                raw_bytes=data_pages * PAGE_BYTES,
                stored_bytes=self._stored_bytes,
            ),
            files=[],
        )

    def _process(self, process: Process, levels: list[RoundPages]) -> Process:
        counts = VmaCounts(process.vmas, self._info.path / pagemap_name(process.pid))
        data_pages = zero_pages = 0
        if levels[0].pages_file.entry:
            with PageLineage(f"process {process.pid}", levels) as pages:
                segments = counts.counted(_with_content(pages.segments(0, ADDR_LIMIT)))
                writers = self._writer.open_process(process.pid)
                data_pages, zero_pages = self._write(
                    writers, segments, {level.round: level for level in levels}.__getitem__
                )
        return replace(process, vmas=counts.vmas(), pages_data=data_pages, pages_zero=zero_pages, pages_parent=0)

    def _object(self, held: MemoryObject) -> MemoryObject:
        level = self._info.pages_of_object(held.id)
        data_pages = zero_pages = 0
        if level.pages_file.entry:
            with ObjectSources(self._info) as objects:
                segments = _with_content(objects.segments(held.id, 0, ADDR_LIMIT))
                writers = self._writer.open_object(held.id)
                data_pages, zero_pages = self._write(writers, segments, lambda _number: level)
        return replace(held, pages_data=data_pages, pages_zero=zero_pages)

    def _write(
        self, writers: PageWriters, segments: Iterable[Segment], level_of: Callable[[int], RoundPages]
    ) -> tuple[int, int]:
        """Writes the two files of a process or object from segments with content; returns pages of data and of zeros.

        `level_of` tells what a round has of it.
        """
        pages, pagemap = writers
        runs = RunMerger(pagemap)
        with ExitStack() as opened:
            files: dict[int, PagesFile] = {}

            def parts() -> Iterator[Part]:
                for segment in segments:
                    runs.add(segment)
                    if segment.kind is SegmentKind.ZERO:
                        continue
                    file = files.get(segment.round)
                    if file is None:
                        level = level_of(segment.round)
                        file = PagesFile(segment.round, *level.pages_file)
                        files[segment.round] = opened.enter_context(file)
                    yield from file.parts(segment.page_index, segment.n_pages)

            self._copier.write(pages, parts(), files)
        runs.finish()
        self._stored_bytes += pages.stored_bytes
        return runs.data_pages, runs.zero_pages

    def _advance(self, n_pages: int) -> None:
        self._done_bytes = min(self._done_bytes + n_pages * PAGE_BYTES, self._total_bytes)
        self._on_progress(self._done_bytes, self._total_bytes)


def _with_content(segments: Iterable[Segment]) -> Iterator[Segment]:
    return (segment for segment in segments if segment.kind is not SegmentKind.ABSENT)
