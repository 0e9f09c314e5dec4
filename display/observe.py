"""What a target writes, and what that means for a migration: while it is watched, and in the end."""

from collections.abc import Sequence
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

from display.listing import Column, apart, block, first_few, line, listing, numbers
from display.progress import event_text
from display.units import bytes_text, counted, duration_text, pages_text, ratio_text, tail
from dumper.events import Event, Observed
from dumper.heat import HotVma
from dumper.observe import EndedBy, Observation
from dumper.projection import PageCost, Projection
from dumper.workingset import Window
from formats.closing import Closing
from formats.layout import PAGE_BYTES

VMAS_SHOWN = 10
_PATH_COLUMNS = 60
_WRITERS_SHOWN = 4
_BIT_UNITS = ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"))


def rate_text(pages_per_s: float) -> str:
    """Pages and bytes a second."""
    return f"{pages_per_s:,.0f} pages/s, {pages_per_s * PAGE_BYTES / 1e6:,.1f} MB/s"


def link_text(link_bytes_per_s: int | None) -> str:
    """A link as it is called."""
    if link_bytes_per_s is None:
        return "none"
    bits = link_bytes_per_s * 8
    for factor, unit in _BIT_UNITS:
        if bits >= factor:
            return f"{bits / factor:.4g} {unit}"
    return f"{bits} bit/s"


def working_set_table(windows: Sequence[Window]) -> RenderableType | None:
    """One line a length of window."""
    rows = [
        (
            duration_text(window.window_ns),
            f"{window.pages_mean:,}",
            pages_text(window.pages_mean),
            pages_text(window.pages_max),
            str(window.windows),
        )
        for window in windows
    ]
    head = numbers("window", "pages", "mean", "most", "windows")
    return listing("Writable working set: different pages written in a window", head, rows, len(rows))


def hot_vmas_table(vmas: Sequence[HotVma], title: str) -> RenderableType | None:
    """The hottest mappings, hottest first."""

    def row(vma: HotVma) -> tuple[str, ...]:
        return (
            f"{vma.pages_written_per_s * PAGE_BYTES / 1e6:,.1f}",
            f"{vma.share:.0%}",
            pages_text(vma.pages_distinct),
            bytes_text(vma.end_addr - vma.start_addr),
            str(vma.pid),
            f"{vma.start_addr:012x}",
            tail(vma.path[:4096] or vma.kind, _PATH_COLUMNS),
        )

    shown = vmas[:VMAS_SHOWN]
    head = (*numbers("MB/s", "share", "different", "size", "pid", "start"), Column("what", wraps=True))
    return listing(title, head, map(row, shown), len(shown))


def projections_table(projections: Sequence[Projection], max_freeze_ns: int) -> RenderableType | None:
    """What `run` would come to, a line a link."""
    rows = [
        (
            link_text(one.link_bytes_per_s),
            str(one.rounds),
            bytes_text(one.stored_bytes),
            duration_text(one.duration_ns),
            duration_text(one.frozen_ns),
            "" if one.converges else f"does not converge: {one.reason}",
        )
        for one in projections
    ]
    head = (Column("link"), *numbers("rounds", "bytes", "time", "frozen"), Column("", wraps=True))
    title = f"To expect of 'predump run --max-freeze {max_freeze_ns / 1e6:g}ms'"
    return listing(title, head, rows, len(rows))


def _compression(cost: PageCost) -> str:
    if not cost.compress_ns:
        return ""
    speed = PAGE_BYTES * 1e3 / cost.compress_ns
    return f"{ratio_text(PAGE_BYTES * 1000, round(cost.stored_bytes * 1000))} at {speed:,.0f} MB/s by one thread"


def _summary(seen: Observation) -> RenderableType | None:
    how = {
        EndedBy.DURATION: "",
        EndedBy.INTERRUPT: ", then interrupted",
        EndedBy.TARGET: ", then it ended",
    }[seen.ended_by]
    fault_share, own_share = (ns / max(1, seen.elapsed_ns) for ns in (seen.target_fault_ns, seen.own_ns))
    processes = f"{counted(seen.size.processes, 'process', 'processes')} with {counted(seen.size.threads, 'thread')}"
    tick_ns = seen.elapsed_ns // max(1, seen.ticks)
    cost = f"faults took the target about {fault_share:.2%} of a processor, predump took {own_share:.2%}"
    values = (
        ("observed", f"{duration_text(seen.elapsed_ns)} in {counted(seen.ticks, 'tick')}{how}"),
        ("memory", f"{pages_text(seen.pages_present)} present in {processes}"),
        ("written", f"{rate_text(seen.pages_written_per_s)}; a page counts once a tick of {duration_text(tick_ns)}"),
        ("present pages", _compression(seen.first)),
        ("written pages", _compression(seen.later) if seen.pages_written else ""),
        (
            "in the freeze",
            f"{pages_text(seen.size.pages_of_objects)} of shared memory and the like"
            if seen.size.pages_of_objects
            else "",
        ),
        (
            "compared in it",
            f"{pages_text(seen.size.pages_in_doubt)}, for {first_few(seen.unseen_writers, _WRITERS_SHOWN)}"
            if seen.size.pages_in_doubt
            else "",
        ),
        ("cost", f"{cost}; it was stopped once for {duration_text(seen.attach_stop_ns)}"),
    )
    return block("", values)


def whole(seen: Observation, projections: Sequence[Projection], max_freeze_ns: int) -> RenderableType:
    """All that is printed in the end."""
    tables = (
        _summary(seen),
        working_set_table(seen.working_set),
        hot_vmas_table(seen.vmas, "Hottest mappings"),
        projections_table(projections, max_freeze_ns),
    )
    return apart(tables)


class ObserveView(Closing):
    """Shows each `Observed` in the place of the one before, where `console` is a terminal; prints other events."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._is_shown = console.is_terminal and not quiet

    def __enter__(self) -> Self:
        if self._is_shown:
            self._live.start()
        return self

    def close(self) -> None:
        """Takes the view away."""
        if self._is_shown:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Observed):
            if self._is_shown:
                self._live.update(_view(event), refresh=True)
        elif not self._quiet and (text := event_text(event)):
            self._console.print(text, highlight=False, markup=False)


def _view(event: Observed) -> RenderableType:
    head = line(
        f"process {event.pid}, {event.elapsed_ns // 10**9} s (Ctrl-C ends it): "
        f"{pages_text(event.pages_present)} present, {rate_text(event.pages_written_per_s)}"
    )
    tables = (working_set_table(event.working_set), hot_vmas_table(event.vmas, "Hottest mappings of the last second"))
    return apart([head, *tables])
