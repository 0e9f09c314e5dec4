"""The symbols of one ELF file, by address and by name: elf(5), Elf64_Sym.

A table may have a hundred thousand of them, of which a few are asked for: it is held as columns of numbers, and names
are cut out of the string table when they are wanted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from itertools import accumulate
from operator import add

ENTRY_BYTES = 24
_MAX_NAME_BYTES = 4096
_NAME = 0xFFFFFFFF  # st_name in the first eight bytes of an entry
_LOOK_BACK = 64  # symbols: one that begins so many before an address is not looked at, whatever its size
_HIDDEN = 0x8000  # VERSYM_HIDDEN: not the default version of its name


class _Section(IntEnum):
    """st_shndx that is no section."""

    UNDEF = 0
    ABS = 0xFFF1
    COMMON = 0xFFF2
    XINDEX = 0xFFFF  # its number is elsewhere


class _Type(IntEnum):
    """Low half of st_info."""

    NOTYPE = 0
    SECTION = 3
    FILE = 4
    TLS = 6
    GNU_IFUNC = 10


_LOCAL = 0  # STB_LOCAL in the high half of st_info


class SymbolKind(Enum):
    """What the value of a symbol is."""

    PLACE = "place"
    """An address."""
    RESOLVER = "resolver"
    """The address of a function that says at run time which function is meant: STT_GNU_IFUNC."""
    THREAD_LOCAL = "thread-local"
    """An offset in the thread-local memory of each thread: STT_TLS."""
    ABSOLUTE = "absolute"
    """A number: SHN_ABS."""

    @property
    def is_chosen_at_run_time(self) -> bool:
        """Whether what the name means to callers lies elsewhere."""
        return self is SymbolKind.RESOLVER

    @property
    def is_address(self) -> bool:
        """Whether it goes where the file is loaded."""
        return self in {SymbolKind.PLACE, SymbolKind.RESOLVER}


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol; `value` is an address as linked, or what its kind says. Its name has no version."""

    name: str
    value: int
    size_bytes: int
    kind: SymbolKind


class SymbolTable:
    """Symbols that are defined in the file, but for sections and source files."""

    def __init__(self, entries: bytes, strings: bytes, loaded: Container[int], versions: bytes = b"") -> None:
        """`entries` are the bytes of a symbol table, `strings` of its string table, `versions` of .gnu.version.

        `loaded` are the numbers of sections that go to memory.
        """
        words = array("Q", entries[: len(entries) // ENTRY_BYTES * ENTRY_BYTES])
        # st_name, st_info, st_other, st_shndx; st_value; st_size
        self._heads, self._values, self._sizes = words[0::3], words[1::3], words[2::3]
        self._strings = strings
        self._versions = array("H", versions[: len(versions) // 2 * 2])
        # There are few different kinds, and many symbols.
        kinds = {word: _kind(word, loaded) for word in {head >> 32 for head in self._heads}}
        self._kinds = {word: kind for word, kind in kinds.items() if kind is not None}
        places = {word for word, kind in self._kinds.items() if kind.is_address}
        self._order = array("I", (i for i, head in enumerate(self._heads) if head >> 32 in places and head & _NAME))
        self._order = array("I", sorted(self._order, key=self._values.__getitem__))
        self._starts = array("Q", map(self._values.__getitem__, self._order))
        # How far the symbols up to each one reach: where to end looking for one that an address is in.
        self._reach = list(accumulate(map(add, self._starts, map(self._sizes.__getitem__, self._order)), max))

    def __len__(self) -> int:
        return len(self._order)

    def at(self, value: int) -> Symbol | None:
        """The symbol that an address as linked is in: the innermost, of several the one for others to see.

        One without a size is at its own address only.
        """
        end = bisect_right(self._starts, value)
        best: int | None = None
        for position in range(end - 1, max(-1, end - 1 - _LOOK_BACK), -1):
            index = self._order[position]
            start = self._starts[position]
            if best is not None and start < self._values[best]:
                break
            if value == start or value - start < self._sizes[index]:
                best = index if best is None else max(best, index, key=self._rank)
            elif self._reach[position] <= value:
                break
        return None if best is None else self._symbol(best)

    def between(self, start: int, end: int) -> Iterator[Symbol]:
        """Those that begin in `[start, end)`, ascending, one for each address."""
        position = bisect_left(self._starts, start)
        while position < len(self._starts) and self._starts[position] < end:
            after = bisect_right(self._starts, self._starts[position], position)
            yield self._symbol(max(self._order[position:after], key=self._rank))
            position = after

    def named(self, name: str) -> list[Symbol]:
        """Those of a name, of any version; of the default one alone if there is one. At most one for each value."""
        wanted = name.encode(errors="surrogateescape")
        strings, n_bytes = self._strings, len(wanted)
        found: dict[int, int] = {}
        defaults: set[int] = set()
        for index, head in enumerate(self._heads):
            offset = head & _NAME
            if not strings.startswith(wanted, offset) or head >> 32 not in self._kinds:
                continue
            rest = strings[offset + n_bytes : offset + n_bytes + 2]
            if rest[:1] not in {b"\0", b"@"}:
                continue
            found.setdefault(self._values[index], index)
            hidden = index < len(self._versions) and self._versions[index] & _HIDDEN
            if rest == b"@@" or (rest[:1] == b"\0" and not hidden):
                defaults.add(self._values[index])
        return [self._symbol(index) for value, index in found.items() if not defaults or value in defaults]

    def _rank(self, index: int) -> tuple[bool, bool, bool, bool, str]:
        """By which one of several symbols at an address is preferred, such as puts to _IO_puts."""
        info = self._heads[index] >> 32 & 0xFF
        name = self._name(index)
        return self._sizes[index] > 0, info >> 4 != _LOCAL, info & 0xF != _Type.NOTYPE, not name.startswith("_"), name

    def _name(self, index: int) -> str:
        offset = self._heads[index] & _NAME
        end = self._strings.find(b"\0", offset, offset + _MAX_NAME_BYTES)
        name = self._strings[offset : end if end >= 0 else offset + _MAX_NAME_BYTES]
        return (name[:1] + name[1:].partition(b"@")[0]).decode(errors="surrogateescape")

    def _symbol(self, index: int) -> Symbol:
        head = self._heads[index]
        return Symbol(self._name(index), self._values[index], self._sizes[index], self._kinds[head >> 32])


def _kind(word: int, loaded: Container[int]) -> SymbolKind | None:
    """Of st_info, st_other and st_shndx as one number; None for what has no place of its own in the file."""
    symbol_type, section = word & 0xF, word >> 16
    if section in {_Section.UNDEF, _Section.COMMON} or symbol_type in {_Type.SECTION, _Type.FILE}:
        return None
    if symbol_type == _Type.TLS:
        return SymbolKind.THREAD_LOCAL
    if section == _Section.ABS:
        return SymbolKind.ABSOLUTE
    if section != _Section.XINDEX and section not in loaded:
        return None
    return SymbolKind.RESOLVER if symbol_type == _Type.GNU_IFUNC else SymbolKind.PLACE
