"""What of a tree is not taken before the freeze, however many rounds there are."""

import os
from collections.abc import Mapping, Sequence

from dumper.kernel.probes import PAGE_IS_PRESENT
from dumper.memory_map import Vma, has_only_copy, is_object
from dumper.objects import MappedFiles
from dumper.tree import LOST_ERRORS, Member
from formats.layout import PAGE_BYTES

BLOCK_BYTES = 512  # of st_blocks: inode(7)


def doubtful_pages(pages_watched: Mapping[Member, int]) -> tuple[int, tuple[str, ...]]:
    """Pages of members that have writers which may write unseen (docs/kernel.md), and what these are.

    `pages_watched`: how many each has; in the freeze they are compared with older copies.
    """
    pages = 0
    writers: list[str] = []
    for member, watched in pages_watched.items():
        try:
            found = member.unseen_writers()
        except LOST_ERRORS:
            continue
        if found:
            pages += watched
            writers += [writer.text for writer in found]
    return pages, tuple(dict.fromkeys(writers))


def object_pages(members: Sequence[Member]) -> int:
    """About how many pages a dump has of memory objects, as the mappings were last read.

    They are shared memory, memfds, deleted files and files mapped shared, and come with the dump alone.
    """
    objects: dict[tuple[int, ...], int] = {}
    with MappedFiles() as files:
        for member in members:
            try:
                for vma in filter(is_object, member.space.vmas):
                    key, pages = _object(member, vma, files)
                    objects[key] = max(pages, objects.get(key, 0))
            except LOST_ERRORS:
                continue
    return sum(objects.values())


def _object(member: Member, vma: Vma, files: MappedFiles) -> tuple[tuple[int, ...], int]:
    """What tells the object from others, and about how many pages a dump has of it. Raises one of LOST_ERRORS.

    Of a named file on a disk that are the pages which somebody has in his page tables.
    """
    mapping = vma.mapping
    fd = files.fd(member.target.tid, mapping)
    if fd >= 0 and has_only_copy(vma):
        status = os.fstat(fd)
        return (status.st_dev, status.st_ino), status.st_blocks * BLOCK_BYTES // PAGE_BYTES
    ranges = member.scanner.ranges(mapping.start_addr, mapping.end_addr, PAGE_IS_PRESENT)
    return (member.pid, mapping.start_addr, 0), sum(end - start for start, end in ranges) // PAGE_BYTES
