"""How much there is to stand still: what a prediction of the frozen time needs to know of the processes."""

import os
from pathlib import Path

from dumper.memory_map import is_object
from dumper.prediction import Size
from dumper.proc import GONE_ERRORS
from dumper.tree import Member
from formats.layout import PAGE_BYTES

BLOCK_BYTES = 512  # st_blocks: stat(2)


def measure_size(members: list[Member]) -> Size:
    """Looks at /proc while they run; what has ended counts nothing."""
    descriptors = vmas = 0
    objects: dict[tuple[int, int], int] = {}
    for member in members:
        vmas += len(member.space.vmas)
        try:
            descriptors += len(os.listdir(f"/proc/{member.target.tid}/fd"))  # noqa: PTH208 - again and again
        except (*GONE_ERRORS, PermissionError):
            continue
        objects |= _objects(member)
    return Size(
        processes=len(members),
        threads=sum(member.thread_count() for member in members),
        descriptors=descriptors,
        vmas=vmas,
        pages_of_objects=sum(objects.values()),
        pages_in_doubt=sum(member.base.pages_in_doubt for member in members),
    )


def _objects(member: Member) -> dict[tuple[int, int], int]:
    """Pages with content of the memory objects that a process maps, by device and inode."""
    found = {}
    for mapping in (vma.mapping for vma in member.space.vmas if is_object(vma)):
        try:
            status = Path(f"/proc/{member.target.tid}/map_files/{mapping.start_addr:x}-{mapping.end_addr:x}").stat()
        except OSError:  # it changed just now, or following these links is not permitted: proc_pid_map_files(5)
            continue
        found[status.st_dev, status.st_ino] = status.st_blocks * BLOCK_BYTES // PAGE_BYTES
    return found
