"""Tables and blocks of names and values: safe from what an image says, never wider than the terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from display.units import clip, printable

ROWS_MAX = 200
CELL_MAX = 400  # characters of a cell; the rest is cut

Cell = str | tuple[str, ...] | Text
"""Text, several lines of it, or text with colours that is safe already."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column; one that `wraps` gives way where the terminal is too narrow for all."""

    name: str
    right: bool = False
    wraps: bool = False


def numbers(*names: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(name, right=True) for name in names]


def safe_text(cell: Cell) -> Text:
    """A cell as rich may have it: no markup, no control characters, not endless."""
    if isinstance(cell, Text):
        return cell
    lines = (cell,) if isinstance(cell, str) else cell
    return Text("\n".join(clip(printable(line[: CELL_MAX + 1]), CELL_MAX) for line in lines))


def first_few(items: Sequence[str], shown: int, separator: str = ", ") -> str:
    """The first of the items, and how many more there are."""
    text = separator.join(items[:shown])
    return f"{text} and {len(items) - shown:,} more" if len(items) > shown else text


def line(text: Cell, style: str = "") -> RenderableType:
    """A line of its own, broken where the terminal is too narrow (the commands' console breaks none by itself)."""
    grid = Table.grid()
    grid.add_column(style=style, overflow="fold")
    grid.add_row(safe_text(text))
    return grid


def listing(
    title: str, columns: Iterable[Column], rows: Iterable[Sequence[Cell]], total: int, rows_max: int = ROWS_MAX
) -> RenderableType | None:
    """A table of the first `rows_max` of `total` rows; below it how many more there are. None for no rows."""
    if not total:
        return None
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            column.name, justify="right" if column.right else "left", overflow="fold", no_wrap=not column.wraps
        )
    for row in islice(rows, rows_max):
        table.add_row(*map(safe_text, row))
    rest = [line(f"... and {total - rows_max:,} more: --json has them all", "yellow")] if total > rows_max else []
    return Group(*([line(title, "bold")] if title else []), table, *rest)


def block(title: str, values: Iterable[tuple[str, str]]) -> RenderableType | None:
    """Names and what stands for them, one below the other; those without a value are left out."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values:
        if value:
            grid.add_row(safe_text(name), safe_text(value))
    if not grid.row_count:
        return None
    return Group(line(title, "bold"), grid) if title else grid


def apart(sections: Iterable[RenderableType | None]) -> RenderableType:
    """Those that there are, one below the other with a blank line between."""
    parts: list[RenderableType] = []
    for section in sections:
        if section is not None:
            parts += [Text(), section] if parts else [section]
    return Group(*parts)
