"""The memory of a process that is brought round by round, each time what has changed since the round before.

there       |----A----|   |--B--|      |---C---|       mapped so far, filled as of a round
wanted      |----A-------||-B'-|       |---C---|       of the next round; B has another protection now
kept         =========                  =======        its changed pages are written, those that are gone dropped
made anew             ====--====                       with all of their pages
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dumper.kernel.remote import Call, Sys
from formats import runs
from formats.chain import MemoryView
from formats.manifest import ANONYMOUS_VMA_KINDS, Vma
from formats.pagecopy import PageCopier
from formats.segments import SegmentKind
from restorer.memory.fill import write_zeros
from restorer.memory.layout import ADVICE, Mapper, first_protection, is_ours
from restorer.memory.vdso import KERNEL_PATHS
from restorer.shell import Shell

MADV_DONTNEED: Final = 4
_FLAGS_THAT_COUNT: Final = frozenset(ADVICE) | {"gd", "nr", "dp", "ht"}
_SHARED_NAMES: Final = ("/dev/zero", "/memfd:", "/SYSV", "[anon_shmem")
_DELETED: Final = " (deleted)"


@dataclass(frozen=True, slots=True)
class _Same:
    """What two mappings have in common if one can go on as a part of the other."""

    what: tuple[str, str, int, str, int | None, bool]
    protection: int
    flags: frozenset[str]
    shift_bytes: int


@dataclass(slots=True)
class Changes:
    """From the mappings that are there to those that are wanted: ranges `kept` and `dropped`, and `made`, parts."""

    kept: list[runs.Range]
    dropped: list[runs.Range]
    made: list[Vma]


def changes(there: Sequence[Vma], wanted: Sequence[Vma]) -> Changes:
    """Both ascend. One that is wanted where several are is made anew: two would not become one again."""
    kept: list[runs.Range] = []
    ranges = [(vma.start_addr, vma.end_addr) for vma in there]
    by_start = {vma.start_addr: vma for vma in there}
    for vma in wanted:
        below = list(runs.overlapping(ranges, vma.start_addr, vma.end_addr))
        if len(below) == 1 and _same(by_start[below[0][0]]) == _same(vma):
            kept.append((max(below[0][0], vma.start_addr), min(below[0][1], vma.end_addr)))
    made = [
        replace(
            vma, start_addr=start_addr, end_addr=end_addr, offset_bytes=vma.offset_bytes + start_addr - vma.start_addr
        )
        for vma in wanted
        for start_addr, end_addr in runs.subtract([(vma.start_addr, vma.end_addr)], kept)
    ]
    return Changes(kept, list(runs.subtract(ranges, kept)), made)


def _same(vma: Vma) -> _Same:
    return _Same(
        (vma.perms, vma.device if vma.has_file else "", vma.inode, vma.path, vma.object, vma.kind == "hugetlb"),
        first_protection(vma),
        frozenset(vma.flags.split()) & _FLAGS_THAT_COUNT,
        vma.offset_bytes - vma.start_addr if vma.has_file else 0,
    )


class MemoryAhead:
    """The memory of one shell; `bring` in the order of the rounds. For one OS thread."""

    def __init__(self, shell: Shell, threads: int) -> None:
        self._shell = shell
        self._threads = threads
        self._there: list[Vma] = []
        self._round = 0

    def bring(self, mapper: Mapper, view: MemoryView, number: int, *, is_dump: bool) -> int:
        """What changed until round `number`, which `mapper` and `view` are of; how many pages were written.

        Of a pre-dump, only mappings that are known to come back as they are there.
        Raises RestoreFailed, ImageCorrupt, StorageError, CallFailed, OSError.
        """
        wanted = [vma for vma in view.vmas if is_ours(vma) and vma.path not in KERNEL_PATHS]
        if not is_dump:
            wanted = list(_certain(wanted, self._there))
        found = changes(self._there, wanted)
        self._shell.calls([Call(Sys.MUNMAP, (start, end - start)) for start, end in found.dropped])
        self._there = []  # should anything fail, nothing is known of it any more
        mapper.map(found.made)
        made = [vma for vma in found.made if not vma.is_shared]
        kept = list(_parts(wanted, found.kept))
        with PageCopier(view, lambda content, addr: self._shell.write(addr, content), self._threads) as copier:
            n_pages = self._write(view, copier, made, 0) + self._write(view, copier, kept, self._round)
            copier.finish()
        self._there, self._round = wanted, number
        return n_pages

    def _write(self, view: MemoryView, copier: PageCopier, vmas: Iterable[Vma], since: int) -> int:
        """Pages that are newer than round `since`; holes are made where pages may be that are gone."""
        n_pages = 0
        gone: list[Call] = []
        for vma in vmas:
            for segment in view.own_segments(vma.start_addr, vma.end_addr, since):
                if segment.kind is SegmentKind.DATA:
                    copier.copy(segment, segment.start_addr)
                    n_pages += segment.n_pages
                elif segment.kind is SegmentKind.ZERO and vma.has_file:
                    write_zeros(self._shell, segment.start_addr, segment.end_addr)
                elif since:
                    span = segment.start_addr, segment.end_addr - segment.start_addr
                    gone.append(Call(Sys.MADVISE, (*span, MADV_DONTNEED)))
        self._shell.calls(gone)
        return n_pages


def _parts(vmas: Iterable[Vma], kept: Iterable[runs.Range]) -> Iterator[Vma]:
    """Both ascend, and a mapping has one kept part at most."""
    parts = {end_addr: (start_addr, end_addr) for start_addr, end_addr in kept}
    ends = sorted(parts)
    position = 0
    for vma in vmas:
        while position < len(ends) and ends[position] <= vma.start_addr:
            position += 1
        if position < len(ends) and parts[ends[position]][0] < vma.end_addr and not vma.is_shared:
            start_addr, end_addr = parts[ends[position]]
            yield replace(vma, start_addr=start_addr, end_addr=end_addr)


def _certain(vmas: Iterable[Vma], there: Sequence[Vma]) -> Iterator[Vma]:
    """Private memory and private mappings of files that are here, with the flags that an earlier round had for them."""
    ranges = [(vma.start_addr, vma.end_addr) for vma in there]
    flags: Mapping[int, str] = {vma.start_addr: vma.flags for vma in there}
    for vma in vmas:
        earlier = [flags[start] for start, _ in runs.overlapping(ranges, vma.start_addr, vma.end_addr)]
        known = vma.flags or (earlier[0] if len(set(earlier)) == 1 else "")
        if known and _is_private_and_here(vma):
            yield replace(vma, flags=known)


def _is_private_and_here(vma: Vma) -> bool:
    if vma.is_shared or vma.path.startswith(_SHARED_NAMES) or vma.path.endswith(_DELETED):
        return False
    if vma.has_file:
        return vma.kind == "file" and Path(vma.path).is_file()
    return vma.kind in ANONYMOUS_VMA_KINDS
