"""Bars while a known number of bytes, or of rounds, is worked through."""

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from formats.closing import Closing


class _Bar(Closing):
    """Called with what is done and what there is to do; shows a bar where `console` is a terminal."""

    def __init__(self, console: Console, what: str, figures: ProgressColumn, *, quiet: bool) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            figures,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)


class BytesBar(_Bar):
    """Called with bytes done and bytes to do. `what` is going on."""

    def __init__(self, console: Console, what: str, *, quiet: bool) -> None:
        super().__init__(console, what, DownloadColumn(binary_units=True), quiet=quiet)


class RoundsBar(_Bar):
    """Called with rounds done and rounds to do. `what` is going on."""

    def __init__(self, console: Console, what: str, *, quiet: bool) -> None:
        super().__init__(console, what, MofNCompleteColumn(), quiet=quiet)
