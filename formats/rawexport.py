"""The memory of one process as of a round as plain files, one for each mapping, with an index.

OUT/index.json                          the mappings, which file each is in, and what of it is data, zero or absent
OUT/7f3a00000000-7f3a00021000.bin       sparse: all but the data are holes
"""

from __future__ import annotations

import re
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from formats import runs
from formats.chain import MemoryView
from formats.closing import Closing
from formats.errors import UsageError
from formats.exporting import Progress, is_torn
from formats.files import close_quietly, close_written, create_file, write_at
from formats.images import Images
from formats.manifest import ANONYMOUS_VMA_KINDS, Vma
from formats.pagecopy import PageCopier
from formats.rawindex import INDEX_NAME, IndexWriter, RawPiece, header_of
from formats.segments import Segment, SegmentKind
from formats.wholedirectory import whole_directory

_FILE_NAME = re.compile(r"[0-9a-f]{1,16}-[0-9a-f]{1,16}\.bin")
_OPEN_FILES = 64
_PROGRESS_STEP_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RawReport:
    """What was written: `bytes` is the size of all files, holes included, `data_bytes` what of it was copied."""

    pid: int
    path: str
    vmas: int
    files: int
    bytes: int
    data_bytes: int
    torn: bool


@dataclass(frozen=True, slots=True)
class RawOptions:
    """`wanted`: whether a mapping is; `torn` permits a pre-dump round, `force` replaces an earlier export."""

    wanted: Callable[[Vma], bool] = lambda _vma: True
    torn: bool = False
    force: bool = False
    threads: int = 1


def write_raw(
    images: Images, number: int | None, pid: int | None, path: Path, options: RawOptions, progress: Progress
) -> RawReport:
    """Write the memory of process `pid` (the root process) as of round `number` (the selected one) to `path`.

    The directory has another name until it is complete. Raises UsageError, also for a pre-dump round or something in
    the way without the option that permits it; ParentMissing, ImageCorrupt, ImageVersionUnsupported, StorageError.
    """
    torn = is_torn(images, number, permitted=options.torn)
    info = images.round(number)
    with MemoryView(images, number, pid) as view:
        vmas = [vma for vma in view.vmas if options.wanted(vma)]
        if not vmas:
            raise UsageError(
                f"Process {view.process.pid} has no such mapping in round {info.number}.",
                hint="'predump inspect' lists its mappings.",
                pid=view.process.pid,
            )
        with whole_directory(path, replaces=_is_export if options.force else None) as directory:
            index = IndexWriter(directory, header_of(view.process, info.number, info.manifest.created_ns, torn=torn))
            try:
                with _Files(directory) as files, PageCopier(view, files.put, options.threads) as copier:
                    written = _Export(view, files, copier, progress)
                    written.write(vmas, index)
            except BaseException:
                index.abort()
                raise
            index.close()
    return RawReport(
        pid=view.process.pid,
        path=str(path.absolute()),
        vmas=len(vmas),
        files=written.n_files,
        bytes=written.total_bytes,
        data_bytes=written.data_bytes,
        torn=torn,
    )


