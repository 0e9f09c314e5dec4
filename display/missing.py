"""What a round does not hold, in few words: things that differ only in a number count as alike."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import RenderableType

from display.listing import ROWS_MAX, Column, first_few, listing
from display.units import clip, counted, printable
from formats.manifest import Manifest, Missing

_NUMBER = re.compile(r"0x[0-9a-f]+(?:-0x[0-9a-f]+)?|[0-9]+")
_NAMED = 3  # of those alike, so many are named
_KINDS_IN_SUMMARY = 3
_SUMMARY_WHAT_MAX = 60
_LINES_MAX = 40
_WHAT_MAX = 200  # characters of what is compared: the rest is an image's wish to be slow


@dataclass(slots=True)
class _Alike:
    """Things that differ in their numbers, and all lack for the same reason."""

    whats: list[str]
    reason: str

    def text(self) -> str:
        """The first of them, and how many more: "descriptor 7, 8, 9 and 497 more of process 12"."""
        first = self.whats[0]
        if len(self.whats) == 1:
            return first
        numbers = [_NUMBER.findall(what) for what in self.whats]
        differing = [i for i, number in enumerate(numbers[0]) if any(row[i] != number for row in numbers)]
        if len(differing) != 1:
            return f"{first} and {len(self.whats) - 1:,} more"
        start, end = [match.span() for match in _NUMBER.finditer(first)][differing[0]]
        return first[:start] + first_few([row[differing[0]] for row in numbers], _NAMED) + first[end:]


def _groups(missing: Sequence[Missing]) -> list[_Alike]:
    groups: dict[tuple[tuple[str, ...], str], _Alike] = {}
    for item in missing:
        what = item.what[:_WHAT_MAX]
        key = (tuple(_NUMBER.split(what)), _NUMBER.sub("#", item.reason[:_WHAT_MAX]))
        group = groups.setdefault(key, _Alike([], item.reason))
        group.whats.append(what)
    return list(groups.values())


def missing_of(manifest: Manifest) -> list[Missing]:
    """All that a round does not hold of its processes, unreadable memory with it; in a tree it is said whose it is."""
    found = []
    for process in manifest.processes:
        whose = f" of process {process.pid}" if len(manifest.processes) > 1 else ""
        gaps = [
            Missing(what=f"memory {gap.start_addr:#x}-{gap.end_addr:#x}", reason=gap.reason)
            for gap in process.unreadable
        ]
        found += [Missing(what=item.what + whose, reason=item.reason) for item in (*gaps, *process.missing)]
    return found


def missing_summary(missing: Sequence[Missing]) -> str:
    """One line that names what a dump lacks, for its end; "" if that is nothing."""
    return f"not captured: {first_kinds(missing)} (predump inspect says why)" if missing else ""


def first_kinds(missing: Sequence[Missing]) -> str:
    """The first kinds of things, without reasons."""
    groups = _groups(missing)
    parts = [clip(printable(group.text()), _SUMMARY_WHAT_MAX) for group in groups[:_KINDS_IN_SUMMARY]]
    if len(groups) > len(parts):
        parts.append(counted(len(groups) - len(parts), "other kind of thing", "other kinds of things"))
    return "; ".join(parts)


def missing_lines(title: str, missing: Sequence[Missing]) -> list[str]:
    """The same in full after a line with a title, for the end of a command; nothing if that is nothing."""
    groups = _groups(missing)
    lines = [f"  {clip(group.text(), _WHAT_MAX)}: {clip(group.reason, _WHAT_MAX)}" for group in groups[:_LINES_MAX]]
    if len(groups) > len(lines):
        lines.append(f"  ... and {len(groups) - len(lines):,} more: --json has them all")
    return [f"{title}:", *lines] if lines else []


def missing_briefly(manifest: Manifest, lines_max: int) -> list[str]:
    """What was not captured and why, in so few lines."""
    groups = _groups(missing_of(manifest))
    n_shown = lines_max if len(groups) <= lines_max else lines_max - 1
    lines = [f"{clip(group.text(), _WHAT_MAX)}: {group.reason[:_WHAT_MAX]}" for group in groups[:n_shown]]
    if len(groups) > n_shown:
        lines.append(counted(len(groups) - n_shown, "other kind of thing", "other kinds of things"))
    return lines


def missing_table(manifest: Manifest, rows_max: int = ROWS_MAX) -> RenderableType | None:
    """What was not captured and why; None where nothing lacks."""
    return table_of("Not captured", missing_of(manifest), rows_max)


def table_of(title: str, missing: Sequence[Missing], rows_max: int = ROWS_MAX) -> RenderableType | None:
    """Things and why, one line for all that are alike; None where there are none."""
    groups = _groups(missing)
    rows = ((group.text(), group.reason) for group in groups)
    columns = (Column("what", wraps=True), Column("why", wraps=True))
    return listing(title, columns, rows, len(groups), rows_max)
