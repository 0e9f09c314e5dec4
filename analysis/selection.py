"""Which mappings of a process a person means: by kind, by a glob over paths, by an address, by size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from analysis.places import vma_name
from formats.manifest import Vma

_KINDS: dict[str, Callable[[Vma], bool]] = {
    "heap": lambda vma: vma.kind == "heap",
    "stack": lambda vma: vma.kind == "stack",
    "anon": lambda vma: vma.kind == "anon" and not vma.is_shared,
    "shm": lambda vma: vma.kind == "shmem" or (vma.is_shared and not vma.has_file),
}


@dataclass(frozen=True, slots=True)
class VmaSelection:
    """Mappings that one of `words` names (all, for none), that are `writable` if that is asked, and not too small.

    A word is heap, stack, anon or shm; an address in the mapping, such as 0x7f0000001000; or a glob that the path, its
    last part, or a name such as "[vdso]" matches, in upper and lower case as it stands.
    """

    words: tuple[str, ...] = ()
    writable: bool = False
    min_bytes: int = 0

    def has(self, vma: Vma) -> bool:
        """Whether it is one of them."""
        if self.writable and "w" not in vma.perms:
            return False
        if vma.end_addr - vma.start_addr < self.min_bytes:
            return False
        return not self.words or any(_matches(word, vma) for word in self.words)

    def of(self, vmas: Iterable[Vma]) -> list[Vma]:
        """Those of the mappings that are among them, in their order."""
        return [vma for vma in vmas if self.has(vma)]


def _matches(word: str, vma: Vma) -> bool:
    if word in _KINDS:
        return _KINDS[word](vma)
    if word.startswith("0x"):
        try:
            return vma.start_addr <= int(word, 16) < vma.end_addr
        except ValueError:
            return False
    names = (vma.path, PurePosixPath(vma.path).name, vma_name(vma))
    return any(name == word or fnmatchcase(name, word) for name in names)
