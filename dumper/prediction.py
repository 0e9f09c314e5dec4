"""How long a freeze will take: what is known of the targets in, nanoseconds by phase out. Pure functions over numbers.

The rates are what the phases of a dump take on a machine that reads a small file of /proc in PROBE_NS; on another, or
where others slow it down, all of them take as many times as long as that (`Size.slowness`). What depends on the target
most (scan, copy) is measured in the rounds before.
"""

from dataclasses import asdict, dataclass
from math import inf

PROBE_NS = 9_200  # for /proc/self/status
DUMP_NS = 900_000  # whatever stands still
STOP_NS_PER_PROCESS = 30_000
STOP_NS_PER_THREAD = 9_500
MAPS_NS_PER_PROCESS = 60_000
MAPS_NS_PER_VMA = 900
STATE_NS_PER_PROCESS = 120_000
STATE_NS_PER_THREAD = 25_500
STATE_NS_PER_DESCRIPTOR = 17_000
SCAN_NS_PER_PROCESS = 16_000
SCAN_NS_PER_VMA = 350
SCAN_SHARE = 0.35  # of a scan that resets: the last one does not, and asks for changes alone
SCAN_NS_PER_PAGE = 25  # that is written, or was copied before
COPY_NS_PER_PROCESS = 13_000
COPY_NS_PER_PAGE = 1_000  # scattered; where no round has measured it
STREAM_NS_PER_PAGE = 8_000  # compressed and written, once there is no room for all
OBJECT_NS_PER_PAGE = 900  # of memory objects: looked for and read in their files
PAGES_PER_THREAD = 1  # asked for its state, it writes to its stack
RESUME_NS_PER_THREAD = 2_400
COMPARE_NS_PER_PAGE = 1_000  # of older copies with memory: read and hashed
CLONE_GAIN_NS = 2_000_000  # by which a clone must be shorter: it costs the process a fault for each page that it writes
FEW_PAGES = 256  # that say little about the speed of a copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What is to stand still: counts, and pages of memory objects, which are copied in the freeze whatever happened.

    pages_in_doubt: they have older copies that the freeze must compare with memory; clone_ns: what it takes to clone
    all of them, None where there will be no clones; room_pages: how many there is room for beside those that
    are staged, None if that is enough; slowness: of the machine, see above.
    """

    processes: int = 1
    threads: int = 1
    descriptors: int = 0
    vmas: int = 0
    pages_of_objects: int = 0
    pages_in_doubt: int = 0
    clone_ns: int | None = None
    room_pages: int | None = None
    staged_pages: int = 0
    slowness: float = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the target writes and we work, as a round showed it.

    pages_written were copied in copy_ns, and had been written within window_ns; the scan of all memory took scan_ns.
    """

    pages_written: int
    window_ns: int
    scan_ns: int
    copy_ns: int

    @property
    def copy_ns_per_page(self) -> float:
        """What a page more costs."""
        return self.copy_ns / self.pages_written if self.pages_written >= FEW_PAGES else COPY_NS_PER_PAGE

    def pages_within(self, window_ns: float) -> float:
        """Pages written in another window; never more than were written in one that was longer."""
        if not self.window_ns:
            return 0.0
        return self.pages_written * min(1.0, window_ns / self.window_ns)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The phases of a freeze to come, in ns."""

    other_ns: int
    stop_ns: int
    maps_ns: int
    state_ns: int
    scan_ns: int
    copy_ns: int
    clone_ns: int
    resume_ns: int

    @property
    def total_ns(self) -> int:
        """From the first thread stopped to the last one resumed."""
        phases_ns: dict[str, int] = asdict(self)
        return sum(phases_ns.values())


def copying_ns(pages: float, room_pages: float, ns_per_page: float, staged_pages: float = 0) -> float:
    """How long it takes to copy pages. Where not all find room, all are written, and the staged ones with them."""
    if pages <= room_pages:
        return pages * ns_per_page
    return room_pages * ns_per_page + (staged_pages + pages) * STREAM_NS_PER_PAGE


def forecast(size: Size, pace: Pace, pages: float) -> Forecast:
    """Of a freeze that copies `pages` of what is tracked, or leaves them to clones, and copies all memory objects."""
    slowness = size.slowness
    room_pages = inf if size.room_pages is None else size.room_pages
    pages += PAGES_PER_THREAD * size.threads
    copy_ns, clone_ns = copying_ns(pages, room_pages, pace.copy_ns_per_page, size.staged_pages), 0
    copy_ns += size.pages_in_doubt * COMPARE_NS_PER_PAGE
    staged_pages = size.staged_pages + pages if pages <= room_pages else 0  # else they are written already
    room_left = max(0.0, room_pages - pages)
    if size.clone_ns is not None:
        expected_ns = int(size.clone_ns * (1 + slowness) / 2)  # half of it is memory's speed
        if copy_ns > expected_ns + CLONE_GAIN_NS:
            copy_ns, clone_ns, room_left = 0, expected_ns, inf
    state_ns = STATE_NS_PER_PROCESS * size.processes
    state_ns += STATE_NS_PER_THREAD * size.threads + STATE_NS_PER_DESCRIPTOR * size.descriptors
    scan_ns = SCAN_NS_PER_PROCESS * size.processes + SCAN_NS_PER_VMA * size.vmas
    seen_ns = SCAN_SHARE * pace.scan_ns + SCAN_NS_PER_PAGE * max(pages, pace.pages_written)
    return Forecast(
        other_ns=int(slowness * DUMP_NS),
        stop_ns=int(slowness * (STOP_NS_PER_PROCESS * size.processes + STOP_NS_PER_THREAD * size.threads)),
        maps_ns=int(slowness * (MAPS_NS_PER_PROCESS * size.processes + MAPS_NS_PER_VMA * size.vmas)),
        state_ns=int(slowness * state_ns),
        scan_ns=int(slowness * scan_ns + seen_ns),
        copy_ns=int(
            slowness * COPY_NS_PER_PROCESS * size.processes
            + copy_ns
            + copying_ns(size.pages_of_objects, room_left, OBJECT_NS_PER_PAGE, staged_pages)
        ),
        clone_ns=clone_ns,
        resume_ns=int(slowness * RESUME_NS_PER_THREAD * size.threads),
    )
