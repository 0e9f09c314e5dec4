"""Pages of the image into the memory of a shell, in parallel with their decompression."""

from __future__ import annotations

from formats.chain import MemoryView
from formats.layout import PAGE_BYTES
from formats.pagecopy import PageCopier
from formats.segments import SegmentKind
from restorer.memory.layout import is_ours
from restorer.memory.userfault import can_wait
from restorer.memory.vdso import KERNEL_PATHS
from restorer.shell import Shell

_ZEROS = bytes(256 * PAGE_BYTES)


def fill(shell: Shell, view: MemoryView, threads: int, *, is_lazy: bool = False) -> int:
    """The process's own pages, or, if `is_lazy`, those that cannot wait; how many there were.

    Raises ImageCorrupt, StorageError, OSError.
    """
    n_pages = 0
    with PageCopier(view, lambda content, addr: shell.write(addr, content), threads) as copier:
        for vma in view.vmas:
            if vma.path in KERNEL_PATHS or not is_ours(vma) or vma.is_shared or (is_lazy and can_wait(vma)):
                continue
            for segment in view.own_segments(vma.start_addr, vma.end_addr):
                if segment.kind is SegmentKind.DATA:
                    copier.copy(segment, segment.start_addr)
                    n_pages += segment.n_pages
                elif segment.kind is SegmentKind.ZERO and vma.has_file:
                    write_zeros(shell, segment.start_addr, segment.end_addr)
        copier.finish()
    return n_pages


def write_zeros(shell: Shell, addr: int, end_addr: int) -> None:
    """Of a private mapping of a file, in whose place they are."""
    while addr < end_addr:
        part = _ZEROS[: end_addr - addr]
        shell.write(addr, part)
        addr += len(part)
