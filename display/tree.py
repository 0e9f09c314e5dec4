"""The processes of a round as a tree."""

from collections.abc import Iterator

from rich.console import RenderableType

from display.listing import ROWS_MAX, Column, listing, numbers
from display.names import signal_name
from display.units import clip, pages_cell
from formats.manifest import Manifest, Process

NAME_MAX = 15  # of TASK_COMM_LEN
_INDENT_MAX = 10


def wait_status_text(status: int) -> str:
    """A status of wait(2) in words."""
    number = status & 0x7F
    if number == 0:
        return f"exit code {status >> 8 & 0xFF}"
    return f"killed by {signal_name(number)}" + (", core dumped" if status & 0x80 else "")


def _in_order(manifest: Manifest) -> Iterator[tuple[int, Process]]:
    """Each process once, with its depth, children below their parents, the root first."""
    children: dict[int, list[Process]] = {}
    pids = {process.pid for process in manifest.processes}
    for process in manifest.processes:
        children.setdefault(process.ppid, []).append(process)
    tops = [p for p in manifest.processes if p.pid == manifest.root_pid]
    tops += [p for p in manifest.processes if p.pid != manifest.root_pid and p.ppid not in pids]
    tops += manifest.processes  # of an image whose parents go in a circle
    shown: set[int] = set()
    stack = [(0, process) for process in reversed(tops)]
    while stack:
        depth, process = stack.pop()
        if process.pid not in shown:
            shown.add(process.pid)
            yield depth, process
            stack += [(depth + 1, child) for child in reversed(children.get(process.pid, []))]


def _rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    for depth, process in _in_order(manifest):
        state, lineage, zombie = process.state, process.lineage, process.zombie
        yield (
            str(process.pid),
            "  " * min(depth, _INDENT_MAX) + clip(process.name, NAME_MAX),
            str(len(process.threads)) if process.threads else "-",
            str(len(state.descriptors)) if state else "-",
            pages_cell(process.pages_present),
            str(lineage.session) if lineage else "-",
            str(lineage.process_group) if lineage else "-",
            f"zombie, {wait_status_text(zombie.exit_code)}" if zombie else "",
        )
    for ended in manifest.ended:
        yield str(ended.pid), clip(ended.name, NAME_MAX), "-", "-", "-", "-", "-", "gone since the last round"


def tree_table(manifest: Manifest, rows_max: int = ROWS_MAX) -> RenderableType | None:
    """One line a process; None for one process alone, of which everything else is shown anyway."""
    total = len(manifest.processes) + len(manifest.ended)
    if total == 1:
        return None
    columns = (
        *numbers("pid"),
        Column("name"),
        *numbers("threads", "fds", "memory", "session", "group"),
        Column("note", wraps=True),
    )
    return listing("Processes", columns, _rows(manifest), total, rows_max)
