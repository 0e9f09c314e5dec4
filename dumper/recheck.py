"""What the last round of a checkpoint holds of a process, taken down so that the freeze can compare memory with it."""

from pathlib import Path

from dumper.kernel.recheck import PageHashes, Recheck
from dumper.kernel.runs import RunKind, RunList
from formats.chain import MemoryView, SegmentKind
from formats.checkpoint import Checkpoint
from formats.layout import PAGE_BYTES, RUN
from formats.pagecopy import PageCopier


def recheck_with(checkpoint_path: Path, pid: int, threads: int) -> Recheck:
    """Reads all pages of the process in the last round and those it refers to: 8 bytes are kept of each.

    Raises ParentMissing, ImageCorrupt, StorageError.
    """
    with MemoryView(Checkpoint.open(checkpoint_path), pid=pid) as view:
        segments = [
            segment
            for vma in view.vmas
            for segment in view.segments(vma.start_addr, vma.end_addr)
            if segment.object is None and segment.kind is not SegmentKind.ABSENT
        ]
        hashes = PageHashes(sum(s.end_addr - s.start_addr for s in segments) // PAGE_BYTES)
        records = bytearray()
        index = 0
        with PageCopier(view, hashes.put, threads) as copier:
            for segment in segments:
                n_pages = (segment.end_addr - segment.start_addr) // PAGE_BYTES
                is_data = segment.kind is SegmentKind.DATA
                if is_data:
                    copier.copy(segment, index * PAGE_BYTES)
                records += RUN.pack(
                    segment.start_addr, n_pages, RunKind.DATA if is_data else RunKind.ZERO, index if is_data else 0
                )
                index += n_pages if is_data else 0
            copier.finish()
    stored = RunList(1)
    stored.extend_packed(bytes(records))
    return Recheck(stored, hashes)


def recheck_with_nothing() -> Recheck:
    """No round holds anything: only what is staged can be confirmed."""
    return Recheck(RunList(1), PageHashes(1))
