"""A figure, its limit, and how they are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured in several runs, and what it may be at most in each of them.

    `limit_name` says where the limit comes from if it was measured, too.
    `skipped` says why there is nothing; `details` are further numbers of the same runs, for programs.
    """

    name: str
    unit: str
    limit_name: str = ""
    measured: Sequence[float] = ()
    limits: Sequence[float] = ()
    note: str = ""
    skipped: str = ""
    details: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """Measured by limit, run by run: 1 is just good enough."""
        return [m / most for m, most in zip(self.measured, self.limits, strict=True)]

    @property
    def is_good(self) -> bool:
        """Whether the median keeps within the limit; what was skipped does no harm."""
        return bool(self.skipped) or median(self.ratios) <= 1

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        found: dict[str, object] = {"name": self.name, "unit": self.unit, "limit": self.limit_name}
        if self.skipped:
            return found | {"skipped": self.skipped}
        return found | {
            "measured": list(self.measured),
            "measured_median": median(self.measured),
            "limits": list(self.limits),
            "limit_median": median(self.limits),
            "ratios": self.ratios,
            "ratio_median": median(self.ratios),
            "within_limit": self.is_good,
            "note": self.note,
            "details": {name: list(values) for name, values in self.details.items()},
        }


def spread(values: Sequence[float]) -> str:
    """`median [min-max]`, or the value alone if all are the same."""
    low, middle, high = _number(min(values)), _number(median(values)), _number(max(values))
    return middle if low == high else f"{middle} [{low}-{high}]"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def show(figures: Sequence[Figure], console: Console) -> None:
    """Prints the table, and below it the notes."""
    table = Table(title=Text("predump benchmarks: median [min-max]"))
    for heading in ("figure", "measured", "limit", "of the limit", ""):
        table.add_column(heading, justify="right" if heading == "of the limit" else "left")
    for figure in figures:
        table.add_row(*_row(figure))
    console.print(table)
    for figure in figures:
        if figure.note or figure.skipped:
            console.print(f"{figure.name}: {figure.skipped or figure.note}", style="dim", highlight=False, markup=False)


def _row(figure: Figure) -> tuple[str | Text, ...]:
    if figure.skipped:
        return figure.name, "", figure.limit_name, "", Text("skipped", style="yellow")
    verdict = Text("ok", style="green") if figure.is_good else Text("MISSED", style="bold red")
    unit = f" {figure.unit}" if figure.unit else ""
    limit = f"{spread(figure.limits)}{unit}"
    return (
        figure.name,
        spread(figure.measured) + unit,
        f"{figure.limit_name} = {limit}" if figure.limit_name else limit,
        spread(figure.ratios),
        verdict,
    )
