"""What `run` would do with a target: played through from what was measured of it. Pure functions over numbers.

A round takes as long as reading, compressing and sending its pages; the next one holds what is written meanwhile. When
to freeze, and how long that takes, is asked of `convergence`, as `run` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dumper.convergence import Decision, Policy, decide, pages_after_micro_rounds
from dumper.prediction import Pace, Size, forecast
from dumper.workingset import WorkingSet
from formats.layout import PAGE_BYTES

ROUND_NS = 5_000_000  # beside its pages: its manifest, its files


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCost:
    """What a page comes to: read in `copy_ns` and made smaller in `compress_ns` of one processor, to `stored_bytes`."""

    copy_ns: float
    compress_ns: float
    stored_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A target as it was measured, and the machine: its `cpus`, on which there are mostly so many `other_threads` that
    want to run, and the `compress_threads` of `run`.

    first, later: the pages of the first round (all that are present), and those that are written. size: of what is
    frozen for the dump.
    """

    pages_present: int
    working_set: WorkingSet
    first: PageCost
    later: PageCost
    scan_ns: int
    size: Size
    cpus: int
    compress_threads: int
    other_threads: float = 0.0
    interval_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedRound:
    """One round to expect; bytes as they would be stored and sent."""

    pages: int
    stored_bytes: int
    duration_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What `run` would come to over a link (None: as fast as it can be compressed).

    `rounds` and `stored_bytes` include the dump; `dump_pages` are what it holds: written since the last round, and
    memory objects. `frozen_ns` is also told where it does not converge: that of the dump after the last round.
    """

    link_bytes_per_s: int | None
    converges: bool
    reason: str
    rounds: int
    raw_bytes: int
    stored_bytes: int
    duration_ns: int
    frozen_ns: int
    dump_pages: int
    pre_dumps: Sequence[ProjectedRound]


def project(load: Load, link_bytes_per_s: int | None, policy: Policy) -> Projection:
    """Plays through what `run` with this policy would do."""
    rounds: list[ProjectedRound] = []
    pages, elapsed_ns = load.pages_present, 0
    while True:
        cost = load.later if rounds else load.first
        one = _round(load, pages, cost, link_bytes_per_s)
        rounds.append(one)
        elapsed_ns += one.duration_ns
        pace = _pace(load, pages, cost)
        predicted_ns = forecast(load.size, pace, pages_after_micro_rounds(pace)).total_ns
        verdict = decide([round_.pages for round_ in rounds], predicted_ns, elapsed_ns, policy)
        if verdict.decision is not Decision.CONTINUE:
            break
        elapsed_ns += load.interval_ns
        pages = round(load.working_set.pages_in(one.duration_ns + load.interval_ns))
    left = round(load.working_set.pages_in(rounds[-1].duration_ns)) + load.size.pages_of_objects
    dump = _round(load, left, load.later, link_bytes_per_s)
    taken = [*rounds, dump]
    return Projection(
        link_bytes_per_s=link_bytes_per_s,
        converges=verdict.decision is Decision.FREEZE,
        reason=verdict.reason,
        rounds=len(taken),
        raw_bytes=sum(round_.pages for round_ in taken) * PAGE_BYTES,
        stored_bytes=sum(round_.stored_bytes for round_ in taken),
        duration_ns=elapsed_ns + dump.duration_ns,
        frozen_ns=verdict.predicted_freeze_ns,
        dump_pages=left,
        pre_dumps=rounds,
    )


def _pace(load: Load, pages: int, cost: PageCost) -> Pace:
    """A round as the prediction of the freeze is to see it: with the rate that holds in times as short as micro-rounds.

    Where the same pages are written again and again, those of a long round, by its length, would make too small a rate.
    """
    copy_ns = round(pages * cost.copy_ns)
    short_ns = load.scan_ns + copy_ns
    short_pages = load.working_set.pages_in(short_ns)
    return Pace(
        pages_written=pages,
        window_ns=round(pages * short_ns / short_pages) if short_pages else 0,
        scan_ns=load.scan_ns,
        copy_ns=copy_ns,
    )


def _fair_share(load: Load) -> float:
    """Processors for one thread that reads and those that compress, where all that want to run get the same."""
    threads = load.compress_threads + 1
    share = load.cpus * threads / (threads + load.other_threads)
    return min(threads, max(share, load.cpus - load.other_threads))


def _round(load: Load, pages: int, cost: PageCost, link_bytes_per_s: int | None) -> ProjectedRound:
    """Its steps go on side by side: it takes as long as the slowest, or as all of them on the processors there are."""
    stored_bytes = pages * cost.stored_bytes
    compress_ns = pages * cost.compress_ns
    copy_ns = pages * cost.copy_ns
    slowest_ns = max(
        copy_ns,
        compress_ns / load.compress_threads,
        (copy_ns + compress_ns) / _fair_share(load),
        stored_bytes / link_bytes_per_s * 1e9 if link_bytes_per_s else 0,
    )
    return ProjectedRound(
        pages=pages,
        stored_bytes=round(stored_bytes),
        duration_ns=round(ROUND_NS + load.scan_ns + slowest_ns),
    )
