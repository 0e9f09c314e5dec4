"""One round on its way to the disk: runs in, pages and runs out, figures added up."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from dumper.kernel.copy import Copier, Source, pack
from dumper.kernel.pages import PageCounts, Span
from dumper.kernel.runs import RunKind, RunList
from dumper.memory_map import Vma
from dumper.pipeline import PagePipeline
from formats import manifest as image
from formats.layout import PAGE_BYTES
from formats.roundwriter import RoundWriter


@dataclass(slots=True)
class Figures:
    """What a round cost and held; pages, bytes and nanoseconds as their names say."""

    pages_written: int = 0
    pages_data: int = 0
    pages_zero: int = 0
    pages_parent: int = 0
    pages_unreadable: int = 0
    stored_bytes: int = 0
    frozen_ns: int = 0
    attach_stop_ns: int = 0
    scan_ns: int = 0
    copy_ns: int = 0
    micro_rounds: int = 0
    pages_copied_frozen: int = 0
    stop_ns: int = 0
    state_ns: int = 0
    injected_calls: int = 0

    @property
    def pages_present(self) -> int:
        """Pages with content."""
        return self.pages_data + self.pages_zero + self.pages_parent

    @property
    def raw_bytes(self) -> int:
        """Bytes of the data pages before compression."""
        return self.pages_data * PAGE_BYTES

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


class RoundOutput:
    """Writes the pages and runs of one process into a new round."""

    TEMPORARY_RUNS = 1 << 15

    def __init__(
        self,
        checkpoint: Path,
        number: int,
        pid: int,
        pipeline: PagePipeline,
        on_progress: Callable[[Figures], None],
    ) -> None:
        """Raises StorageError."""
        self.number = number
        self.figures = Figures()
        self.lost: list[tuple[int, int]] = []
        self.runs = RunList(1 << 12)  # all of the round's: the next one builds on them
        self._writer = RoundWriter(checkpoint, number)
        self._pipeline = pipeline
        self._on_progress = on_progress
        self._copied = RunList(self.TEMPORARY_RUNS)
        self._packed = RunList(self.TEMPORARY_RUNS)
        try:
            self._pages, self._pagemap = self._writer.open_process(pid)
        except BaseException:
            self._writer.abandon()
            raise

    @property
    def path(self) -> Path:
        """The directory of the round."""
        return self._writer.path

    def write(self, runs: RunList, source: Source) -> None:
        """Reads what `runs` ask for and writes it; runs of later calls lie behind those of earlier ones.

        Raises StorageError, and OSError ESRCH if the process is gone.
        """
        copier = Copier(source, runs)
        more = True
        while more:
            buffer = self._pipeline.acquire()
            self._copied.clear()
            since_ns = time.monotonic_ns()
            more = copier.fill(buffer, self._copied)
            self.figures.copy_ns += time.monotonic_ns() - since_ns
            self.figures.pages_written += buffer.n_pages
            self._packed.clear()
            pack(self._copied, buffer, self.figures.pages_data, self._packed)
            self.figures.pages_data += buffer.n_pages
            records = self._packed.packed()
            self.runs.extend_packed(records)
            self._pagemap.append(records)
            if buffer.n_pages:
                self._pipeline.submit(self._pages, buffer)
            else:
                self._pipeline.give_back(buffer)
            self._on_progress(self.figures)
        self.lost += copier.lost
        self.figures.pages_unreadable += sum(end - start for start, end in copier.lost) // PAGE_BYTES

    def finish_pages(self, vmas: list[Vma], notes: dict[int, str]) -> list[image.Vma]:
        """Waits until all pages are written and returns the VMAs with their page counts.

        `notes` are remarks by start address. Raises StorageError.
        """
        self._pipeline.flush()
        counts = PageCounts([Span(v.mapping.start_addr, v.mapping.end_addr) for v in vmas])
        counts.add(self.runs)
        described = []
        for index, vma in enumerate(vmas):
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
                    pages_data=counts.of_vma(index, RunKind.DATA),
                    pages_zero=counts.of_vma(index, RunKind.ZERO),
                    pages_parent=counts.of_vma(index, RunKind.PARENT),
                    note=notes.get(mapping.start_addr, vma.note),
                )
            )
        figures = self.figures
        figures.pages_zero = sum(v.pages_zero for v in described)
        figures.pages_parent = sum(v.pages_parent for v in described)
        figures.stored_bytes = self._pages.stored_bytes
        return described

    def commit(self, manifest: image.Manifest) -> tuple[image.Manifest, str]:
        """Makes the round exist. Raises StorageError."""
        return self._writer.commit(manifest)

    def abandon(self) -> None:
        """Removes what was written, unless it was committed."""
        self._pipeline.drop()
        self._writer.abandon()
