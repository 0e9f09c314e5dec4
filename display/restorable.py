"""Whether a round comes back to life, and what stands in the way, in words."""

from collections.abc import Sequence

from rich.console import RenderableType

from display.listing import ROWS_MAX, line
from display.missing import first_kinds, table_of
from display.units import counted
from formats.manifest import Manifest, Missing
from formats.restorable import Obstacle, Verdict


def told(obstacles: Sequence[Obstacle], *, is_tree: bool) -> list[Missing]:
    """As things that are missing are listed; in a tree it is said whose it is."""
    return [
        Missing(
            what=f"{item.what} of process {item.pid}" if is_tree and _names_another(item) else item.what,
            reason=item.reason,
        )
        for item in obstacles
    ]


def _names_another(item: Obstacle) -> bool:
    return item.pid is not None and item.what != f"process {item.pid}"


def restorable_line(obstacles: Sequence[Obstacle], n_differences: int, *, is_tree: bool) -> str:
    """One line for the end of a dump."""
    if obstacles:
        return f"Not restorable: {first_kinds(told(obstacles, is_tree=is_tree))} (predump inspect --show restore)"
    if n_differences:
        things = counted(n_differences, "thing")
        return f"Restorable; {things} would come back otherwise (predump inspect --show restore)"
    return "Restorable"


def restorable_briefly(verdict: Verdict, manifest: Manifest) -> str:
    """The same for a look at the round."""
    if verdict.obstacles:
        return f"NO, --show restore says why: {first_kinds(told(verdict.obstacles, is_tree=_is_tree(manifest)))}"
    if verdict.warnings:
        return f"yes, but {counted(len(verdict.warnings), 'thing')} would come back otherwise: --show restore"
    return "yes; 'restore --check' looks at this machine, too"


def restorable_tables(verdict: Verdict, manifest: Manifest, rows_max: int = ROWS_MAX) -> list[RenderableType | None]:
    """All of it: what stands in the way, and what comes back otherwise; one line if there is neither."""
    if verdict.is_restorable and not verdict.warnings:
        return [line("Restorable: everything comes back as it was.")]
    return [
        table_of(title, told(items, is_tree=_is_tree(manifest)), rows_max)
        for title, items in (
            ("In the way of a restore", verdict.obstacles),
            ("Comes back otherwise", verdict.warnings),
        )
    ]


def _is_tree(manifest: Manifest) -> bool:
    return len(manifest.processes) > 1
