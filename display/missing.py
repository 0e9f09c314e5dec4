"""What a round does not hold, in few words: things that differ only in a number count as alike."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import RenderableType

from display.listing import Column, counted, listing
from display.units import clip, printable
from formats.manifest import Manifest, Missing

_NUMBER = re.compile(r"0x[0-9a-f]+(?:-0x[0-9a-f]+)?|[0-9]+")
_NAMED = 3  # of those alike, so many are named
_KINDS_IN_SUMMARY = 3
_SUMMARY_WHAT_MAX = 60
_WHAT_MAX = 200  # characters of what is compared: the rest is an image's wish to be slow


@dataclass(slots=True)
class _Alike:
    """Things that differ in their numbers, and all lack for the same reason."""

    whats: list[str]
    reason: str

    def text(self) -> str:
        """The first of them, and how many more: "descriptor 7, 8, 9 and 497 more"."""
        named = self.whats[:_NAMED]
        start, end = _difference(named)
        parts = [what[start : len(what) - end] for what in named]
        # More than one number differs: pieces of such a text would read as nonsense.
        if any(not _NUMBER.fullmatch(part) for part in parts):
            named, parts, start, end = named[:1], named[:1], 0, 0
        text = named[0][:start] + ", ".join(parts) + named[0][len(named[0]) - end :]
        n_more = len(self.whats) - len(named)
        return f"{text} and {n_more:,} more" if n_more else text


def _difference(whats: Sequence[str]) -> tuple[int, int]:
    """How many characters at the beginning and at the end are the same in all, cut back to whole numbers."""
    first = [match.span() for match in _NUMBER.finditer(whats[0])]
    if len(whats) == 1:
        return 0, 0
    numbers = [[match.group() for match in _NUMBER.finditer(what)] for what in whats]
    differing = [i for i in range(len(first)) if len({row[i] for row in numbers}) > 1]
    if len(differing) != 1:
        return 0, 0
    start, end = first[differing[0]]
    return start, len(whats[0]) - end


def _groups(missing: Sequence[Missing]) -> list[_Alike]:
    groups: dict[tuple[str, str], _Alike] = {}
    for item in missing:
        what = item.what[:_WHAT_MAX]
        key = (_NUMBER.sub("#", what), _NUMBER.sub("#", item.reason[:_WHAT_MAX]))
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
    groups = _groups(missing)
    if not groups:
        return ""
    parts = [clip(printable(group.text()), _SUMMARY_WHAT_MAX) for group in groups[:_KINDS_IN_SUMMARY]]
    if len(groups) > len(parts):
        parts.append(counted(len(groups) - len(parts), "other kind of thing", "other kinds of things"))
    return f"not captured: {'; '.join(parts)} (predump inspect says why)"


def missing_table(manifest: Manifest) -> RenderableType | None:
    """What was not captured and why, one line for all that are alike; None where nothing lacks."""
    groups = _groups(missing_of(manifest))
    rows = ((group.text(), group.reason) for group in groups)
    columns = (Column("what", wraps=True), Column("why", wraps=True))
    return listing("Not captured", columns, rows, len(groups))
