"""The signals of a process: what they do, which wait, and the timers that will send some."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from display.listing import ROWS_MAX, Cell, Column, block, listing
from display.names import clock_name, interval_timer_name, sigaction_flag_names, signal_name, signal_set_text
from display.threads import pending_text
from display.units import duration_text
from formats.manifest import Process
from formats.processstate import Disposition, IntervalTimer, PosixTimer

_SIG_DFL, _SIG_IGN = 0, 1
_SIGEV_NONE, _SIGEV_THREAD_ID = 1, 4  # uapi/asm-generic/siginfo.h
_LINES_MAX = 20  # of pending signals and of timers


def dispositions_table(process: Process, whose: str, rows_max: int = ROWS_MAX) -> RenderableType | None:
    """One line a signal that does something else than the default."""
    dispositions = [d for d in process.state.dispositions if d.handler_addr != _SIG_DFL] if process.state else []

    def row(disposition: Disposition) -> tuple[Cell, ...]:
        ignored = disposition.handler_addr == _SIG_IGN
        flags = " ".join(sigaction_flag_names(disposition.flags))
        mask = signal_set_text(disposition.mask) if disposition.mask else ""
        handler = "ignored" if ignored else f"{disposition.handler_addr:#x}"
        return signal_name(disposition.number), handler, flags, mask

    columns = (Column("signal"), Column("handler"), Column("flags", wraps=True), Column("also blocks", wraps=True))
    return listing(f"Signals{whose}", columns, map(row, dispositions), len(dispositions), rows_max)


def _pending(process: Process) -> Iterator[tuple[str, str]]:
    if process.state and process.state.pending:
        yield "process", pending_text(process.state.pending)
    for thread in process.threads:
        if thread.pending:
            yield f"thread {thread.tid}", pending_text(thread.pending)


def _when(remaining: str, interval: str) -> str:
    return (f"in {remaining}" if remaining else "disarmed") + (f", every {interval}" if interval else "")


def posix_timer_text(timer: PosixTimer) -> tuple[str, str]:
    """Which one it is, and what it does when."""
    interval = duration_text(timer.interval_ns) if timer.interval_ns else ""
    remaining = duration_text(timer.remaining_ns) if timer.remaining_ns else ""
    if timer.notify == _SIGEV_NONE:
        action = "no signal"
    else:
        action = signal_name(timer.signal)
        action += f" to thread {timer.tid}" if timer.notify & _SIGEV_THREAD_ID and timer.tid else ""
    overruns = f", {timer.overruns:,} overruns" if timer.overruns else ""
    return f"timer {timer.id}", f"{clock_name(timer.clock)}, {action}, {_when(remaining, interval)}{overruns}"


def interval_timer_text(timer: IntervalTimer) -> tuple[str, str]:
    """Which one it is, and when it fires."""
    interval = duration_text(timer.interval_us * 1000) if timer.interval_us else ""
    remaining = duration_text(timer.remaining_us * 1000) if timer.remaining_us else ""
    return interval_timer_name(timer.which), _when(remaining, interval)


def _clipped(lines: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    more = len(lines) - _LINES_MAX
    return [*lines[:_LINES_MAX], ("...", f"and {more:,} more: --json has them all")] if more > 0 else list(lines)


def pending_block(process: Process, whose: str) -> RenderableType | None:
    """Signals that wait to be delivered, of the process and of its threads."""
    return block(f"Pending signals{whose}", _clipped(list(_pending(process))))


def timers_block(process: Process, whose: str) -> RenderableType | None:
    """Timers of timer_create(2) and, where they run, of setitimer(2)."""
    if process.state is None:
        return None
    interval_timers = [t for t in process.state.interval_timers if t.remaining_us or t.interval_us]
    lines = [*map(interval_timer_text, interval_timers), *map(posix_timer_text, process.state.posix_timers)]
    return block(f"Timers{whose}", _clipped(lines))
