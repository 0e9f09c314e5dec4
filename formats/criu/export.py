"""A round as a directory of image files that CRIU's tools read: docs/other-formats.md.

    OUT/0001/ pagemap-42.img pages-1.img                    each round that the last one builds on has its pages only
    OUT/0002/ pagemap-42.img pages-1.img parent -> ../0001
    OUT/0003/ inventory.img pstree.img core-42.img ...      parent -> ../0002

or, flattened, all of it in OUT itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from formats.checkpoint import Checkpoint, RoundInfo
from formats.criu.memory import mapped_shared, shared_id
from formats.criu.pagefiles import PageFiles
from formats.criu.pages import OwnPages, PagesOfChain, PagesOfRound, PrivatePages, SharedPages
from formats.criu.state import write_state
from formats.errors import StorageError
from formats.exporting import Progress, is_torn
from formats.files import create_directory
from formats.images import PageSource
from formats.layout import ADDR_LIMIT, PAGE_BYTES, round_name
from formats.manifest import Manifest, Missing, Process
from formats.sources import ObjectSources
from formats.wholedirectory import whole_directory

_PARENT = "parent"
_PROGRESS_STEP_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class CriuOptions:
    """`flat`: one directory for all; `torn` permits a pre-dump round; `threads` decompress."""

    flat: bool = False
    torn: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CriuReport:
    """What was written: `images` is the directory to name to CRIU's tools, `rounds` how many have a directory.

    `left_out` is what the round has and the images do not.
    """

    path: str
    images: str
    rounds: int
    processes: int
    threads: int
    data_bytes: int
    torn: bool
    left_out: list[Missing]


def write_criu(
    checkpoint: Checkpoint, number: int | None, path: Path, options: CriuOptions, progress: Progress
) -> CriuReport:
    """Write round `number` (the selected one) with all of its processes into a new directory `path`.

    The directory has another name until it is complete. Raises UsageError, also for a pre-dump round without the
    option that permits it and for a directory that is there; ParentMissing, ImageCorrupt, ImageVersionUnsupported,
    StorageError.
    """
    torn = is_torn(checkpoint, number, permitted=options.torn)
    info = checkpoint.round(number)
    lineage = _lineage(checkpoint, info.number)
    with whole_directory(path) as directory:
        counter = _Counter(lineage, progress, flat=options.flat)
        export = _Export(checkpoint, info, options.threads, counter.add)
        numbers = [level.number for level in lineage]
        left_out = export.write_flat(directory) if options.flat else export.write_chain(directory, numbers)
        counter.finish()
    manifest = info.manifest
    return CriuReport(
        path=str(path.absolute()),
        images=str(path.absolute() if options.flat else path.absolute() / round_name(info.number)),
        rounds=1 if options.flat else len(lineage),
        processes=len(manifest.processes),
        threads=sum(len(process.threads) for process in manifest.processes),
        data_bytes=counter.done_bytes,
        torn=torn,
        left_out=left_out,
    )


class _Level(NamedTuple):
    """A round of a lineage: how many pages of the processes have bytes in it, and in it or below."""

    number: int
    pages_data: int
    pages_all: int


def _lineage(checkpoint: Checkpoint, number: int) -> list[_Level]:
    """The round, the one it builds on, and so on."""
    levels = []
    for info in checkpoint.lineage(number):
        stats = info.manifest.stats
        levels.append(_Level(info.number, stats.pages_data, stats.pages_data + stats.pages_parent))
    return levels


class _Counter:
    """Counts the bytes of pages that are copied, and tells of them now and then."""

    def __init__(self, lineage: list[_Level], progress: Progress, *, flat: bool) -> None:
        self.done_bytes = 0
        self._told_bytes = 0
        # A round may hold pages of processes that ended, and refer to zeros: this is the most that it can be.
        self._total_bytes = PAGE_BYTES * (lineage[0].pages_all if flat else sum(item.pages_data for item in lineage))
        self._progress = progress

    def add(self, n_bytes: int) -> None:
        """So many more."""
        self.done_bytes += n_bytes
        if self.done_bytes - self._told_bytes >= _PROGRESS_STEP_BYTES:
            self._told_bytes = self.done_bytes
            self._progress(self.done_bytes, max(self.done_bytes, self._total_bytes))

    def finish(self) -> None:
        """That is all."""
        self._progress(self.done_bytes, self.done_bytes)


class _Export:
    """Writes round `info` and those it builds on."""

    def __init__(self, checkpoint: Checkpoint, info: RoundInfo, threads: int, on_copied: Callable[[int], None]) -> None:
        self._checkpoint = checkpoint
        self._info = info
        self._threads = threads
        self._on_copied = on_copied

    def write_flat(self, directory: Path) -> list[Missing]:
        """All in one directory. Returns what is left out; raises ImageCorrupt, StorageError."""
        levels = self._levels()
        return self._write_round(directory, lambda process: PagesOfChain(process.pid, levels.pop(process.pid)))

    def _levels(self) -> dict[int, list[PageSource]]:
        """What the round and those it builds on have of its processes by pid, each as far back as there is any."""
        further = list(_alive(self._info.manifest))
        levels: dict[int, list[PageSource]] = {process.pid: [] for process in further}
        for level in self._checkpoint.lineage(self._info.number):  # once for all: its manifests are large
            further = [process for process in further if _is_in(level, process)]
            for process in further:
                levels[process.pid].append(level.pages_of(process))
        return levels

    def write_chain(self, directory: Path, numbers: list[int]) -> list[Missing]:
        """Each round in a directory of its own; `numbers` are theirs, from the last one back.

        Returns what is left out; raises ImageCorrupt, StorageError.
        """
        places = [directory / round_name(number) for number in numbers]
        for place in places:
            create_directory(place)
        for child, parent in pairwise(places):
            _link(child / _PARENT, Path("..", parent.name))
        left_out = self._write_round(places[0], partial(self._pages_of_round, self._info))
        for number, place in zip(numbers[1:], places[1:], strict=True):
            self._write_earlier(self._checkpoint.round(number), place)
        return left_out

    def _pages_of_round(self, info: RoundInfo, process: Process) -> PagesOfRound:
        parent = self._checkpoint.parent_of(info)
        return PagesOfRound(process.pid, info.pages_of(process), parent.pages_of(process) if parent else None)

    def _write_round(self, directory: Path, own_pages: Callable[[Process], OwnPages]) -> list[Missing]:
        """All of the round. Returns what is left out."""
        info = self._info
        left_out = write_state(info, directory)
        objects = {item.id: item for item in info.manifest.objects}
        files = PageFiles(directory, self._threads, self._on_copied)
        with ObjectSources(info) as sources:
            for process in _alive(info.manifest):
                with own_pages(process) as own:
                    pages = PrivatePages(process, objects, own, sources)
                    files.write(str(process.pid), pages, pages)
            for number in sorted(mapped_shared(info.manifest)):
                shared = SharedPages(objects[number], sources)
                files.write(f"shmem-{shared_id(number)}", shared, shared)
        return left_out

    def _write_earlier(self, info: RoundInfo, directory: Path) -> None:
        """The pages that an earlier round has of the processes."""
        files = PageFiles(directory, self._threads, self._on_copied)
        for process in _alive(self._info.manifest):
            if _is_in(info, process):
                with self._pages_of_round(info, process) as own:
                    files.write(str(process.pid), own.pages(0, ADDR_LIMIT), own)


def _alive(manifest: Manifest) -> Iterator[Process]:
    return (process for process in manifest.processes if process.zombie is None)


def _is_in(info: RoundInfo, process: Process) -> bool:
    """Whether the round has this process, and not another that had its pid."""
    same = info.process(process.pid)
    return same is not None and same.start_time_ticks == process.start_time_ticks


def _link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target)
    except OSError as error:
        raise StorageError.from_os_error("create", path, error) from error
