"""Verify: reads every byte of a checkpoint and says what is wrong, as data. It never prints."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path

from formats import runs
from formats.checkpoint import Checkpoint, RoundInfo
from formats.errors import ImageCorrupt, PredumpError, StorageError
from formats.files import open_regular, read_exactly
from formats.layout import (
    FRAME_PAGES,
    MANIFEST_NAME,
    PAGE_BYTES,
    RunKind,
    object_pagemap_name,
    object_pages_name,
    pagemap_name,
    pages_name,
)
from formats.manifest import FileEntry, Manifest, MemoryObject, Process
from formats.pagemap import Pagemap
from formats.pages import PageStore
from formats.rounddirs import is_committed, list_round_paths
from formats.runcolumns import RangeCounts, count_pages, covered, of_kind, uncovered

_HASHED_BYTES = 1 << 20
_FINDINGS_PER_PATH = 16
_FINDINGS_MAX = 1000  # of errors, and of warnings

ProgressCallback = Callable[[int, int], None]


class Severity(StrEnum):
    """Whether the image is damaged, or merely holds something odd."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `exit_code` is 0 for a warning."""

    severity: Severity
    exit_code: int
    round: int | None
    path: str
    message: str


@dataclass(slots=True)
class VerifyReport:
    """What `verify` read and what it found.

    `stored_bytes` were read from files, `data_pages` were decompressed. `more_errors` and `more_warnings` count those
    that were found besides, in files that are not among the first.
    """

    findings: list[Finding] = field(default_factory=list)
    rounds: int = 0
    files: int = 0
    stored_bytes: int = 0
    data_pages: int = 0
    more_errors: int = 0
    more_warnings: int = 0

    @property
    def exit_code(self) -> int:
        """The exit code of the first error, 0 if there is none."""
        return next((item.exit_code for item in self.findings if item.exit_code), 0)


def verify(checkpoint: Checkpoint, on_progress: ProgressCallback | None = None) -> VerifyReport:
    """Check every round of a checkpoint, whatever is wrong with the others.

    `on_progress` is called with the bytes done and the bytes to do (stored bytes hashed plus
    content bytes decompressed). Memory is bounded by the manifests of two rounds. Damage is reported, not
    raised; only StorageError for the directory itself is raised.
    """
    verifier = _Verifier(on_progress)
    verifier.run(checkpoint)
    return verifier.report


def first_problem(info: RoundInfo, parent: RoundInfo | None) -> str:
    """What is wrong with a round whose files are known to be the ones of its manifest, every frame of them sound.

    That is all that `verify` checks beyond it: runs, counts, what is referred to. `parent` is the round that its
    PARENT runs refer to. Returns a sentence, "" if all is well.
    """
    verifier = _Verifier(None, knows_bytes=True)
    verifier.check_round(info, parent)
    return next((item.message for item in verifier.report.findings if item.exit_code), "")


