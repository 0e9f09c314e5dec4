"""What `inspect` draws on, and how much of everything it draws."""

from dataclasses import dataclass

from rich.console import Console

from display.listing import ROWS_MAX

WIDE_COLUMNS = 120
VERY_WIDE_COLUMNS = 160


@dataclass(frozen=True, slots=True)
class View:
    """A terminal of so many columns, `plain` if its encoding has ASCII only; `limit` are rows of a table at most."""

    columns: int
    plain: bool = False
    limit: int | None = None

    @staticmethod
    def of(console: Console, limit: int | None) -> "View":
        """What a console offers."""
        return View(console.width, console.options.ascii_only, limit)

    @property
    def is_wide(self) -> bool:
        """Whether there is room for numbers beside the bars."""
        return self.columns >= WIDE_COLUMNS

    def rows(self, usual: int = ROWS_MAX) -> int:
        """Rows of a table at most."""
        return usual if self.limit is None else self.limit
