"""How long a freeze will take: what is known of the targets in, nanoseconds by phase out. Pure functions over numbers.

The rates are what the phases of a dump take here, with cold caches; what depends on the machine and the target most
(scan, copy) is measured in the rounds before.
"""

from dataclasses import asdict, dataclass

DUMP_NS = 900_000  # whatever stands still
STOP_NS_PER_PROCESS = 45_000
STOP_NS_PER_THREAD = 12_500
MAPS_NS_PER_PROCESS = 90_000
MAPS_NS_PER_VMA = 1_500
STATE_NS_PER_PROCESS = 220_000
STATE_NS_PER_THREAD = 47_000
STATE_NS_PER_DESCRIPTOR = 29_000
SCAN_NS_PER_PROCESS = 60_000
COPY_NS_PER_PAGE = 1_000  # scattered; where no round has measured it
RESUME_NS_PER_THREAD = 7_000
COMPARE_NS_PER_PAGE = 1_000  # of older copies with memory: read and hashed
CLONE_GAIN_NS = 2_000_000  # by which a clone must be shorter: it costs the process a fault for each page that it writes
FEW_PAGES = 256  # that say little about the speed of a copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What is to stand still: counts, and pages of memory objects, which are copied in the freeze whatever happened.

    `pages_in_doubt` have older copies that the freeze must compare with memory. `clone_ns`: what it takes to clone all
    of them; None where there will be no clones.
    """

    processes: int = 1
    threads: int = 1
    descriptors: int = 0
    vmas: int = 0
    pages_of_objects: int = 0
    pages_in_doubt: int = 0
    clone_ns: int | None = None


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
        return DUMP_NS + sum(phases_ns.values())


def forecast(size: Size, pace: Pace, pages: float) -> Forecast:
    """Of a freeze that copies `pages` of what is tracked, or leaves them to clones, and copies all memory objects."""
    copy_ns, clone_ns = pages * pace.copy_ns_per_page + size.pages_in_doubt * COMPARE_NS_PER_PAGE, 0
    if size.clone_ns is not None and copy_ns > size.clone_ns + CLONE_GAIN_NS:
        copy_ns, clone_ns = 0, size.clone_ns
    return Forecast(
        stop_ns=STOP_NS_PER_PROCESS * size.processes + STOP_NS_PER_THREAD * size.threads,
        maps_ns=MAPS_NS_PER_PROCESS * size.processes + MAPS_NS_PER_VMA * size.vmas,
        state_ns=STATE_NS_PER_PROCESS * size.processes
        + STATE_NS_PER_THREAD * size.threads
        + STATE_NS_PER_DESCRIPTOR * size.descriptors,
        scan_ns=SCAN_NS_PER_PROCESS * size.processes + pace.scan_ns,
        copy_ns=int(copy_ns + size.pages_of_objects * pace.copy_ns_per_page),
        clone_ns=clone_ns,
        resume_ns=RESUME_NS_PER_THREAD * size.threads,
    )
