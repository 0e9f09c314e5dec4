"""How often the mappings of a process were written: what each round that builds on another one holds of them anew."""

from __future__ import annotations

from formats.layout import PAGE_BYTES
from formats.manifest import Manifest, Process, Vma
from formats.outline import ManifestOutline, VmaOutline


class WrittenPages:
    """Pages of each mapping of a process (`process.vmas`, in their order) that rounds found written, summed up.

    A mapping may have grown, moved or been split from round to round: what a round says of one counts for those that
    are at its addresses now, each by its part of them. `n_rounds` are the rounds that count: full ones say nothing of
    what was written.
    """

    def __init__(self, process: Process) -> None:
        self.n_rounds = 0
        self.pages = [0] * len(process.vmas)
        self._process = process

    def add(self, manifest: Manifest | ManifestOutline) -> None:
        """Count what a round says, which must have been checked."""
        if manifest.full:
            return
        for process in manifest.processes:
            if (process.pid, process.start_time_ticks) == (self._process.pid, self._process.start_time_ticks):
                self.n_rounds += 1
                self._add(process.vmas)

    def _add(self, written: list[Vma] | list[VmaOutline]) -> None:
        vmas, position = self._process.vmas, 0
        for then in written:
            n_pages = (then.end_addr - then.start_addr) // PAGE_BYTES
            n_written = min(then.pages_data + then.pages_zero, n_pages)
            if n_written <= 0:
                continue
            while position < len(vmas) and vmas[position].end_addr <= then.start_addr:
                position += 1
            for index in range(position, len(vmas)):
                now = vmas[index]
                if now.start_addr >= then.end_addr:
                    break
                n_shared = (min(now.end_addr, then.end_addr) - max(now.start_addr, then.start_addr)) // PAGE_BYTES
                self.pages[index] += n_written * n_shared // n_pages
