"""The memory of a round: objects that are stored once, and the VMAs of a process."""

from rich.console import Group, RenderableType

from display.listing import CELL_MAX, Cell, Column, first_few, line, listing, numbers
from display.names import seal_names
from display.units import bytes_text, counted, pages_cell, pages_text, printable, tail
from formats.layout import PAGE_BYTES
from formats.manifest import Manifest, MemoryObject, Process, Vma

_VMA_NUMBERS_COLUMNS = 60  # of the VMA table, before the last column
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


def objects_table(manifest: Manifest) -> RenderableType | None:
    """One line a memory object, with those who map it."""
    mappers = _mappers(manifest)

    def row(item: MemoryObject) -> tuple[Cell, ...]:
        pids = [str(pid) for pid in mappers.get(item.id, [])]
        seals = f"; {'|'.join(seal_names(item.seals))}" if item.seals else ""
        return (
            str(item.id),
            item.kind[:10],
            bytes_text(item.size_bytes),
            pages_cell(item.pages_data),
            first_few(pids, _PIDS_SHOWN, " ") or "nobody",
            tail(item.path[:4096], _PATH_MAX) + seals,
        )

    head = (
        *numbers("object"),
        Column("kind"),
        *numbers("size", "data"),
        Column("mapped by", wraps=True),
        Column("what", wraps=True),
    )
    return listing(
        "Memory objects, stored once for all who use them", head, map(row, manifest.objects), len(manifest.objects)
    )


class _WhatColumn:
    """What each VMA maps, in so many columns; notes that do not fit beside it become footnotes, each once."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._footnotes: dict[str, int] = {}

    def text(self, vma: Vma) -> str:
        """The end of its path, or its kind, and what a reader should know."""
        path = vma.path.removesuffix(_DELETED) if vma.object is not None else vma.path
        what = printable((path or vma.kind)[-_PATH_MAX:])
        notes = [vma.note[:CELL_MAX]] if vma.note else []
        notes += ["untracked"] if not vma.tracked and vma.kind != "special" else []
        own = [f"object {vma.object}"] if vma.object is not None else []
        inline = f"{what} ({', '.join(own + notes)})" if own or notes else what
        if len(inline) <= self._columns:
            return inline
        suffix = f" ({own[0]})" if own else ""
        if notes:
            suffix += f" [{self._footnotes.setdefault(', '.join(notes), len(self._footnotes) + 1)}]"
        return tail(what, max(self._columns - len(suffix), _WHAT_MIN)) + suffix

    def footnotes(self) -> list[RenderableType]:
        """The notes that texts so far refer to."""
        return [line(f"[{number}] {note}") for note, number in self._footnotes.items()]


def vmas_table(process: Process, whose: str, columns: int) -> RenderableType | None:
    """One line a VMA, with its pages by kind; "absent" are holes and clean pages of files."""
    what = _WhatColumn(max(_WHAT_COLUMNS_MIN, columns - _VMA_NUMBERS_COLUMNS))

    def row(vma: Vma) -> tuple[Cell, ...]:
        absent = vma.pages_absent if vma.object is None else 0
        pages = (vma.n_pages, vma.pages_data, vma.pages_zero, vma.pages_parent, absent)
        return f"{vma.start_addr:012x}", vma.perms, *map(pages_cell, pages), what.text(vma)

    figures = numbers("size", "data", "zero", "parent", "absent")
    head = (Column("start"), Column("perms"), *figures, Column("what", wraps=True))
    table = listing(f"VMAs{whose}", head, map(row, process.vmas), len(process.vmas), _VMA_ROWS_MAX)
    if table is None:
        return None
    below = what.footnotes()
    if process.guards:
        n_pages = sum(guard.end_addr - guard.start_addr for guard in process.guards) // PAGE_BYTES
        guards = counted(len(process.guards), "guard range")
        below.append(line(f"{guards} (MADV_GUARD_INSTALL), {pages_text(n_pages)}"))
    if process.unseen_writers:
        writers = first_few(process.unseen_writers, _WRITERS_SHOWN)
        below.append(line(f"Pages may be older than the round, for writes that went unseen: {writers}"))
    return Group(table, *below)
