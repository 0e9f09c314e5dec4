"""The memory of a round: objects that are stored once, and the VMAs of a process."""

from collections.abc import Iterator

from rich.console import Group, RenderableType

from display.listing import Cell, Column, counted, first_few, line, listing, numbers
from display.names import seal_names
from display.units import bytes_text, pages_cell, pages_text, printable, tail
from formats.layout import PAGE_BYTES
from formats.manifest import Manifest, MemoryObject, Process, Vma

VMA_NUMBERS_COLUMNS = 60  # of the VMA table, before the last column
VMA_ROWS_MAX = 2000
_PATH_MAX = 200
_PIDS_SHOWN = 4


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


def _notes(vma: Vma) -> Iterator[str]:
    if vma.object is not None:
        yield f"object {vma.object}"
    if vma.note:
        yield vma.note
    if not vma.tracked and vma.kind != "special":
        yield "untracked"


def vmas_table(process: Process, whose: str, columns: int) -> RenderableType | None:
    """One line a VMA, with its pages by kind; "absent" are holes, clean pages of files, and what an object holds."""
    what_columns = max(16, columns - VMA_NUMBERS_COLUMNS)

    def row(vma: Vma) -> tuple[Cell, ...]:
        notes = ", ".join(_notes(vma))
        what = printable(f"{vma.path or vma.kind}{f' ({notes})' if notes else ''}")
        pages = (vma.n_pages, vma.pages_data, vma.pages_zero, vma.pages_parent, vma.pages_absent)
        return f"{vma.start_addr:012x}", vma.perms, *map(pages_cell, pages), tail(what, what_columns)

    figures = numbers("size", "data", "zero", "parent", "absent")
    head = (Column("start"), Column("perms"), *figures, Column("what", wraps=True))
    table = listing(f"VMAs{whose}", head, map(row, process.vmas), len(process.vmas), VMA_ROWS_MAX)
    if table is None or not process.guards:
        return table
    n_pages = sum(guard.end_addr - guard.start_addr for guard in process.guards) // PAGE_BYTES
    guards = f"{counted(len(process.guards), 'guard range')} (MADV_GUARD_INSTALL), {pages_text(n_pages)}"
    return Group(table, line(guards))
