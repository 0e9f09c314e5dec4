"""Events as a person follows them: one line each on stderr, and a bar while a long round runs."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from display.units import bytes_text, counted, duration_text, pages_text, ratio_text
from dumper.events import (
    Attached,
    Event,
    HookFinished,
    Notice,
    Predicted,
    RoundFinished,
    RoundProgress,
    RoundStarted,
)
from dumper.hooks import Hook
from formats.closing import Closing


def round_text(event: RoundFinished) -> str:
    """A finished round in one line."""
    parts = [
        f"round {event.round} ({event.kind}): {pages_text(event.pages_data)} data",
        f"{bytes_text(event.stored_bytes)} stored ({ratio_text(event.raw_bytes, event.stored_bytes)})",
        f"{pages_text(event.pages_parent)} unchanged" if event.pages_parent else "",
        f"frozen {duration_text(event.frozen_ns)}" if event.frozen_ns else "",
        f"{pages_text(event.pages_deferred)} left for the freeze" if event.pages_deferred else "",
        f"{pages_text(event.pages_unreadable)} unreadable" if event.pages_unreadable else "",
        f"{counted(event.missing, 'thing')} not captured" if event.missing else "",
        duration_text(event.duration_ns),
    ]
    return ", ".join(part for part in parts if part)


def event_text(event: Event) -> str:
    """An event in one line, "" for one that needs none."""
    if isinstance(event, Attached):
        stopped = f"{counted(event.threads, 'thread')} stopped for {duration_text(event.attach_stop_ns)}"
        return f"attached to process {event.pid}: {stopped}"
    if isinstance(event, RoundStarted):
        return f"round {event.round} holds everything: {event.full_reason}" if event.full else ""
    if isinstance(event, RoundFinished):
        return round_text(event)
    if isinstance(event, Predicted):
        if not event.predicted_freeze_ns:
            return event.reason
        return f"a freeze now would take about {duration_text(event.predicted_freeze_ns)}: {event.reason}"
    if isinstance(event, HookFinished) and event.hook == Hook.BEFORE_FREEZE:
        return ""  # if it failed, that is the error in which the command ends
    if isinstance(event, Notice | HookFinished):
        return event.message
    return ""


class ProgressView(Closing):
    """Prints events to `console`; the bar only where that is a terminal."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, RoundProgress):
            self._advance(event)
            return
        if isinstance(event, RoundFinished) and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        text = event_text(event)
        if text and not self._quiet:
            self._console.print(text, highlight=False, markup=False)

    def _advance(self, event: RoundProgress) -> None:
        if self._task is None:
            self._task = self._bar.add_task(f"round {event.round}", total=None, amount="")
        self._bar.update(
            self._task,
            completed=event.pages_done,
            total=event.pages_expected or None,
            amount=pages_text(event.pages_done),
        )
