"""Names for the addresses of a process, as a reader would say where one is: "heap+0x1a0", "libc.so.6+0x1e4c60"."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from pathlib import PurePosixPath

from formats.manifest import Vma

_DELETED = " (deleted)"


def vma_name(vma: Vma) -> str:
    """What a mapping is called: the last part of its path, its name in brackets, or what kind it is of."""
    path = vma.path.removesuffix(_DELETED)
    if not path:
        return vma.kind
    return path[1:-1] if path.startswith("[") else PurePosixPath(path).name or path


class Places:
    """Names addresses by the mapping they are in.

    Offsets count from where a file was mapped first, so that they stay the same however its parts are protected; in
    memory without a file, from the start of the mapping, and one of several of a name is told by its start address.
    """

    def __init__(self, vmas: Iterable[Vma]) -> None:
        """`vmas` ascend by address, as a manifest has them."""
        self._vmas = list(vmas)
        self._starts_addr = [vma.start_addr for vma in self._vmas]
        self._base_addr: dict[str, int] = {}
        names: dict[str, int] = {}
        for vma in self._vmas:
            names[vma_name(vma)] = names.get(vma_name(vma), 0) + 1
            if vma.inode:
                self._base_addr.setdefault(vma.path, vma.start_addr)
        self._ambiguous = {name for name, n_vmas in names.items() if n_vmas > 1}

    def vma_at(self, addr: int) -> Vma | None:
        """The mapping that an address is in, None if it is in none."""
        position = bisect_right(self._starts_addr, addr) - 1
        if position < 0 or addr >= self._vmas[position].end_addr:
            return None
        return self._vmas[position]

    def name(self, addr: int) -> str:
        """Where an address is, "" if nothing is mapped there."""
        vma = self.vma_at(addr)
        if vma is None:
            return ""
        name = vma_name(vma)
        base_addr = self._base_addr.get(vma.path) if vma.inode else None
        if base_addr is None:
            base_addr = vma.start_addr
            name = f"{name}@{base_addr:x}" if name in self._ambiguous else name
        return f"{name}+{addr - base_addr:#x}" if addr != base_addr else name
