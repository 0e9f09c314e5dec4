"""The symbols of a process: those of the ELF files that it had mapped, at the addresses where they were.

A file is opened when an address in it, or a name that may be in it, is asked for, and its symbols count only if it is
the file that was mapped (`analysis.files.mappedfiles`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.files.mappedfiles import FoundFile, MappedFiles, Sameness, is_file
from formats.chain import MemoryView
from formats.errors import AddressAbsent
from formats.layout import PAGE_BYTES
from formats.manifest import FileKey, Vma

if TYPE_CHECKING:
    from analysis.symbols.elffile import ElfFile, LoadSegment
    from analysis.symbols.symboltable import Symbol, SymbolKind, SymbolTable

Notice = Callable[[str, str], None]
"""Takes what the user should know: a word for programs, and a sentence."""

_MAGIC = b"\x7fELF"
_VDSO = "[vdso]"
_BSS_MAPPINGS = 8  # memory without a file that follows on that of a file, cut by different permissions


@dataclass(frozen=True, slots=True)
class ProcessSymbol:
    """A symbol of a process: its address (or what its kind says), and the first mapping of its file."""

    name: str
    start_addr: int
    size_bytes: int
    kind: SymbolKind
    vma: Vma


@dataclass(slots=True)
class _Module:
    """A file with symbols. It was loaded at each of `biases_addr`: what is to be added to its addresses as linked."""

    vma: Vma
    table: SymbolTable
    start: int
    end: int
    biases_addr: list[int]
    unsure: str = ""

    def bias_at(self, addr: int) -> int | None:
        """Of the copy of the file that an address is in."""
        position = bisect_right(self.biases_addr, addr - self.start) - 1
        if position < 0 or addr >= self.biases_addr[position] + self.end:
            return None
        return self.biases_addr[position]


class Symbols:
    """Names for addresses of a process, and addresses for names, as of a round."""

    def __init__(self, view: MemoryView, files: MappedFiles, notice: Notice) -> None:
        """`notice` is told of each file that is not what was mapped, or may not be."""
        self._view = view
        self._files = files
        self._notice = notice
        self._starts_addr = [vma.start_addr for vma in view.vmas]
        self._modules: dict[FileKey, _Module | None] = {}
        self.lacks_files = False
        """Whether a file that was looked for is not here, or is another one."""

    def at(self, addr: int) -> ProcessSymbol | None:
        """The symbol that an address is in; raises ImageCorrupt, StorageError."""
        module = self._module_at(addr)
        bias_addr = module.bias_at(addr) if module else None
        if module is None or bias_addr is None:
            return None
        symbol = module.table.at(addr - bias_addr)
        return None if symbol is None else self._placed(symbol, module, bias_addr)

    def between(self, start_addr: int, end_addr: int) -> Iterator[ProcessSymbol]:
        """Those that begin in `[start_addr, end_addr)`, ascending, one for each address.

        Raises ImageCorrupt, StorageError.
        """
        for vma in self._view.vmas_in(start_addr, end_addr):
            addr, vma_end_addr = max(start_addr, vma.start_addr), min(end_addr, vma.end_addr)
            module = self._module_at(addr)
            bias_addr = module.bias_at(addr) if module else None
            if module is not None and bias_addr is not None:
                for symbol in module.table.between(addr - bias_addr, vma_end_addr - bias_addr):
                    yield self._placed(symbol, module, bias_addr)

    def named(self, name: str, vmas: Iterable[Vma]) -> list[ProcessSymbol]:
        """The symbols of a name in the files of these mappings; raises ImageCorrupt, StorageError."""
        found = []
        modules = [module for module in map(self._module, filter(_may_have_symbols, vmas)) if module is not None]
        for module in {id(module): module for module in modules}.values():
            for symbol in module.table.named(name):
                found += [self._placed(symbol, module, bias_addr) for bias_addr in module.biases_addr]
        return found

    def _placed(self, symbol: Symbol, module: _Module, bias_addr: int) -> ProcessSymbol:
        if module.unsure:
            self._notice("symbols", module.unsure)
            module.unsure = ""
        value = symbol.value + bias_addr if symbol.kind.is_address else symbol.value
        return ProcessSymbol(symbol.name, value, symbol.size_bytes, symbol.kind, module.vma)

    def _module_at(self, addr: int) -> _Module | None:
        """What an address is in, be it in memory behind that of the file: .bss."""
        vmas = self._view.vmas
        last = bisect_right(self._starts_addr, addr) - 1
        if last < 0 or addr >= vmas[last].end_addr:
            return None
        for position in range(last, max(-1, last - _BSS_MAPPINGS), -1):
            if _may_have_symbols(vmas[position]):
                return self._module(vmas[position])
            if position and vmas[position - 1].end_addr != vmas[position].start_addr:
                break
        return None

    def _module(self, vma: Vma) -> _Module | None:
        """The file that a mapping is of."""
        key = vma.file_key
        if key not in self._modules:
            self._modules[key] = self._vdso(vma) if vma.path == _VDSO else self._load(self._files.mappings(vma))
        return self._modules[key]

    def _load(self, vmas: list[Vma]) -> _Module | None:
        found = self._files.open(vmas[0])
        if found is None:
            self.lacks_files = True
            return None
        with found as file:
            if _start(file) != _MAGIC:
                return None
            name = vmas[0].path
            if file.sameness is Sameness.OTHER:
                self.lacks_files = True
                self._notice("symbols", f"{file.path} is not the file that was mapped: its symbols are left out")
                return None
            module = self._read(vmas, file)
        if module is not None and file.sameness is Sameness.UNKNOWN:
            module.unsure = (
                f"nothing tells whether {file.path} is still the {name} that was mapped: symbols may be wrong"
            )
        return module

    def _read(self, vmas: list[Vma], file: FoundFile) -> _Module | None:
        from analysis.symbols.debugfiles import stripped_symbols  # noqa: PLC0415 -- few addresses are in files
        from analysis.symbols.elffile import ElfFile, UnusableElf  # noqa: PLC0415

        try:
            elf = ElfFile(file.read, file.size_bytes)
            table = elf.symbol_table()
            if table is None:
                table = stripped_symbols(self._files, vmas[0].path, file.build_id, elf.debug_link)
            if table is None:
                table = elf.dynamic_symbol_table()
        except UnusableElf as error:
            self._notice("symbols", f"{file.path} is damaged, so there are no symbols of it: {error}")
            return None
        return _module(vmas, elf, table, _biases(vmas, elf.loads))

    def _vdso(self, vma: Vma) -> _Module | None:
        """The kernel's library, which has no file: the image has all of it."""
        from analysis.symbols.elffile import ElfFile, UnusableElf  # noqa: PLC0415 -- as above

        try:
            content = self._view.read(vma.start_addr, vma.end_addr - vma.start_addr)
            elf = ElfFile(lambda offset, n_bytes: content[offset : offset + n_bytes], len(content))
            table = elf.dynamic_symbol_table()
        except (AddressAbsent, UnusableElf):
            return None
        biases_addr = [vma.start_addr - (load.addr - load.offset_bytes) for load in elf.loads[:1]]
        return _module([vma], elf, table, biases_addr)


