"""The pages of a mapping by kind, as a bar: each kind has a colour and a glyph of its own, and either is enough."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rich.text import Text

from analysis.mappings import PageKind


class _Look(NamedTuple):
    glyph: str
    ascii_glyph: str
    style: str
    legend: str


_LOOKS = {
    PageKind.DATA: _Look("█", "#", "green", "this round"),
    PageKind.PARENT: _Look("▓", "=", "blue", "earlier round"),
    PageKind.ZERO: _Look("░", "0", "cyan", "zero"),
    PageKind.OBJECT: _Look("▒", "o", "magenta", "object"),
    PageKind.FILE: _Look("-", "-", "yellow", "file"),
    PageKind.HOLE: _Look("·", ".", "bright_black", "hole"),
    PageKind.UNREADABLE: _Look("!", "!", "red", "unreadable"),
}


def page_bar(pages: Mapping[PageKind, int], columns: int, *, plain: bool) -> Text:
    """So many columns, shared out among the kinds; whatever there is of a kind has at least one.

    There must be a column for each kind.

    `plain` leaves out what only an encoding of Unicode has.
    """
    bar = Text()
    for kind, n_columns in _shared_out(pages, columns).items():
        look = _LOOKS[kind]
        bar.append((look.ascii_glyph if plain else look.glyph) * n_columns, look.style)
    return bar


def bar_legend(kinds: Iterable[PageKind], *, plain: bool) -> Text:
    """What the glyphs of those kinds mean."""
    shown = set(kinds)
    legend = Text()
    for kind, look in _LOOKS.items():
        if kind in shown:
            legend.append("  " if legend else "")
            legend.append(look.ascii_glyph if plain else look.glyph, look.style)
            legend.append(f" {look.legend}")
    return legend


def _shared_out(pages: Mapping[PageKind, int], columns: int) -> dict[PageKind, int]:
    """Columns by kind, as near to the pages as whole columns go; their sum is `columns` if there are any pages."""
    counts = {kind: pages[kind] for kind in _LOOKS if pages[kind] > 0}
    total = sum(counts.values())
    if not total:
        return {}
    shares = {kind: max(count * columns // total, 1) for kind, count in counts.items()}
    while sum(shares.values()) > columns:
        shares[max(shares, key=lambda kind: shares[kind])] -= 1  # a kind of few pages had been given a column
    lacking = sorted(counts, key=lambda kind: counts[kind] * columns - shares[kind] * total, reverse=True)
    for kind in lacking[: columns - sum(shares.values())]:
        shares[kind] += 1
    return shares