class _Verifier:
    def __init__(self, on_progress: ProgressCallback | None, *, knows_bytes: bool = False) -> None:
        """`knows_bytes`: the bytes of the files were checked before."""
        self.report = VerifyReport()
        self._knows_bytes = knows_bytes
        self._on_progress = on_progress
        self._done_bytes = 0
        self._total_bytes = 0
        self._round: int | None = None
        self._found_in: Counter[Path] = Counter()
        self._found: Counter[Severity] = Counter()

    def run(self, checkpoint: Checkpoint) -> None:
        sound: list[int] = []
        for number in checkpoint.numbers:
            self._round = number
            with self._collect(checkpoint.path):
                self._total_bytes += _bytes_to_check(checkpoint.round(number))
                sound.append(number)
        for number in sound:
            self._round = number
            with self._collect(checkpoint.path):
                info, parent = checkpoint.round(number), None
                with self._collect(info.path):
                    parent = checkpoint.parent_of(info)
                self.check_round(info, parent)
        self._round = None
        self._check_unfinished(checkpoint.path)
        self._advance(self._total_bytes - self._done_bytes)

    def check_round(self, info: RoundInfo, parent: RoundInfo | None) -> None:
        self.report.rounds += 1
        if not self._knows_bytes:
            with self._collect(info.path):
                self._check_names(info)
            for entry in info.manifest.files:
                with self._collect(info.path / entry.name):
                    self._check_digest(info.path / entry.name, entry)
        for process in info.manifest.processes:
            self._check_process(info, parent, process)
        for held in info.manifest.objects:
            self._check_object(info, held)
        self._check_sums(info)
        self._check_use_of_objects(info)

    def _check_sums(self, info: RoundInfo) -> None:
        manifest = info.manifest
        owners = _owners_of(manifest)
        for name, claimed, summed in (
            ("data", manifest.stats.pages_data, sum(item.pages_data for item in owners)),
            ("zero", manifest.stats.pages_zero, sum(item.pages_zero for item in owners)),
            ("parent", manifest.stats.pages_parent, sum(item.pages_parent for item in manifest.processes)),
        ):
            self._compare(info.path / MANIFEST_NAME, f"{name} pages of the round", claimed, summed)

    def _check_use_of_objects(self, info: RoundInfo) -> None:
        manifest = info.manifest
        used = {vma.object for process in manifest.processes for vma in process.vmas}
        used |= {item.object for item in manifest.open_files}
        for held in manifest.objects:
            if held.id not in used:
                self._warn(info.path / MANIFEST_NAME, f"has memory object {held.id}, which nothing refers to")

    def _check_process(self, info: RoundInfo, parent: RoundInfo | None, process: Process) -> None:
        ranges = [(vma.start_addr, vma.end_addr) for vma in process.vmas]

        def check_runs(pagemap: Pagemap, counts: RangeCounts) -> None:
            self._check_vmas(pagemap.path, process, counts)
            for start_addr, end_addr in _few(runs.subtract(covered(pagemap.columns()), ranges)):
                self._damaged(pagemap.path, f"runs cover {start_addr:#x}-{end_addr:#x}, in no VMA")
            self._check_parent_runs(pagemap, info, parent, process)

        names = pages_name(process.pid), pagemap_name(process.pid)
        claimed = {
            RunKind.DATA: process.pages_data,
            RunKind.ZERO: process.pages_zero,
            RunKind.PARENT: process.pages_parent,
        }
        self._check_pair(info, names, claimed, f"process {process.pid}", ranges, check_runs)

    def _check_object(self, info: RoundInfo, held: MemoryObject) -> None:
        def check_runs(pagemap: Pagemap, _counts: RangeCounts) -> None:
            inside = [(0, held.pages_end_bytes)] if held.size_bytes else []
            outside = runs.subtract(covered(pagemap.columns()), inside)
            for start_bytes, end_bytes in _few(outside):
                problem = f"runs cover {start_bytes:#x}-{end_bytes:#x}, past the end of {held.size_bytes} bytes"
                self._damaged(pagemap.path, problem)

        names = object_pages_name(held.id), object_pagemap_name(held.id)
        claimed = {RunKind.DATA: held.pages_data, RunKind.ZERO: held.pages_zero, RunKind.PARENT: 0}
        self._check_pair(info, names, claimed, f"object {held.id}", [], check_runs)

    def _check_pair(
        self,
        info: RoundInfo,
        names: tuple[str, str],
        claimed: dict[RunKind, int],
        owner: str,
        ranges: Sequence[runs.Range],
        check_runs: Callable[[Pagemap, RangeCounts], None],
    ) -> None:
        """Check the pages file and the pagemap of a process or object.

        The latter with `check_runs` too, which gets the pages in each of the ranges.
        """
        pages_path, pagemap_path = (info.path / name for name in names)
        pages_entry, pagemap_entry = (info.file(name) for name in names)
        if pages_entry is None or pagemap_entry is None:
            self._compare(pagemap_path, f"pages of {owner}", sum(claimed.values()), 0)
            return
        with self._collect(pages_path), PageStore(pages_path, pages_entry) as store:
            self._compare(pages_path, "pages in the file", claimed[RunKind.DATA], store.n_pages)
            if not self._knows_bytes:
                self._check_pages(store)
        with self._collect(pagemap_path), Pagemap(pagemap_path, pagemap_entry) as pagemap:
            counts, parts = count_pages(pagemap.columns(), ranges)  # this also checks the order of all runs
            for kind in RunKind:
                self._compare(pagemap_path, f"{kind.name.lower()} pages of {owner}", claimed[kind], counts[kind])
            check_runs(pagemap, parts)

    def _check_vmas(self, path: Path, process: Process, counts: RangeCounts) -> None:
        for number, vma in enumerate(process.vmas):
            for name, kind, claimed in (
                ("data", RunKind.DATA, vma.pages_data),
                ("zero", RunKind.ZERO, vma.pages_zero),
                ("parent", RunKind.PARENT, vma.pages_parent),
            ):
                what = f"{name} pages of the VMA at {vma.start_addr:#x}"
                self._compare(path, what, claimed, counts[kind][number])

    def _check_pages(self, store: PageStore) -> None:
        for page_index in range(0, store.n_pages, FRAME_PAGES):
            n_pages = min(FRAME_PAGES, store.n_pages - page_index)
            with self._collect(store.path):
                store.read(page_index, n_pages)
            self.report.data_pages += n_pages
            self._advance(n_pages * PAGE_BYTES)

    def _check_parent_runs(self, pagemap: Pagemap, info: RoundInfo, parent: RoundInfo | None, process: Process) -> None:
        """Every PARENT page must have a run in the parent; by induction it has bytes somewhere."""
        if parent is None and not info.manifest.full:
            return  # what is wrong with the parent has been reported
        referring = of_kind(pagemap.columns(), RunKind.PARENT)
        entry: FileEntry | None = None
        if parent is not None:
            same = parent.process(process.pid)
            if same is not None and same.start_time_ticks == process.start_time_ticks:
                entry = parent.file(pagemap.path.name)
        if parent is None or entry is None:
            self._report_unreachable(pagemap.path, uncovered(referring, ()))
            return
        with Pagemap(parent.path / entry.name, entry) as parent_pagemap:
            self._report_unreachable(pagemap.path, uncovered(referring, covered(parent_pagemap.columns())))

    def _report_unreachable(self, path: Path, unreachable: Iterator[runs.Range]) -> None:
        for start_addr, end_addr in _few(unreachable):
            self._damaged(path, f"{start_addr:#x}-{end_addr:#x} refers to a parent that does not have it")

    def _check_digest(self, path: Path, entry: FileEntry) -> None:
        fd, size_bytes = open_regular(path)
        try:
            if size_bytes != entry.stored_bytes:
                self._compare(path, "bytes in the file", entry.stored_bytes, size_bytes)
                return
            digest = hashlib.sha256()
            for offset_bytes in range(0, size_bytes, _HASHED_BYTES):
                n_bytes = min(_HASHED_BYTES, size_bytes - offset_bytes)
                digest.update(read_exactly(fd, n_bytes, offset_bytes, path))
                self.report.stored_bytes += n_bytes
                self._advance(n_bytes)
        finally:
            os.close(fd)
        self.report.files += 1
        if digest.hexdigest() != entry.sha256:
            self._damaged(path, "its bytes are not the ones its manifest names")

    def _check_names(self, info: RoundInfo) -> None:
        known = {MANIFEST_NAME, *(entry.name for entry in info.manifest.files)}
        try:
            unknown = sorted(item for item in info.path.iterdir() if item.name not in known)
        except OSError as error:
            raise StorageError.from_os_error("list", info.path, error) from error
        for path in unknown[:_FINDINGS_PER_PATH]:
            self._warn(path, "is not part of the round")

    def _check_unfinished(self, checkpoint_path: Path) -> None:
        for path in list_round_paths(checkpoint_path):
            if not is_committed(path):
                self._warn(path, "is an unfinished round, which is never read")

    @contextmanager
    def _collect(self, path: Path) -> Iterator[None]:
        """Turn an error into a finding and go on behind the block."""
        try:
            yield
        except PredumpError as error:
            found_in = Path(str(error.fields.get("path", path)))
            self._add(Severity.ERROR, error.exit_code, found_in, error.message)

    def _compare(self, path: Path, what: str, claimed: int, actual: int) -> None:
        if claimed != actual:
            self._damaged(path, f"its manifest says {claimed} {what}, but there are {actual}")

    def _damaged(self, path: Path, problem: str) -> None:
        message = f"{path} is damaged: {problem}."
        self._add(Severity.ERROR, ImageCorrupt.exit_code, path, message)

    def _warn(self, path: Path, problem: str) -> None:
        self._add(Severity.WARNING, 0, path, f"{path} {problem}.")

    def _add(self, severity: Severity, exit_code: int, path: Path, message: str) -> None:
        # A crafted file may be wrong in a million places, and there may be as many files; the first few will do.
        self._found_in[path] += 1
        if self._found_in[path] > _FINDINGS_PER_PATH:
            return
        self._found[severity] += 1
        if self._found[severity] <= _FINDINGS_MAX:
            self.report.findings.append(Finding(severity, exit_code, self._round, str(path), message))
        elif severity is Severity.ERROR:
            self.report.more_errors += 1
        else:
            self.report.more_warnings += 1

    def _advance(self, n_bytes: int) -> None:
        self._done_bytes = min(self._done_bytes + n_bytes, self._total_bytes)
        if self._on_progress is not None:
            self._on_progress(self._done_bytes, self._total_bytes)


def _few(ranges: Iterator[runs.Range]) -> Iterator[runs.Range]:
    """As many as can become findings of one file."""
    return islice(ranges, _FINDINGS_PER_PATH)


def _owners_of(manifest: Manifest) -> list[Process | MemoryObject]:
    """All that has pages in a round."""
    return [*manifest.processes, *manifest.objects]


def _bytes_to_check(info: RoundInfo) -> int:
    stored_bytes = info.files_bytes
    data_pages = sum(owner.pages_data for owner in _owners_of(info.manifest))
    return stored_bytes + data_pages * PAGE_BYTES
