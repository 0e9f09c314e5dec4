"""From what a person calls a place to its address: "main_arena+0x10", "libc.so.6:main_arena", "heap+0x1a0"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from analysis.places import Places
from analysis.symbols.symbols import ProcessSymbol
from analysis.symbols.symboltable import SymbolKind
from formats.errors import UsageError

_OFFSET = re.compile(r"([+-])\s*(0[xX][0-9a-fA-F]{1,32}|[0-9]{1,32})\s*$")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,32}|[0-9]{1,32}")
_SHOWN_CANDIDATES = 8


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """The address that an expression means, and the symbol it names; `rest_bytes` are left of that, 0 if not known."""

    addr: int
    symbol: ProcessSymbol | None = None

    @property
    def rest_bytes(self) -> int:
        """From the address to the end of the symbol."""
        if self.symbol is None:
            return 0
        return max(0, self.symbol.start_addr + self.symbol.size_bytes - self.addr)


def whereabouts(text: str, places: Places, registers: Mapping[str, int] | None = None) -> Whereabouts:
    """What an expression means.

    It is a number, a register of `registers`, a mapping ("heap", "[vdso]", "libc.so.6"), a symbol, or one of a file
    ("libc.so.6:main_arena"), and offsets that are added to it or taken from it. Where a mapping and a symbol have the
    same name, the mapping is meant. Raises UsageError if it is none of these, or several; ImageCorrupt, StorageError.
    """
    name, offset_bytes = text.strip(), 0
    while True:
        found = _candidates(name, places, registers or {})
        if found:
            break
        match = _OFFSET.search(name)
        if match is None or not match.start():
            raise _unknown(text, name, places)
        offset_bytes += _number(match[2]) * (1 if match[1] == "+" else -1)
        name = name[: match.start()].rstrip()
    if len(found) > 1:
        shown = [f"{addr:#x} ({label})" for addr, (label, _) in list(found.items())[:_SHOWN_CANDIDATES]]
        more = f", and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
        raise UsageError(f"{name!r} may be several places.", hint=f"Choose one: {', '.join(shown)}{more}.")
    addr, (_, symbol) = next(iter(found.items()))
    if addr + offset_bytes < 0:
        raise UsageError(f"{text!r} is below address 0.")
    return Whereabouts(addr + offset_bytes, symbol)


_Found = dict[int, tuple[str, ProcessSymbol | None]]
"""By address: how to say that it is meant, and the symbol that it is the beginning of."""


def _candidates(name: str, places: Places, registers: Mapping[str, int]) -> _Found:
    """What a name without offset may be; raises UsageError for a symbol that has no address."""
    if _NUMBER.fullmatch(name):
        return {_number(name): (name, None)}
    register = name.removeprefix("$")
    if register in registers:
        return {registers[register]: (name, None)}
    found: _Found = {addr: (label, None) for addr, label in places.named(name).items()}
    if found or places.symbols is None or _OFFSET.search(name):
        return found
    file, colon, symbol_name = name.rpartition(":")
    symbols = places.symbols.named(symbol_name, places.vmas_named(file) if colon else places.vmas)
    for symbol in symbols:
        if symbol.kind.is_address:
            found.setdefault(symbol.start_addr, (places.symbol_name(symbol, symbol.start_addr), symbol))
    if symbols and not found:
        raise _no_address(symbols[0], places)
    return found


def _number(text: str) -> int:
    """As `_NUMBER` has it; one with zeros in front is decimal."""
    return int(text, 16) if text[:2] in {"0x", "0X"} else int(text)


def _no_address(symbol: ProcessSymbol, places: Places) -> UsageError:
    label = places.symbol_name(symbol, symbol.start_addr)
    is_own = symbol.kind is SymbolKind.THREAD_LOCAL
    return UsageError(
        f"{label} is no place in memory: it is {symbol.kind.value}, with the value {symbol.start_addr:#x}.",
        hint="Each thread has its own, in memory that fs_base leads to." if is_own else "",
    )


def _unknown(text: str, name: str, places: Places) -> UsageError:
    hint = (
        "Write an address, a symbol (main_arena, libc.so.6:main_arena) or a mapping (heap, stack), with +OFFSET or not."
    )
    if places.symbols is not None and places.symbols.lacks_files:
        hint += " Some of the files that were mapped are not here: --sysroot DIR says where they are."
    return UsageError(f"{text!r} is no place: nothing in the process is called {name!r}.", hint=hint)
