"""Pages of the image into the memory of a shell, by several threads that decompress and fill.

Each takes the next frame of a pages file when it is done with another.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from dumper.kernel.missing import watch
from dumper.kernel.remote import CallFailed
from dumper.kernel.uffd import USER_MODE_ONLY, Feature
from formats.chain import MemoryView
from formats.dataruns import DataRuns, data_runs
from formats.layout import PAGE_BYTES
from formats.manifest import Vma
from formats.roundpages import RoundPages
from formats.segments import SegmentKind
from restorer.memory.frames import Portion
from restorer.memory.layout import is_ours
from restorer.memory.userfault import can_wait, create_userfaultfd
from restorer.memory.vdso import KERNEL_PATHS
from restorer.shell import Shell

_ZEROS = bytes(256 * PAGE_BYTES)


def fill(shell: Shell, view: MemoryView, levels: Sequence[RoundPages], threads: int, *, is_lazy: bool = False) -> int:
    """The process's own pages, or, if `is_lazy`, those that cannot wait; as `fill_mappings`."""
    vmas = [vma for vma in view.vmas if is_ours(vma) and vma.path not in KERNEL_PATHS and not vma.is_shared]
    if is_lazy:
        vmas = [vma for vma in vmas if not can_wait(vma)]
    return fill_mappings(shell, view, levels, vmas, threads, is_lazy=is_lazy)


def fill_mappings(
    shell: Shell,
    view: MemoryView,
    levels: Sequence[RoundPages],
    vmas: Sequence[Vma],
    threads: int,
    *,
    is_lazy: bool = False,
) -> int:
    """The pages of private mappings, or parts of such, that have none yet; how many there were.

    `levels` are the process's pages in the round of `view` and in those that this builds on; with `is_lazy` somebody
    else waits for pages that are missing. Raises ImageCorrupt, StorageError, OSError.
    """
    ranges = [(vma.start_addr, vma.end_addr) for vma in vmas]
    n_pages = 0
    with _missing_pages(shell, () if is_lazy else vmas) as uffd:
        for level, found in data_runs(f"process {view.process.pid}", levels, ranges):
            n_pages += bring(shell, level, found, threads, uffd)
    for vma in vmas:
        if vma.has_file:
            for segment in view.own_segments(vma.start_addr, vma.end_addr):
                if segment.kind is SegmentKind.ZERO:
                    write_zeros(shell, segment.start_addr, segment.end_addr)
    return n_pages


def write_zeros(shell: Shell, addr: int, end_addr: int) -> None:
    """Of a private mapping of a file, in whose place they are."""
    while addr < end_addr:
        part = _ZEROS[: end_addr - addr]
        shell.write(addr, part)
        addr += len(part)


def bring(shell: Shell, level: RoundPages, found: DataRuns, threads: int, uffd: int = -1) -> int:
    """Runs of one round; how many pages they have. `uffd` is for pages that are missing.

    Raises ImageCorrupt, StorageError, OSError.
    """
    with level.open_frames() as frames, ThreadPoolExecutor(threads, thread_name_prefix="predump-fill") as pool:
        portion = Portion(frames, found)
        jobs = iter(list(portion.jobs()))

        def work() -> int:
            n_pages = 0
            try:
                for job in jobs:
                    content = frames.read_frame(job.frame_index)
                    runs = job.first_run, job.end_run
                    n_pages += portion.table.fill(uffd, shell.mem_fd, content, job.first_page, *runs)
            except BaseException:
                for _ in jobs:  # nobody needs the others
                    pass
                raise
            return n_pages

        return sum(worker.result() for worker in [pool.submit(work) for _ in range(threads)])


@contextmanager
def _missing_pages(shell: Shell, vmas: Iterable[Vma]) -> Iterator[int]:
    """A userfaultfd for those mappings that can have one, or -1: all is filled without it, too, but in more time."""
    uffd = -1
    watched = list(filter(_may_be_watched, vmas))
    try:
        if watched:
            with suppress(CallFailed, OSError):
                uffd = create_userfaultfd(shell, USER_MODE_ONLY, Feature(0))
        for vma in watched if uffd >= 0 else ():
            with suppress(OSError):
                watch(uffd, vma.start_addr, vma.end_addr)
        yield uffd
    finally:
        if uffd >= 0:
            os.close(uffd)


def _may_be_watched(vma: Vma) -> bool:
    """Not what the kernel fills with huge pages where somebody writes."""
    return not vma.has_file and vma.kind != "hugetlb" and "hg" not in vma.flags.split()