class _Files(Closing):
    """Files of mappings that are being written: bytes go by their address to the one that is open for it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: list[tuple[Vma, int]] = []
        self._starts_addr: list[int] = []

    def close(self) -> None:
        """Close those that are open as they are. May be called again."""
        for _, fd in self._open:
            close_quietly(fd)
        self._open, self._starts_addr = [], []

    def finish(self) -> None:
        """Close them, since they are complete: all of the directory becomes durable at once. Raises StorageError."""
        while self._open:
            self._starts_addr.pop()
            close_written(self._open.pop()[1], self._directory)

    @property
    def is_full(self) -> bool:
        """Whether `finish` has to come before `open`."""
        return len(self._open) >= _OPEN_FILES

    def open(self, vma: Vma) -> str:
        """Make the file of a mapping, above those that are open; returns its name. Raises StorageError."""
        name = f"{vma.start_addr:x}-{vma.end_addr:x}.bin"
        self._open.append((vma, create_file(self._directory / name)))
        self._starts_addr.append(vma.start_addr)
        return name

    def put(self, content: memoryview, addr: int) -> None:
        """Write bytes by their address, which may be of several mappings, in any thread; raises StorageError."""
        while content:
            vma, fd = self._open[bisect_right(self._starts_addr, addr) - 1]
            piece = content[: vma.end_addr - addr]
            write_at(fd, piece, addr - vma.start_addr, self._directory)
            content = content[len(piece) :]
            addr = vma.end_addr


class _Export:
    """The mappings on their way into files."""

    def __init__(self, view: MemoryView, files: _Files, copier: PageCopier, progress: Progress) -> None:
        self._view = view
        self._files = files
        self._copier = copier
        self._progress = progress
        self._gaps = list(runs.merge(sorted((gap.start_addr, gap.end_addr) for gap in view.process.unreadable)))
        self._end_addr = 0  # of the last data of a mapping
        self._file = ""
        self._reported_bytes = 0
        self._expected_bytes = 0
        self.n_files = 0
        self.total_bytes = 0
        self.data_bytes = 0

    def write(self, vmas: list[Vma], index: IndexWriter) -> None:
        """Write files and index; raises ImageCorrupt, StorageError."""
        for vma in vmas:
            segments = self._view.segments(vma.start_addr, vma.end_addr)
            self._expected_bytes += sum(
                one.end_addr - one.start_addr for one in segments if one.kind is SegmentKind.DATA
            )
        for vma in vmas:
            self._file, self._end_addr = "", vma.start_addr
            index.add(vma, _merged(self._pieces(vma)))
            size_bytes = self._end_addr - vma.start_addr
            self.total_bytes += size_bytes
            index.end_of_vma(self._file, size_bytes)
        self._finish_files()
        self._progress(self.data_bytes, self._expected_bytes)

    def _pieces(self, vma: Vma) -> Iterator[RawPiece]:
        """What a mapping consists of; its data is on its way into its file when this has gone by."""
        for segment in self._view.segments(vma.start_addr, vma.end_addr):
            if segment.kind is SegmentKind.DATA:
                self._copy(vma, segment)
            if segment.kind is SegmentKind.ABSENT and vma.kind in ANONYMOUS_VMA_KINDS:
                yield from self._of_anonymous(segment.start_addr, segment.end_addr)
            else:
                yield RawPiece(start_addr=segment.start_addr, end_addr=segment.end_addr, kind=segment.kind)

    def _of_anonymous(self, start_addr: int, end_addr: int) -> Iterator[RawPiece]:
        """Pages that nobody touched are zeros, but for those that could not be read."""
        position = start_addr
        for gap_addr, gap_end_addr in runs.intersect(
            [(start_addr, end_addr)], runs.overlapping(self._gaps, start_addr, end_addr)
        ):
            if position < gap_addr:
                yield RawPiece(start_addr=position, end_addr=gap_addr, kind=SegmentKind.ZERO)
            yield RawPiece(start_addr=gap_addr, end_addr=gap_end_addr, kind=SegmentKind.ABSENT)
            position = gap_end_addr
        if position < end_addr:
            yield RawPiece(start_addr=position, end_addr=end_addr, kind=SegmentKind.ZERO)

    def _copy(self, vma: Vma, segment: Segment) -> None:
        if not self._file:
            if self._files.is_full:
                self._finish_files()
            self._file = self._files.open(vma)
            self.n_files += 1
        self._copier.copy(segment, segment.start_addr)
        self._end_addr = segment.end_addr
        self.data_bytes += segment.end_addr - segment.start_addr
        if self.data_bytes - self._reported_bytes >= _PROGRESS_STEP_BYTES:
            self._reported_bytes = self.data_bytes
            self._progress(self.data_bytes, self._expected_bytes)

    def _finish_files(self) -> None:
        self._copier.finish()
        self._files.finish()


def _merged(pieces: Iterator[RawPiece]) -> Iterator[RawPiece]:
    """Neighbours of a kind as one: in which round their pages are does not matter here."""
    last: RawPiece | None = None
    for one in pieces:
        if last is not None and last.kind is one.kind and last.end_addr == one.start_addr:
            last = replace(last, end_addr=one.end_addr)
            continue
        if last is not None:
            yield last
        last = one
    if last is not None:
        yield last


def _is_export(directory: Path) -> bool:
    """Whether all that is in a directory is what an export makes; raises OSError."""
    names = set()
    for path in directory.iterdir():
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        names.add(path.name)
    return INDEX_NAME in names and all(map(_FILE_NAME.fullmatch, names - {INDEX_NAME}))
