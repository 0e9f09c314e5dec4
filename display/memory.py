"""The memory of a round: objects that are stored once, and the mappings of a process."""

from rich.console import Group, RenderableType

from analysis.mappings import PageKind
from analysis.subject import Subject
from display.listing import CELL_MAX, ROWS_MAX, Cell, Column, first_few, line, listing, numbers
from display.names import seal_names
from display.pagebar import bar_legend, page_bar
from display.units import bytes_cell, bytes_text, counted, pages_cell, pages_text, printable, tail
from display.view import VERY_WIDE_COLUMNS, View
from formats.layout import PAGE_BYTES, object_pages_name
from formats.manifest import Manifest, MemoryObject, Process, Vma

_NUMBERS_COLUMNS = 50  # of the table of mappings, before its bar and last column
_MORE_NUMBERS_COLUMNS = 36  # of those that only a wide terminal has room for
_BAR, _WIDE_BAR = 10, 20  # columns
_VMA_ROWS_MAX = 2000
_WHAT_COLUMNS_MIN = 16
_WHAT_MIN = 4  # of a path beside its notes
_PATH_MAX = 200
_DELETED = " (deleted)"  # at the end of a path in /proc/PID/maps; no news of what an object holds
_PIDS_SHOWN = 4
_WRITERS_SHOWN = 8


def _mappers(manifest: Manifest) -> dict[int, list[int]]:
    """For each memory object the pids of those that map it."""
    found: dict[int, dict[int, None]] = {}
    for process in manifest.processes:
        for vma in process.vmas:
            if vma.object is not None:
                found.setdefault(vma.object, {})[process.pid] = None
    return {number: list(pids) for number, pids in found.items()}


def objects_table(manifest: Manifest, rows_max: int = ROWS_MAX) -> RenderableType | None:
    """One line a memory object, with those who map it."""
    mappers = _mappers(manifest)
    stored = {entry.name: entry.stored_bytes for entry in manifest.files}

    def row(item: MemoryObject) -> tuple[Cell, ...]:
        pids = [str(pid) for pid in mappers.get(item.id, [])]
        seals = f"; {'|'.join(seal_names(item.seals))}" if item.seals else ""
        return (
            str(item.id),
            item.kind[:10],
            bytes_text(item.size_bytes),
            pages_cell(item.pages_data),
            bytes_cell(stored.get(object_pages_name(item.id), 0)),
            first_few(pids, _PIDS_SHOWN, " ") or "nobody",
            tail(item.path[:4096], _PATH_MAX) + seals,
        )

    head = (
        *numbers("object"),
        Column("kind"),
        *numbers("size", "data", "stored"),
        Column("mapped by", wraps=True),
        Column("what", wraps=True),
    )
    title = "Memory objects, stored once for all who use them"
    return listing(title, head, map(row, manifest.objects), len(manifest.objects), rows_max)


def _path_text(vma: Vma) -> str:
    path = vma.path.removesuffix(_DELETED) if vma.object is not None else vma.path
    return printable((path or vma.kind)[-_PATH_MAX:])


def vma_text(vma: Vma, columns: int) -> str:
    """The end of its path, or its kind, and its object if it has one, in about so many columns."""
    suffix = f" (object {vma.object})" if vma.object is not None else ""
    return tail(_path_text(vma), max(columns - len(suffix), _WHAT_MIN)) + suffix


class _WhatColumn:
    """What each VMA maps, in so many columns; notes that do not fit beside it become footnotes, each once."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._footnotes: dict[str, int] = {}

    def text(self, vma: Vma) -> str:
        """The end of its path, or its kind, and what a reader should know."""
        what = _path_text(vma)
        notes = [vma.note[:CELL_MAX]] if vma.note else []
        notes += ["untracked"] if not vma.tracked and vma.kind != "special" else []
        own = [f"object {vma.object}"] if vma.object is not None else []
        inline = f"{what} ({', '.join(own + notes)})" if own or notes else what
        if len(inline) <= self._columns:
            return inline
        suffix = f" [{self._footnotes.setdefault(', '.join(notes), len(self._footnotes) + 1)}]" if notes else ""
        return vma_text(vma, max(self._columns - len(suffix), _WHAT_MIN)) + suffix

    def footnotes(self) -> list[RenderableType]:
        """The notes that texts so far refer to."""
        return [line(f"[{number}] {note}") for note, number in self._footnotes.items()]


def written_text(times: float | None) -> str:
    """How often pages were written, on average."""
    if times is None:
        return "-"
    return f"{times:.1f}x" if times >= 0.05 or not times else "<0.1x"


def stored_text(n_bytes: int | None) -> str:
    """Stored bytes in a few characters; "?" if nobody knows."""
    return "?" if n_bytes is None else bytes_cell(n_bytes)


def vmas_table(subject: Subject, whose: str, view: View) -> RenderableType | None:
    """One line a mapping that is meant; a wide terminal has its pages by kind in numbers, too."""
    process, chosen = subject.process, subject.chosen
    bar_columns = _WIDE_BAR if view.columns >= VERY_WIDE_COLUMNS else _BAR
    used_columns = _NUMBERS_COLUMNS + bar_columns + (_MORE_NUMBERS_COLUMNS if view.is_wide else 0)
    what = _WhatColumn(max(_WHAT_COLUMNS_MIN, view.columns - used_columns))
    kinds: set[PageKind] = set()

    def row(index: int) -> tuple[Cell, ...]:
        item = subject.mappings.mapping(index)
        vma = item.vma
        kinds.update(kind for kind, n_pages in item.pages.items() if n_pages)
        absent = vma.pages_absent if vma.object is None else 0
        numbers_ = (vma.pages_data, vma.pages_zero, vma.pages_parent, absent) if view.is_wide else ()
        return (
            f"{vma.start_addr:012x}",
            vma.perms,
            *map(pages_cell, (vma.n_pages, *numbers_)),
            stored_text(item.stored_bytes),
            written_text(item.times_written),
            page_bar(item.pages, bar_columns, plain=view.plain),
            what.text(vma),
        )

    figures = ("size", *(("data", "zero", "parent", "absent") if view.is_wide else ()), "stored", "written")
    head = (Column("start"), Column("perms"), *numbers(*figures), Column("pages"), Column("what", wraps=True))
    n_others = len(process.vmas) - len(chosen)
    title = f"VMAs{whose}" + (f" ({len(chosen):,} of {len(process.vmas):,})" if n_others else "")
    table = listing(title, head, map(row, chosen), len(chosen), view.rows(_VMA_ROWS_MAX))
    if table is None:
        return line(f"None of the {counted(n_others, 'VMA')}{whose} is meant.") if n_others else None
    below = [line(bar_legend(kinds, plain=view.plain)), *what.footnotes()]
    if n_others:
        return Group(table, *below)
    if process.guards:
        n_pages = sum(guard.end_addr - guard.start_addr for guard in process.guards) // PAGE_BYTES
        guards = counted(len(process.guards), "guard range")
        below.append(line(f"{guards} (MADV_GUARD_INSTALL), {pages_text(n_pages)}"))
    if process.unseen_writers:
        unseen = f"Pages may be older than the round, for writes that went unseen: {writers_text(process)}"
        below.append(line(unseen))
    return Group(table, *below)


def writers_text(process: Process) -> str:
    """What may have written to pages after they were copied."""
    return first_few(process.unseen_writers, _WRITERS_SHOWN)
