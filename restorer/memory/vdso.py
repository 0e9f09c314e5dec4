"""The vdso: code of the kernel's in each process, which programs call by addresses that they have found long ago.

the same kernel      its pages again, where they were
another one          the old code as plain memory, whose functions jump to those of the new one, somewhere else
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dumper.kernel.remote import Call, Sys
from dumper.proc.maps import parse_line
from formats import runs
from formats.chain import MemoryView
from formats.elf import EHDR, IDENT_64_LITTLE, SHDR
from formats.manifest import Process
from restorer.errors import RestoreFailed
from restorer.shell import Shell

KERNEL_PATHS: Final = frozenset({"[vvar]", "[vvar_vclock]", "[vdso]"})
"""What the kernel maps as one thing, in a row."""
ARCH_MAP_VDSO_64: Final = 0x2003
_VDSO = "[vdso]"
_READ_WRITE, _READ_EXECUTE = 3, 5
_PRIVATE_ANONYMOUS_HERE = 0x02 | 0x20 | 0x100000  # MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE
_SHT_DYNSYM = 11
_STT_FUNC = 2
_SYM = struct.Struct("<IBBHQQ")
"""Elf64_Sym: st_name, st_info, st_other, st_shndx, st_value, st_size."""
_JUMP = b"\xff\x25\x00\x00\x00\x00"  # jmp *0(%rip), and the address follows
_JUMP_BYTES = len(_JUMP) + 8


def map_kernel_pages(shell: Shell, process: Process, view: MemoryView) -> None:
    """When all the rest is mapped. Raises RestoreFailed, CallFailed, ImageCorrupt, StorageError."""
    ranges = kernel_ranges(process)
    if place_kernel_pages(shell, ranges):
        finish_kernel_pages(shell, process, view, ranges)
    elif _VDSO in ranges:
        _put_old_code(shell, process, view)


def place_kernel_pages(shell: Shell, ranges: Mapping[str, runs.Range]) -> bool:
    """This kernel's pages, where those of the image were; there are none if that is not possible. Raises CallFailed."""
    if not ranges:
        return True
    shell.call(Sys.ARCH_PRCTL, ARCH_MAP_VDSO_64, min(ranges.values())[0])
    placed = _placed(shell.pid)  # where that was taken the kernel has put them elsewhere, without a word
    if placed == ranges:
        return True
    drop_kernel_pages(shell, placed)
    return False


def finish_kernel_pages(shell: Shell, process: Process, view: MemoryView, placed: Mapping[str, runs.Range]) -> None:
    """The old code in the place of what was placed, where this kernel has other code. Raises as `map_kernel_pages`."""
    if not placed:
        return
    if _VDSO not in placed:
        drop_kernel_pages(shell, placed)
        return
    content = _code(process, view)
    if not is_same(content, shell.get(placed[_VDSO][0], len(content))):
        drop_kernel_pages(shell, placed)
        _put_old_code(shell, process, view)


def drop_kernel_pages(shell: Shell, placed: Mapping[str, runs.Range]) -> None:
    """Unmap them. Raises CallFailed."""
    shell.calls([Call(Sys.MUNMAP, (start, end - start)) for start, end in placed.values()])


def kernel_ranges(process: Process) -> dict[str, runs.Range]:
    """Where it had them."""
    return {vma.path: (vma.start_addr, vma.end_addr) for vma in process.vmas if vma.path in KERNEL_PATHS}


def _code(process: Process, view: MemoryView) -> bytes:
    start_addr, end_addr = kernel_ranges(process)[_VDSO]
    return view.read(start_addr, end_addr - start_addr)


def is_same(old: bytes, new: bytes) -> bool:
    """Whether the code of the image is that of this kernel."""
    return old == new


def functions(content: bytes) -> dict[str, tuple[int, int]]:
    """Offset and size of each function that a vdso offers, by name. Raises RestoreFailed."""
    try:
        return dict(_functions(content))
    except (struct.error, ValueError, IndexError) as error:
        raise RestoreFailed("The code that a kernel gives to each process (vdso) has no table of functions.") from error


def _functions(content: bytes) -> list[tuple[str, tuple[int, int]]]:
    header = EHDR.unpack_from(content)
    if not header[0].startswith(IDENT_64_LITTLE):
        raise ValueError
    table_offset, n_sections = header[6], header[12]
    sections = [SHDR.unpack_from(content, table_offset + index * SHDR.size) for index in range(n_sections)]
    symbols = next((section for section in sections if section[1] == _SHT_DYNSYM), None)
    if symbols is None:
        raise ValueError
    names_offset = sections[symbols[6]][4]
    found = []
    for offset in range(symbols[4], symbols[4] + symbols[5], _SYM.size):
        name, info, _, section, value, size = _SYM.unpack_from(content, offset)
        if section and info & 0xF == _STT_FUNC:
            start = names_offset + name
            text = content[start : content.index(b"\0", start)].decode("ascii")
            found.append((text, (value, size)))
    return found


def _placed(pid: int) -> dict[str, runs.Range]:
    lines = map(parse_line, Path(f"/proc/{pid}/maps").read_bytes().splitlines())
    return {line.path: (line.start_addr, line.end_addr) for line in lines if line.path in KERNEL_PATHS}


def _put_old_code(shell: Shell, process: Process, view: MemoryView) -> None:
    content = _code(process, view)
    old_addr, old_end_addr = kernel_ranges(process)[_VDSO]
    inside = [t.tid for t in process.threads if old_addr <= t.registers["rip"] < old_end_addr]
    if inside:
        raise RestoreFailed(
            f"Thread {inside[0]} was in the middle of code that another kernel gave to it (vdso).",
            hint="Restore it with the kernel that it ran with, or dump it again.",
            pid=process.pid,
        )
    span = old_addr, old_end_addr - old_addr
    shell.call(Sys.MMAP, *span, _READ_WRITE, _PRIVATE_ANONYMOUS_HERE, -1, 0)
    shell.call(Sys.ARCH_PRCTL, ARCH_MAP_VDSO_64, 0)
    start_addr, end_addr = _placed(shell.pid)[_VDSO]
    new = functions(shell.get(start_addr, end_addr - start_addr))
    shell.write(old_addr, patched(content, new, start_addr))
    shell.call(Sys.MPROTECT, *span, _READ_EXECUTE)


def patched(content: bytes, new: dict[str, tuple[int, int]], new_addr: int) -> bytes:
    """Old code whose functions jump to the `new` ones at `new_addr`. Raises RestoreFailed where one has none."""
    code = bytearray(content)
    for name, (offset, size) in functions(content).items():
        if name not in new or size < _JUMP_BYTES or offset + _JUMP_BYTES > len(code):
            raise RestoreFailed(
                f"This kernel has no {name[:60]!r} for processes (vdso), which that of the image had.",
                hint="Restore it with the kernel that it ran with.",
            )
        code[offset : offset + _JUMP_BYTES] = _JUMP + struct.pack("<Q", new_addr + new[name][0])
    return bytes(code)
