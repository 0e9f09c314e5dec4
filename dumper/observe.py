"""Watching what a process or a tree writes, without dumping anything.

At each tick all tracked memory is scanned and reset, as a round does, and nothing is copied but a sample of pages, to
see how small they become. It costs the target one fault for each page that it writes in a tick.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from dumper import lease
from dumper.attaching import MAX_ATTEMPTS, Attacher
from dumper.errors import TargetGone, TargetUntraceable
from dumper.events import Attached, Emit, Event, Notice, Observed, ignore
from dumper.heat import HeatMap, HotVma, rate
from dumper.kernel.runs import RunKind, RunList
from dumper.pagesample import PageSample, Picker
from dumper.prediction import Size
from dumper.projection import PageCost
from dumper.sizing import measure_size, measure_slowness
from dumper.tree import LOST_ERRORS, Member, Tree
from dumper.unwatched import doubtful_pages
from dumper.watched import Watched
from dumper.workingset import Window, WindowMeter
from formats.closing import Closing
from formats.layout import PAGE_BYTES

MAX_LOAD = 0.1  # of one processor: where a tick takes longer, the next one comes later
SAMPLE_NS = 1_000_000_000
FIND_CHILDREN_NS = 500_000_000
FAULT_NS = 800  # a write to a page that was reset, measured on Linux 6.18: 750 to 890
HOT_NOW, HOT_IN_ALL = 10, 50
NOT_WATCHED = "it is not watched"
PRESENT, WRITTEN = (RunKind.COPY, RunKind.PARENT), (RunKind.COPY,)


class EndedBy(StrEnum):
    """Why an observation ended."""

    DURATION = "duration"
    INTERRUPT = "interrupt"
    TARGET = "target-ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One tick each `interval_ns`, for `duration_ns` (None: until told to stop); pages are compressed at `level`."""

    interval_ns: int = 100_000_000
    duration_ns: int | None = None
    level: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was seen in all. A page counts once a tick in `pages_written`, once in a window in `working_set`.

    attach_stop_ns: how long processes were stopped for the tracking; target_fault_ns: about what the faults cost them;
    own_ns: processor time that watching took; scan_ns: of one tick, on average. `first` and `later` are what pages come
    to: those that are present, and those that are written. other_threads: how many threads of the host wanted to run
    beside this one, on average. size: of what would be frozen now, of which all pages of processes with
    `unseen_writers` are in doubt.
    """

    pid: int
    ended_by: EndedBy
    interval_ns: int
    elapsed_ns: int
    ticks: int
    size: Size
    unseen_writers: tuple[str, ...]
    pages_present: int
    pages_written: int
    pages_written_per_s: float
    bytes_written_per_s: float
    working_set: list[Window]
    vmas: list[HotVma]
    attach_stop_ns: int
    target_fault_ns: int
    own_ns: int
    scan_ns: int
    other_threads: float
    first: PageCost
    later: PageCost


@dataclass(slots=True)
class _Seen:
    """What one tick, or several, showed."""

    pages_present: int = 0
    pages_written: int = 0
    scan_ns: int = 0
    heat: HeatMap = field(default_factory=HeatMap)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


class Observer(Closing):
    """`with Observer(pid, settings) as observer: observation = observer.observe()`; see docs/python.md.

    With `tree`, all descendants are watched, also those that appear meanwhile: what they have then counts as written.
    When it is closed, nothing is tracked any more, and all runs as before. To be used by one OS thread.
    """

    def __init__(self, pid: int, settings: Settings | None = None, emit: Emit = ignore, *, tree: bool = False) -> None:
        """Raises TargetGone, PermissionDenied, TargetUntraceable, TargetBusy, TargetTracked; nothing is touched yet."""
        self._settings = settings = settings or Settings()
        self._emit = emit
        self._tree = Tree(pid, whole=tree, on_left=self._note_left)
        self._attacher = Attacher(self._tree, self._note_attached, _exec_notice, NOT_WATCHED)
        self._watched: dict[Member, Watched] = {}
        self._meter = WindowMeter(settings.interval_ns, settings.duration_ns)
        self._first, self._later = PageSample(settings.level), PageSample(settings.level)
        self._attach_stop_ns = self._own_ns = self._other_threads = 0
        self._ticks = self._period_tick = 0  # so far, and up to the last sample
        self._find_due_ns = self._sample_due_ns = self._earliest_ns = 0  # CLOCK_MONOTONIC
        self._last, self._period, self._all = _Seen(), _Seen(), _Seen()
        try:
            lease.refuse_tracked(self._tree.root.target)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drops the tracking of all of them."""
        for member in self._tree.members:
            member.drop_tracking()
        self._tree.close()

    def observe(self, wait: Callable[[float], bool] = _sleep) -> Observation:
        """Watches until the time is over, the root ends, or `wait(seconds)` returns True: it is to stop.

        Emits an `Observed` each second, or each tick where these are longer. Raises the errors of `__init__`,
        KernelFeatureMissing; TargetGone if the root ended before anything was seen.
        """
        began_ns = last_ns = due_ns = self._tick()
        ended_by = EndedBy.DURATION
        period_ns = began_ns
        end_ns = None if self._settings.duration_ns is None else began_ns + self._settings.duration_ns
        while end_ns is None or last_ns < end_ns:
            due_ns = max(due_ns + self._settings.interval_ns, self._earliest_ns, time.monotonic_ns())
            due_ns = due_ns if end_ns is None else min(due_ns, end_ns)
            if wait(max(0, due_ns - time.monotonic_ns()) / 1e9):
                ended_by = EndedBy.INTERRUPT
                break
            before = self._last, self._ticks
            try:
                last_ns = self._tick()
            except TargetGone:
                self._last, self._ticks = before
                if not self._ticks:
                    raise
                ended_by = EndedBy.TARGET
                break
            if last_ns - period_ns >= SAMPLE_NS:
                self._tell(last_ns - began_ns, last_ns - period_ns)
                period_ns = last_ns
        return self._observation(ended_by, last_ns - began_ns)

    # ---- a tick ----

    def _tick(self) -> int:
        """Scans all of them once; when that began. The first tick only resets: what is written is seen from then on."""
        now_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        is_first = not self._watched
        self._find_new(now_ns)
        pickers: list[tuple[Picker, PageSample]] = []
        if now_ns >= self._sample_due_ns and not is_first:
            # How many are written in a tick is known from the second one on.
            self._sample_due_ns = now_ns + (SAMPLE_NS if self._ticks else 0)
            pickers = [
                (Picker(PRESENT, self._last.pages_present), self._first),
                (Picker(WRITTEN, self._last.pages_written if self._ticks else 0), self._later),
            ]
        self._ticks += not is_first
        self._last = _Seen()
        for member in self._tree.members:
            self._look(member, pickers)
        if self._ticks:
            for seen in (self._period, self._all):
                seen.pages_written += self._last.pages_written
                seen.scan_ns += self._last.scan_ns
        self._meter.tick(now_ns, self._pages_in)
        if self._ticks:  # the first look at all mappings takes longer
            self._other_threads += _other_threads()
            took_ns = time.thread_time_ns() - cpu_ns
            self._own_ns += took_ns
            self._earliest_ns = now_ns + round(took_ns / MAX_LOAD)
        return now_ns

    def _find_new(self, now_ns: int) -> None:
        if now_ns < self._find_due_ns:
            return
        self._find_due_ns = now_ns + FIND_CHILDREN_NS
        self._tree.refresh()
        for member in self._tree.members:
            if member not in self._watched:
                self._watched[member] = Watched(member)
                if lease.is_tracked(member.target):
                    text = f"process {member.pid} is tracked for a checkpoint; {NOT_WATCHED}"
                    self._notice("untracked", text, member)
                else:
                    self._attacher.attach(member)

    def _look(self, member: Member, pickers: list[tuple[Picker, PageSample]]) -> None:
        def sample(runs: RunList) -> None:
            for picker, sample in pickers:
                sample.take(member.running, picker.pick(runs))

        for _ in range(MAX_ATTEMPTS):
            if member.tracker is None:
                return
            watched = self._watched[member]
            try:
                watched.scan(self._ticks, sample)
                self._add(member.pid, watched)
                return
            except LOST_ERRORS:
                if not self._attacher.lost(member):
                    return
                self._watched[member] = Watched(member)
                self._attacher.attach(member)
            except TargetUntraceable as error:  # another userfaultfd has its memory
                if member is self._tree.root:
                    raise
                member.drop_tracking()
                self._notice("untracked", f"{error.message}; {NOT_WATCHED}", member)

    def _add(self, pid: int, watched: Watched) -> None:
        self._last.pages_present += watched.pages_present
        self._last.pages_written += sum(watched.written)
        self._last.scan_ns += watched.scan_ns
        if self._ticks:
            self._period.heat.add(pid, watched.vmas, watched.written)
            self._all.heat.add(pid, watched.vmas, watched.written)

    def _pages_in(self, n_ticks: int) -> int:
        return sum(watched.recency.pages(n_ticks) for watched in self._watched.values())

    def _distinct_since(self, tick: int) -> Callable[[int, int, int], int]:
        """Counts the different pages of a process in a range that were written after a tick."""

        def count(pid: int, start_addr: int, end_addr: int) -> int:
            member = self._tree.member(pid)
            watched = member and self._watched.get(member)
            return watched.recency.pages_between(start_addr, end_addr, self._ticks - tick) if watched else 0

        return count

    # ---- what is told ----

    def _tell(self, elapsed_ns: int, period_ns: int) -> None:
        per_s = rate(self._period.pages_written, period_ns)
        self._emit(
            Observed(
                pid=self._tree.root.pid,
                elapsed_ns=elapsed_ns,
                period_ns=period_ns,
                ticks=self._ticks,
                processes=len(self._tree.members),
                pages_present=self._last.pages_present,
                pages_written=self._period.pages_written,
                pages_written_per_s=per_s,
                bytes_written_per_s=per_s * PAGE_BYTES,
                working_set=self._meter.windows(),
                vmas=self._period.heat.hottest(HOT_NOW, period_ns, self._distinct_since(self._period_tick)),
            )
        )
        self._period, self._period_tick = _Seen(), self._ticks

    def _observation(self, ended_by: EndedBy, elapsed_ns: int) -> Observation:
        nothing = PageCost(copy_ns=0, compress_ns=0, stored_bytes=0)
        first = self._first.cost() or nothing
        per_s = rate(self._all.pages_written, elapsed_ns)
        watched = {member: one.pages_present for member, one in self._watched.items()}
        pages_in_doubt, writers = doubtful_pages(watched)
        return Observation(
            pid=self._tree.root.pid,
            ended_by=ended_by,
            interval_ns=self._settings.interval_ns,
            elapsed_ns=elapsed_ns,
            ticks=self._ticks,
            size=replace(measure_size(self._tree.members), pages_in_doubt=pages_in_doubt, slowness=measure_slowness()),
            unseen_writers=writers,
            pages_present=self._last.pages_present,
            pages_written=self._all.pages_written,
            pages_written_per_s=per_s,
            bytes_written_per_s=per_s * PAGE_BYTES,
            working_set=self._meter.windows(),
            vmas=self._all.heat.hottest(HOT_IN_ALL, elapsed_ns, self._distinct_since(0)),
            attach_stop_ns=self._attach_stop_ns,
            target_fault_ns=self._all.pages_written * FAULT_NS,
            own_ns=self._own_ns,
            scan_ns=self._all.scan_ns // max(1, self._ticks),
            other_threads=round(self._other_threads / max(1, self._ticks), 2),
            first=first,
            later=self._later.cost() or first,
        )

    def _note_attached(self, event: Event) -> None:
        if isinstance(event, Attached):
            self._attach_stop_ns += event.attach_stop_ns
        self._emit(event)

    def _note_left(self, member: Member) -> None:
        self._watched.pop(member, None)
        self._notice("process-left", f"process {member.pid} {member.parting}", member)

    def _notice(self, subject: str, message: str, member: Member) -> None:
        self._emit(Notice(pid=self._tree.root.pid, subject=subject, message=message, fields={"child": member.pid}))


def _other_threads() -> int:
    """How many threads of the host want to run just now, beside this one: proc_loadavg(5)."""
    running = Path("/proc/loadavg").read_text().split()[3].split("/")[0]
    return max(0, int(running) - 1)


def _exec_notice(pid: int) -> Notice:
    return Notice(pid=pid, subject="exec", message=f"process {pid} called exec; its new memory counts as written")
