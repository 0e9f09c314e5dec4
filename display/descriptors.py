"""The file descriptors of a process."""

from collections.abc import Iterable

from rich.console import RenderableType

from display.listing import ROWS_MAX, Cell, Column, first_few, listing, numbers
from display.names import open_flag_names
from display.openfiles import OpenFiles, kind_text, notes, offset_text, what_text
from display.units import clip
from formats.manifest import Process
from formats.processstate import Descriptor, FileLock

FLAGS_NARROW, FLAGS_WIDE = 18, 40  # columns of the flags, on a terminal narrower than this or not
WIDE_COLUMNS = 120
_LOCKS_SHOWN = 3
_LOCK_WORD_MAX = 12


def _fold(names: Iterable[str], columns: int) -> tuple[str, ...]:
    """The names joined by "|", in lines that break behind one."""
    lines = [""]
    for name in names:
        if lines[-1] and len(lines[-1]) + 1 + len(name) > columns:
            lines[-1] += "|"
            lines.append(name)
        else:
            lines[-1] += f"|{name}" if lines[-1] else name
    return tuple(lines)


def _lock_text(lock: FileLock) -> str:
    end = "end" if lock.end < 0 else str(lock.end)
    where = "" if (lock.start, end) == (0, "end") else f" of {lock.start} to {end}"
    return f"{clip(lock.kind, _LOCK_WORD_MAX)} {clip(lock.mode, _LOCK_WORD_MAX)} lock{where}"


def _locks_by_fd(locks: Iterable[FileLock]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for lock in locks:
        found.setdefault(lock.fd, []).append(_lock_text(lock))
    return found


def descriptors_table(
    process: Process, files: OpenFiles, whose: str, columns: int, rows_max: int = ROWS_MAX
) -> RenderableType | None:
    """One line a descriptor: what is open, how, and who else has it."""
    if process.state is None:
        return None
    locks = _locks_by_fd(process.state.locks)
    flags_columns = FLAGS_WIDE if columns >= WIDE_COLUMNS else FLAGS_NARROW

    def row(descriptor: Descriptor) -> tuple[Cell, ...]:
        item = files.get(descriptor.open_file)
        if item is None:
            return str(descriptor.fd), "-", "-", "-", "the round does not hold what it is"
        texts = [what_text(item), *notes(item, files, (process.pid, descriptor.fd))]
        texts += [first_few(locks[descriptor.fd], _LOCKS_SHOWN)] if descriptor.fd in locks else []
        flags = _fold(open_flag_names(item.flags, close_on_exec=descriptor.close_on_exec), flags_columns)
        return str(descriptor.fd), kind_text(item), flags, offset_text(item), "; ".join(texts)

    head = (*numbers("fd"), Column("kind"), Column("flags"), *numbers("offset"), Column("what", wraps=True))
    descriptors = process.state.descriptors
    return listing(f"Open files{whose}", head, map(row, descriptors), len(descriptors), rows_max)
