"""What a search found, for people: one line a match, or a hex dump around each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from display.hexdump import LINE_BYTES, hexdump
from display.listing import first_few, safe_text
from display.units import clip, counted, printable

_PLACE_MAX = 40
_MEMORY_MIN = 16  # characters of what a match is and what is around it
_PIDS_SHOWN = 3
_PRINTABLE = range(0x20, 0x7F)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMatch:
    """A match as it is shown; `rounds`, `target` and `elsewhere_pids` say nothing where they are empty.

    `target` is what a pointer points to. `repeats` of the same follow on it.
    """

    pid: int
    addr: int
    place: str
    before: bytes
    content: bytes
    after: bytes
    encoding: str
    repeats: int
    rounds: str
    target: str
    elsewhere_pids: Sequence[int]

    @property
    def notes(self) -> str:
        """What else is to be said of it, with a space in front, or nothing."""
        notes = [f"-> {self.target}"] if self.target else []
        notes += [f"and {counted(self.repeats, 'more', 'more')} behind it"] if self.repeats else []
        pids = first_few([str(pid) for pid in self.elsewhere_pids], _PIDS_SHOWN)
        notes += [f"also mapped by {pids}"] if pids else []
        return f" ({'; '.join(notes)})" if notes else ""


def matches_table(matches: Sequence[FoundMatch], columns: int, *, with_pids: bool) -> RenderableType:
    """One line for each of one or more matches, with as much of what is around it as fits so many columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("address", no_wrap=True)
    head = [("pid", [str(match.pid) for match in matches])] if with_pids else []
    head += [("rounds", [match.rounds for match in matches])] if any(match.rounds for match in matches) else []
    head += [("where", [clip(printable(match.place), _PLACE_MAX) for match in matches])]
    used = len(f"{matches[0].addr:012x}")
    for name, cells in head:
        table.add_column(name, no_wrap=True)
        used += 2 + max(len(name), *map(len, cells))
    table.add_column("memory", overflow="fold")
    for position, match in enumerate(matches):
        memory = _memory(match, max(_MEMORY_MIN, columns - used - 2 - len(match.notes)))
        row = [safe_text(cells[position]) for _, cells in head]
        table.add_row(f"{match.addr:012x}", *row, memory + safe_text(match.notes))
    return table


def matches_dump(matches: Sequence[FoundMatch], *, with_pids: bool) -> Iterator[str]:
    """A hex dump around each match, below a line that says where it is."""
    for position, match in enumerate(matches):
        if position:
            yield ""
        whose = f"process {match.pid}, " if with_pids else ""
        rounds = f", rounds {match.rounds}" if match.rounds else ""
        length = counted(len(match.content), "byte")
        yield f"{match.addr:012x} {whose}{match.place}: {length}{rounds}{match.notes}"
        yield from _aligned_dump(match.before + match.content + match.after, match.addr - len(match.before))


def _aligned_dump(content: bytes, addr: int) -> Iterator[str]:
    first_bytes = -addr % LINE_BYTES
    if first_bytes:
        yield from hexdump(content[:first_bytes], addr)
    yield from hexdump(content[first_bytes:], addr + first_bytes)


def _memory(match: FoundMatch, width: int) -> Text:
    """The match, marked, with what is around it."""
    content = clip(_content_text(match), width)
    before, after = _dots(match.before), _dots(match.after)
    room = max(0, width - len(content))
    n_before = min(len(before), max(room // 2, room - len(after)))
    n_after = min(len(after), room - n_before)
    return Text.assemble(before[len(before) - n_before :], (content, "bold reverse"), after[:n_after])


def _content_text(match: FoundMatch) -> str:
    if match.encoding:
        return printable(match.content.decode(match.encoding, "backslashreplace"))
    if match.target:
        return f"{int.from_bytes(match.content, 'little'):016x}"
    is_text = all(byte in _PRINTABLE for byte in match.content)
    return _dots(match.content) if is_text else f"<{match.content.hex(' ')}>"


def _dots(content: bytes) -> str:
    """Bytes as ASCII, a dot for what is none that can be printed."""
    return "".join(chr(byte) if byte in _PRINTABLE else "." for byte in content)