def _module(vmas: list[Vma], elf: ElfFile, table: SymbolTable | None, biases_addr: list[int]) -> _Module | None:
    if table is None or not biases_addr:
        return None
    start = min(load.addr for load in elf.loads)
    end = max(load.addr + load.memory_bytes for load in elf.loads)
    return _Module(vmas[0], table, start, end, biases_addr)


def _biases(vmas: list[Vma], loads: list[LoadSegment]) -> list[int]:
    """Where a file was loaded: differences between addresses and those as linked, ascending.

    A page at a border of two segments is mapped for both, so a mapping may tell of two places; and a file may be mapped
    to be read, too. Right is where most segments are, if that is most of them.
    """
    votes: dict[int, set[int]] = {}
    loads = [load for load in loads if load.file_bytes]
    for vma in vmas:
        for number, load in enumerate(loads):
            skipped_bytes = vma.offset_bytes - load.offset_bytes // PAGE_BYTES * PAGE_BYTES
            if 0 <= skipped_bytes < load.offset_bytes % PAGE_BYTES + load.file_bytes:
                page_addr = load.addr // PAGE_BYTES * PAGE_BYTES
                votes.setdefault(vma.start_addr - skipped_bytes - page_addr, set()).add(number)
    most = max(map(len, votes.values()), default=0)
    return sorted(bias_addr for bias_addr, found in votes.items() if len(found) == most and 2 * most > len(loads))


def _may_have_symbols(vma: Vma) -> bool:
    return (is_file(vma) and not vma.is_shared) or vma.path == _VDSO


def _start(file: FoundFile) -> bytes:
    try:
        return file.read(0, len(_MAGIC))
    except OSError:
        return b""
