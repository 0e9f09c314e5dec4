"""Names for addresses of a process, as a reader would say where one is: "heap+0x1a0", "libc.so.6:main_arena+0x10"."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from formats.manifest import Vma

if TYPE_CHECKING:
    from analysis.symbols.symbols import ProcessSymbol, Symbols

_DELETED = " (deleted)"


def vma_name(vma: Vma) -> str:
    """What a mapping is called: the last part of its path, its name in brackets, or what kind it is of."""
    path = vma.path.removesuffix(_DELETED)
    if not path:
        return vma.kind
    return path[1:-1] if path.startswith("[") else path.rstrip("/").rpartition("/")[2] or path


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a range that lies in one mapping or symbol: its first address, and what that is called."""

    addr: int
    place: str


class Places:
    """Names addresses by the symbol they are in, or by the mapping.

    Offsets into mappings count from where a file was mapped first, so that they stay the same however its parts are
    protected; in memory without a file, from the start of the mapping. One of several of a name is told by its start
    address: "anon@7f0000000000+0x10".
    """

    def __init__(self, vmas: Iterable[Vma], symbols: Symbols | None = None) -> None:
        """`vmas` ascend by address, as a manifest has them. Without `symbols`, names are by mappings alone."""
        self.vmas = list(vmas)
        self.symbols = symbols
        self._starts_addr = [vma.start_addr for vma in self.vmas]

    def vma_at(self, addr: int) -> Vma | None:
        """The mapping that an address is in, None if it is in none."""
        position = bisect_right(self._starts_addr, addr) - 1
        if position < 0 or addr >= self.vmas[position].end_addr:
            return None
        return self.vmas[position]

    def name(self, addr: int) -> str:
        """Where an address is, "" if nothing is mapped there; with symbols, raises ImageCorrupt, StorageError."""
        label, base_addr = self._whole_at(addr)
        return label + _offset(addr - base_addr)

    def sections(self, start_addr: int, end_addr: int) -> Iterator[Section]:
        """What a range consists of, from its start on, symbols without a size left out; raises as `name`."""
        cuts = {start_addr}
        first = max(0, bisect_right(self._starts_addr, start_addr) - 1)
        for position in range(first, bisect_left(self._starts_addr, end_addr)):
            cuts |= {self.vmas[position].start_addr, self.vmas[position].end_addr}
        if self.symbols is not None:
            around = self.symbols.at(start_addr)
            for symbol in chain([around] if around else [], self.symbols.between(start_addr, end_addr)):
                cuts |= {symbol.start_addr, symbol.start_addr + symbol.size_bytes}
        previous: tuple[str, int] | None = None
        for addr in sorted(cut for cut in cuts if start_addr <= cut < end_addr):
            label, base_addr = self._whole_at(addr, sized=True)
            if (label, base_addr) != previous:
                yield Section(addr, self.name(addr) if addr == start_addr else label + _offset(addr - base_addr))
            previous = label, base_addr

    def symbol_name(self, symbol: ProcessSymbol, addr: int) -> str:
        """What an address in a symbol is called."""
        return f"{self._label(symbol.vma)}:{symbol.name}{_offset(addr - symbol.start_addr)}"

    def named(self, name: str) -> dict[int, str]:
        """The mappings that may be meant by a name: where their offsets count from, and their unambiguous names.

        A name is one that `name` gives, with or without the start address; the whole path; or, as in "[heap]", the name
        with its brackets.
        """
        found: dict[int, str] = {}
        for vma in self.vmas_named(name):
            found.setdefault(self._base_addr(vma), self._label(vma))
        return found

    def vmas_named(self, name: str) -> list[Vma]:
        """The mappings of a name."""
        return [vma for vma in self.vmas if name in {vma_name(vma), vma.path, self._label(vma)}]

    def _whole_at(self, addr: int, *, sized: bool = False) -> tuple[str, int]:
        """The symbol (if `sized`: one with a size) or mapping at an address, and where offsets into it count from."""
        vma = self.vma_at(addr)
        if vma is None:
            return "", addr
        symbol = self.symbols.at(addr) if self.symbols else None
        if symbol is not None and (symbol.size_bytes or not sized):
            return self.symbol_name(symbol, symbol.start_addr), symbol.start_addr
        return self._label(vma), self._base_addr(vma)

    def _label(self, vma: Vma) -> str:
        name = vma_name(vma)
        return f"{name}@{self._base_addr(vma):x}" if name in self._ambiguous else name

    def _base_addr(self, vma: Vma) -> int:
        return self._first_addr[vma.path, vma.inode] if vma.has_file else vma.start_addr

    @cached_property
    def _first_addr(self) -> dict[tuple[str, int], int]:
        """Where each file was mapped first."""
        found: dict[tuple[str, int], int] = {}
        for vma in self.vmas:
            if vma.has_file:
                found.setdefault((vma.path, vma.inode), vma.start_addr)
        return found

    @cached_property
    def _ambiguous(self) -> set[str]:
        """Names that several files, or pieces of memory without one, have."""
        bases_addr: dict[str, int] = {}
        return {
            name
            for vma in self.vmas
            if bases_addr.setdefault(name := vma_name(vma), self._base_addr(vma)) != self._base_addr(vma)
        }


def _offset(n_bytes: int) -> str:
    return f"+{n_bytes:#x}" if n_bytes else ""
