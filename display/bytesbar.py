"""A bar while a known number of bytes is worked through."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from formats.closing import Closing


class BytesBar(Closing):
    """Called with bytes done and bytes to do; shows a bar where `console` is a terminal. `what` is going on."""

    def __init__(self, console: Console, what: str, *, quiet: bool) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
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

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        self._bar.update(self._task, completed=done_bytes, total=total_bytes)
