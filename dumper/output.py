"""One round on its way to the disk: runs in, pages and runs out, figures added up."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from dumper.kernel.copy import Copier, Source, pack
from dumper.kernel.pages import PageCounts, Span
from dumper.kernel.runs import RunKind, RunList
from dumper.memory_map import Vma
from dumper.objects import SharedObject, page_ceiling
from dumper.pipeline import PagePipeline
from dumper.proc import maps
from formats import manifest as image
from formats.faults import Point, reached
from formats.layout import PAGE_BYTES
from formats.roundfiles import PageWriters, RoundFiles

LOST_REASON = "could not be read"


@dataclass(slots=True)
class Figures:
    """What a round, or a part of it, cost and held; pages, bytes and nanoseconds as their names say."""

    pages_written: int = 0
    pages_data: int = 0
    pages_zero: int = 0
    pages_parent: int = 0
    pages_unreadable: int = 0
    pages_deferred: int = 0
    stored_bytes: int = 0
    frozen_ns: int = 0
    attach_stop_ns: int = 0
    scan_ns: int = 0
    copy_ns: int = 0
    micro_rounds: int = 0
    predicted_freeze_ns: int = 0
    pages_copied_frozen: int = 0
    stop_ns: int = 0
    state_ns: int = 0
    maps_ns: int = 0
    holes_ns: int = 0
    clone_ns: int = 0
    stream_ns: int = 0
    resume_ns: int = 0
    injected_calls: int = 0

    @property
    def pages_present(self) -> int:
        """Pages with content."""
        return self.pages_data + self.pages_zero + self.pages_parent

    @property
    def raw_bytes(self) -> int:
        """Bytes of the data pages before compression."""
        return self.pages_data * PAGE_BYTES

    def add(self, other: "Figures") -> None:
        """Adds what a part of the round came to."""
        for name in (field.name for field in fields(self)):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def stats(self, duration_ns: int) -> image.Stats:
        """As the manifest holds them."""
        return image.Stats(
            duration_ns=duration_ns,
            **{
                name: getattr(self, name)
                for name in (field.name for field in fields(image.Stats))
                if name != "duration_ns"
            },
        )


class ImageOutput:
    """Writes the pages and runs of one process or memory object.

    `runs` are all of it: the next round builds on them; `lost` ranges could not be read; `figures` are its own.
    """

    TEMPORARY_RUNS = 1 << 15

    def __init__(
        self,
        files: PageWriters,
        pipeline: PagePipeline,
        on_progress: Callable[[int], None],
    ) -> None:
        self.figures = Figures()
        self.lost: list[tuple[int, int]] = []
        self.runs = RunList(1 << 12)
        self.files = files
        self._pages, self._pagemap = files
        self._pipeline = pipeline
        self._on_progress = on_progress
        self._copied = RunList(self.TEMPORARY_RUNS)
        self._packed = RunList(self.TEMPORARY_RUNS)

    def write(self, runs: RunList, source: Source) -> None:
        """Reads what `runs` ask for and writes it; runs of later calls lie behind those of earlier ones.

        Raises StorageError, and OSError ESRCH if the process is gone.
        """
        copier = Copier(source, runs)
        batch_pages = self._pipeline.batch_pages(runs.pages_of(RunKind.COPY) + runs.pages_of(RunKind.STAGED))
        more = True
        while more:
            buffer = self._pipeline.acquire()
            buffer.limit_pages(batch_pages)
            self._copied.clear()
            since_ns = time.monotonic_ns()
            try:
                more = copier.fill(buffer, self._copied)
            except OSError:
                self._pipeline.give_back(buffer)
                raise
            self.figures.copy_ns += time.monotonic_ns() - since_ns
            n_pages = buffer.n_pages
            self.figures.pages_written += n_pages
            self._packed.clear()
            pack(self._copied, buffer, self.figures.pages_data, self._packed)
            self.figures.pages_data += buffer.n_pages
            records = self._packed.packed()
            self.runs.extend_packed(records)
            self._pagemap.append(records)
            if buffer.n_pages:
                self._pipeline.submit(self._pages, buffer)
                reached(Point.SUBMITTED)
            else:
                self._pipeline.give_back(buffer)
            self._on_progress(n_pages)
        self.lost += copier.lost
        self.figures.pages_unreadable += sum(end - start for start, end in copier.lost) // PAGE_BYTES

    def count(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
        """Pages (data, zero, parent) in each of the ranges, which ascend; all that was submitted is on disk by now.

        The ranges cover everything that was written.
        """
        counts = PageCounts([Span(start, end) for start, end in ranges])
        counts.add(self.runs)
        kinds = (RunKind.DATA, RunKind.ZERO, RunKind.PARENT)
        found = [
            (counts.of_vma(i, kinds[0]), counts.of_vma(i, kinds[1]), counts.of_vma(i, kinds[2]))
            for i in range(len(ranges))
        ]
        self.figures.pages_zero = sum(zero for _, zero, _ in found)
        self.figures.pages_parent = sum(parent for _, _, parent in found)
        self.figures.stored_bytes = self._pages.stored_bytes
        return found

    def vmas(
        self,
        vmas: Sequence[Vma],
        *,
        notes: Mapping[int, str],
        flags: Mapping[int, str],
        objects: Mapping[maps.Mapping, SharedObject],
    ) -> list[image.Vma]:
        """The VMAs of the process with their page counts; `notes` and VmFlags are by start address."""
        described = []
        counts = self.count([(v.mapping.start_addr, v.mapping.end_addr) for v in vmas])
        for vma, (data, zero, parent) in zip(vmas, counts, strict=True):
            mapping = vma.mapping
            described.append(
                image.Vma(
                    start_addr=mapping.start_addr,
                    end_addr=mapping.end_addr,
                    perms=mapping.perms,
                    offset_bytes=mapping.offset_bytes,
                    device=mapping.device,
                    inode=mapping.inode,
                    path=mapping.path,
                    kind=vma.kind.value,
                    tracked=vma.tracked,
                    pages_data=data,
                    pages_zero=zero,
                    pages_parent=parent,
                    note=notes.get(mapping.start_addr, vma.note),
                    flags=flags.get(mapping.start_addr, ""),
                    object=objects[mapping].id if mapping in objects else None,
                )
            )
        return described

    def object_record(self, one: SharedObject) -> image.MemoryObject:
        """The memory object with its page counts."""
        ((data, zero, _),) = self.count([(0, max(PAGE_BYTES, page_ceiling(one.size_bytes)))])
        return one.record(data, zero, self.gaps())

    def gaps(self) -> list[image.Gap]:
        """What could not be read, ascending."""
        lost = [image.Gap(start_addr=start, end_addr=end, reason=LOST_REASON) for start, end in self.lost]
        return sorted(lost, key=lambda gap: gap.start_addr)


class RoundOutput:
    """A new round: one ImageOutput for each process and memory object."""

    def __init__(self, writer: RoundFiles, pipeline: PagePipeline, on_progress: Callable[[int], None]) -> None:
        """`on_progress` is called with pages dealt with since the call before."""
        self.figures = Figures()
        self._writer = writer
        self._pipeline = pipeline
        self._on_progress = on_progress

    @property
    def path(self) -> Path:
        """The directory of the round."""
        return self._writer.path

    def process(self, pid: int) -> ImageOutput:
        """The files of one process. Raises StorageError."""
        return self._image(self._writer.open_process(pid))

    def object(self, number: int) -> ImageOutput:
        """The files of one memory object. Raises StorageError."""
        return self._image(self._writer.open_object(number))

    def _image(self, files: PageWriters) -> ImageOutput:
        return ImageOutput(files, self._pipeline, self._on_progress)

    def discard(self, output: ImageOutput) -> None:
        """Takes the files of a process that is gone out of the round. Raises StorageError."""
        self._pipeline.flush()
        self._writer.discard(output.files)

    def flush(self) -> None:
        """Waits until everything is written. Raises StorageError."""
        self._pipeline.flush()

    def commit(self, manifest: image.Manifest) -> tuple[image.Manifest, str]:
        """Makes the round exist. Raises StorageError."""
        return self._writer.commit(manifest)

    def confirm(self) -> None:
        """Waits until it is known to exist. Raises StorageError."""
        self._writer.confirm()

    def abandon(self) -> None:
        """Takes back what was written, unless it was committed."""
        self._writer.give_up()
        self._pipeline.drop()
        self._writer.abandon()
