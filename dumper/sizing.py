"""How much there is to stand still: what a prediction of the frozen time needs to know of the processes."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from dumper.cloning import foresee_work
from dumper.freezeplan import FreezeWish
from dumper.prediction import PROBE_NS, Size
from dumper.proc import GONE_ERRORS
from dumper.tree import Member
from dumper.unwatched import object_pages

PROBES = 16


def measure_size(members: Sequence[Member], wish: FreezeWish = FreezeWish.AUTO) -> Size:
    """Looks at /proc while they run; what has ended counts nothing. `wish`: how the freeze gets its last pages.

    The slowness of the machine is of the moment, and for whoever predicts to measure.
    """
    return Size(
        processes=len(members),
        threads=sum(member.thread_count() for member in members),
        descriptors=sum(map(_descriptors, members)),
        vmas=sum(len(member.space.vmas) for member in members),
        pages_of_objects=object_pages(members),
        pages_in_doubt=sum(member.base.pages_in_doubt for member in members),
        clone_ns=None if wish is FreezeWish.COPY else _clone_ns(members),
    )


def measure_slowness() -> float:
    """How long the machine takes now for what took PROBE_NS where the rates of predictions come from."""
    path, took_ns = Path("/proc/self/status"), []
    for _ in range(PROBES):
        since_ns = time.perf_counter_ns()
        path.read_bytes()
        took_ns.append(time.perf_counter_ns() - since_ns)
    return median(took_ns) / PROBE_NS


def _clone_ns(members: Sequence[Member]) -> int | None:
    """Of all of them; None if one cannot be cloned."""
    total_ns = 0
    for member in members:
        try:
            work = foresee_work(member.target.tid, len(member.space.vmas))
        except GONE_ERRORS:
            continue
        if work is None:
            return None
        total_ns += work.ns()
    return total_ns


def _descriptors(member: Member) -> int:
    try:
        return len(os.listdir(f"/proc/{member.target.tid}/fd"))  # noqa: PTH208 - again and again
    except (*GONE_ERRORS, PermissionError):
        return 0
