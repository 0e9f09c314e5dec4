"""How much there is to stand still: what a prediction of the frozen time needs to know of the processes."""

import os
from collections.abc import Sequence

from dumper.prediction import Size
from dumper.proc import GONE_ERRORS
from dumper.tree import Member
from dumper.unwatched import object_pages


def measure_size(members: Sequence[Member]) -> Size:
    """Looks at /proc while they run; what has ended counts nothing."""
    return Size(
        processes=len(members),
        threads=sum(member.thread_count() for member in members),
        descriptors=sum(map(_descriptors, members)),
        vmas=sum(len(member.space.vmas) for member in members),
        pages_of_objects=object_pages(members),
        pages_in_doubt=sum(member.base.pages_in_doubt for member in members),
    )


def _descriptors(member: Member) -> int:
    try:
        return len(os.listdir(f"/proc/{member.target.tid}/fd"))  # noqa: PTH208 - again and again
    except (*GONE_ERRORS, PermissionError):
        return 0
