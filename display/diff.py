"""What became of a process between two rounds: its mappings with most changes first, bytes, state."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType

from analysis.diff.byteranges import ByteRange
from analysis.diff.rounds import MappingDiff, PageCounts, ProcessDiff, RoundDiff, is_news
from analysis.diff.vmas import DELETED
from display.diffstate import change_rows
from display.listing import Cell, Column, apart, block, line, listing, numbers
from display.units import clip, counted, duration_text, pages_cell, pages_text, tail, time_text
from formats.images import Round
from formats.layout import PAGE_BYTES
from formats.manifest import Process, RoundKind, Vma

WIDE_COLUMNS = 120
_NAME_MAX = 15
_BYTES_NARROW, _BYTES_WIDE = 8, 16  # of a range, in each of two columns
_PATH_MAX = 200
_PLACE_MAX = 60
_TEXT_MIN = 4


def rounds_block(diff: RoundDiff) -> RenderableType | None:
    """Which two rounds are compared."""
    apart_ns = diff.after.manifest.created_ns - diff.before.manifest.created_ns
    later = f", {duration_text(apart_ns)} later" if apart_ns > 0 else ""
    return block("", [("before", _round_text(diff.before)), ("after", _round_text(diff.after) + later)])


def _round_text(info: Round) -> str:
    return f"{info.path}, {info.manifest.kind}, {time_text(info.manifest.created_ns)}"


def missing_line(diff: RoundDiff) -> RenderableType | None:
    """What pre-dumps do not have."""
    early = {str(info.path): None for info in (diff.before, diff.after) if info.manifest.kind is RoundKind.PRE_DUMP}
    if not early:
        return None
    which = " and ".join(early)
    return line(
        f"{which}: taken while the process ran, so without state and shared memory; pages may be torn.", "yellow"
    )


def process_view(result: ProcessDiff, columns: int, rows_max: int) -> RenderableType:
    """All that is not the same, for a terminal of so many columns, and `rows_max` lines of each kind at most."""
    before, after = result.pair
    if before is None or after is None:
        process, fate = (before, "has ended") if before else (after, "has come")
        assert process is not None
        return line(f"{_who(process)} {fate}, {pages_text(process.pages_present)} of memory", "bold")
    sections = [
        _mappings_table(result.mappings, rows_max),
        _bytes_table(result, columns, rows_max),
        _state_table(result, rows_max),
    ]
    return apart([line(f"{_who(before, after)}: {summary_text(result)}", "bold"), *sections])


def _who(process: Process, other: Process | None = None) -> str:
    name = clip(process.name, _NAME_MAX)
    if other is None or other.pid == process.pid:
        return f"{name}, pid {process.pid}"
    return f"{name}, pid {process.pid} -> {clip(other.name, _NAME_MAX)}, pid {other.pid}"


def counts_text(counts: PageCounts) -> str:
    """Pages by what became of them, as a person says it; "" for none."""
    parts = [
        f"{counted(number, 'page')} {word} ({pages_text(number)})"
        for word, number in (
            ("changed", counts.pages_changed),
            ("added", counts.pages_added),
            ("gone", counts.pages_gone),
            ("not comparable", counts.pages_unknown),
        )
        if number
    ]
    return ", ".join(parts)


def total_text(n_processes: int, n_changed: int, counts: PageCounts) -> str:
    """The sum of it, where there is more than one process."""
    pages = counts_text(counts)
    text = f"{counted(n_processes, 'process', 'processes')}, {n_changed:,} of them changed"
    return f"{text}: {pages}." if pages else f"{text}."


def summary_text(result: ProcessDiff) -> str:
    """What of a process changed, in one line."""
    parts = [counts_text(result.counts)]
    parts += [counted(len(result.state), "change") + " of state"] if result.state else []
    parts += ["mappings changed"] if result.differs and not any(parts) else []
    return ", ".join(filter(None, [*([] if result.differs else ["nothing changed"]), *parts]))


def _mappings_table(mappings: Sequence[MappingDiff], rows_max: int) -> RenderableType | None:
    """One line a mapping that is not the same."""
    changed = [item for item in mappings if item.counts.total or is_news(item)]
    changed.sort(key=lambda item: -item.counts.total)  # stable: by address where they are even
    has_unknown = any(item.counts.pages_unknown for item in changed)

    def row(item: MappingDiff) -> tuple[Cell, ...]:
        vma, counts = item.pair.vma, item.counts
        figures = [counts.pages_changed, counts.pages_added, counts.pages_gone]
        figures += [counts.pages_unknown] if has_unknown else []
        path = vma.path.removesuffix(DELETED) if _is_deleted_since(item) else vma.path
        what = tail((path or vma.kind)[-_PATH_MAX:], _PATH_MAX)
        notes = ", ".join(_notes(item))
        what = f"{what} ({notes})" if notes else what
        return f"{vma.start_addr:012x}", vma.perms, pages_cell(vma.n_pages), *map(_figure, figures), what

    names = ["changed", "added", "gone", *(["unknown"] if has_unknown else [])]
    head = (Column("start"), Column("perms"), *numbers("size", *names), Column("what", wraps=True))
    return listing("Mappings, pages", head, map(row, changed), len(changed), rows_max)


def _is_deleted_since(item: MappingDiff) -> bool:
    before, after = item.pair.before, item.pair.after
    return before is not None and after is not None and after.path == before.path + DELETED


def _figure(pages: int) -> str:
    return f"{pages:,}" if pages else "-"


def _notes(item: MappingDiff) -> Iterator[str]:
    before, after = item.pair.before, item.pair.after
    if before is None:
        yield "new"
    elif after is None:
        yield "gone"
    elif is_news(item):
        yield from _moves(item.pair.shift, before, after) if not item.pair.split else [f"part of {before.start_addr:x}"]
        if before.perms != after.perms:
            yield f"was {before.perms}"
        if _is_deleted_since(item):
            yield "deleted meanwhile"
        elif before.path != after.path:
            yield f"was {tail(before.path[-_PATH_MAX:], _PATH_MAX) or 'without a name'}"


def _moves(shift: int, before: Vma, after: Vma) -> Iterator[str]:
    for what, change_bytes in (
        ("start", after.start_addr - before.start_addr - shift),
        ("end", after.end_addr - before.end_addr - shift),
    ):
        if change_bytes:
            size = pages_cell(abs(change_bytes) // PAGE_BYTES)
            yield f"{what} moved {'up' if change_bytes > 0 else 'down'} by {size}"


def _bytes_table(result: ProcessDiff, columns: int, rows_max: int) -> RenderableType | None:
    """Ranges of bytes, old and new, by what lies there."""
    is_wide = columns >= WIDE_COLUMNS
    shown_bytes = _BYTES_WIDE if is_wide else _BYTES_NARROW

    def row(item: ByteRange) -> tuple[Cell, ...]:
        place = tail(item.place, _PLACE_MAX)
        size = item.end_addr - item.start_addr
        place += f" ({counted(item.n_ranges, 'range')})" if item.n_ranges > 1 else ""
        old, new = _contents(item, shown_bytes)
        addr = (f"{item.start_addr:012x}",) if is_wide else ()
        return *addr, place, f"{size:,}", old, new

    head = (Column("place", wraps=True), *numbers("bytes"), Column("before"), Column("after"))
    head = (Column("address"), *head) if is_wide else head
    table = listing("Bytes", head, map(row, result.ranges), len(result.ranges), rows_max)
    below = []
    if result.pages_left:
        below.append(line(f"... and more in {counted(result.pages_left, 'page')}: --max shows more", "yellow"))
    if result.pages_unread:
        whose = "a file's that is not here" if result.pages_unread == 1 else "of files that are not here"
        below.append(line(f"{counted(result.pages_unread, 'page')} without older or newer bytes: {whose}", "yellow"))
    parts = [*([table] if table else []), *below]
    return Group(*parts) if parts else None


def _contents(item: ByteRange, shown_bytes: int) -> tuple[str, str]:
    """What the bytes were and are: as text where both are, else as hex digits."""
    sides = item.before, item.after
    if len(item.after) >= _TEXT_MIN and all(side.isascii() and side.decode().isprintable() for side in sides):
        old, new = (f'"{clip(side.decode(), 3 * shown_bytes - 3)}"' for side in sides)
    else:
        more = "…" if len(item.after) > shown_bytes or item.n_ranges > 1 else ""
        old, new = (side[:shown_bytes].hex(" ") + more for side in sides)
    return old, new


def _state_table(result: ProcessDiff, rows_max: int) -> RenderableType | None:
    rows = change_rows(result.state[:rows_max])
    columns = [Column(name, wraps=True) for name in ("what", "before", "after")]
    return listing("State", columns, rows, len(result.state), rows_max)
