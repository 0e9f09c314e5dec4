"""The auxiliary vector, by which a debugger finds where the executable was loaded: getauxval(3)."""

from __future__ import annotations

import struct
from enum import IntEnum

from formats.chain import MemoryView
from formats.errors import AddressAbsent

_ENTRY = struct.Struct("<QQ")
_MAX_ENTRIES = 64  # AT_VECTOR_SIZE of include/linux/mm_types.h is below that
_MAX_TYPE = 0xFF
_MAX_SEARCHED_BYTES = 8 << 20  # arguments and environment, which lie above it, take 6 MiB at most: execve(2)


class AuxType(IntEnum):
    """Types of entries: include/uapi/linux/auxvec.h, arch/x86/include/uapi/asm/auxvec.h."""

    NULL = 0
    SYSINFO_EHDR = 33


def auxv_of(view: MemoryView) -> bytes:
    """The auxiliary vector with its end mark, b"" if it is not to be had; raises ImageCorrupt, StorageError.

    Where the round does not have it, it is looked for where exec(2) put it: on the main stack above all
    frames. On x86 it begins with the address of the vdso.
    """
    if view.process.state is not None and view.process.state.auxv:
        return view.process.state.auxv
    vdso = next((vma for vma in view.vmas if vma.path == "[vdso]"), None)
    stack = next((vma for vma in view.vmas if vma.path == "[stack]"), None)
    if vdso is None or stack is None:
        return b""
    start_addr = max(stack.start_addr, stack.end_addr - _MAX_SEARCHED_BYTES)
    try:
        content = view.read(start_addr, stack.end_addr - start_addr)
    except AddressAbsent:
        return b""
    first = content.rfind(_ENTRY.pack(AuxType.SYSINFO_EHDR, vdso.start_addr))
    return b"" if first < 0 else _entries(content[first:])


def _entries(content: bytes) -> bytes:
    """The entries that content begins with, b"" if they do not end."""
    for position in range(0, min(len(content) // _ENTRY.size, _MAX_ENTRIES) * _ENTRY.size, _ENTRY.size):
        kind, _ = _ENTRY.unpack_from(content, position)
        if kind == AuxType.NULL:
            return content[: position + _ENTRY.size]
        if kind > _MAX_TYPE:
            break
    return b""
