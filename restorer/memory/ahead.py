"""The memory of a process that is brought round by round, each time what has changed since the round before.

there       |----A----|   |--B--|      |---C---|       mapped so far, filled as of a round
wanted      |----A-------||-B'-|       |---C---|       of the next round; B has another protection now
kept         =========                  =======        its changed pages are written, those that are gone dropped
made anew             ====--====                       with all of their pages
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from typing import Final, NamedTuple

from dumper.kernel.remote import Call, Sys
from formats import runs
from formats.chain import MemoryView
from formats.checkpoint import Checkpoint, RoundInfo
from formats.manifest import ANONYMOUS_VMA_KINDS, Process, RoundKind, Vma
from formats.roundpages import RoundPages
from restorer.memory.changed import empty_ranges, write_pages, zero_ranges
from restorer.memory.fill import fill_mappings, write_zeros
from restorer.memory.layout import ADVICE, Mapper, first_protection, is_ours
from restorer.memory.vdso import (
    KERNEL_PATHS,
    drop_kernel_pages,
    finish_kernel_pages,
    kernel_ranges,
    map_kernel_pages,
    place_kernel_pages,
)
from restorer.shell import Shell

MADV_DONTNEED: Final = 4
_FLAGS_THAT_COUNT: Final = frozenset(ADVICE) | {"gd", "nr", "dp", "ht"}
_SHARED_NAMES: Final = ("/dev/zero", "/memfd:", "/SYSV", "[anon_shmem")
_DELETED: Final = " (deleted)"
_MAX_EMPTY: Final = 1 << 16


class _Same(NamedTuple):
    """What two mappings have in common if one can go on as a part of the other."""

    what: tuple[str, str, int, str, int | None, bool]
    protection: int
    flags: frozenset[str]
    shift_bytes: int


class Kept(NamedTuple):
    """A range that goes on as a part of `vma`, which is wanted."""

    start_addr: int
    end_addr: int
    vma: Vma


@dataclass(slots=True)
class Changes:
    """From the mappings that are there to those that are wanted: `kept`, ranges `dropped`, and `made`, parts."""

    kept: list[Kept]
    dropped: list[runs.Range]
    made: list[Vma]


def changes(there: Sequence[Vma], wanted: Sequence[Vma]) -> Changes:
    """Both ascend. One that is wanted where several are is made anew: two would not become one again."""
    kept: list[Kept] = []
    made: list[Vma] = []
    ranges = [(vma.start_addr, vma.end_addr) for vma in there]
    by_start = {vma.start_addr: vma for vma in there}
    for vma in wanted:
        part = _kept_part(vma, ranges, by_start)
        if part:
            kept.append(part)
        whole = vma.start_addr, vma.end_addr
        made += [_part(vma, *one) for one in runs.subtract([whole], [part[:2]] if part else ())]
    return Changes(kept, list(runs.subtract(ranges, (part[:2] for part in kept))), made)


def _kept_part(vma: Vma, ranges: Sequence[runs.Range], by_start: Mapping[int, Vma]) -> Kept | None:
    same = by_start.get(vma.start_addr)  # nearly all are as they were: there may be a hundred thousand
    if same and same.end_addr == vma.end_addr:
        below = [(same.start_addr, same.end_addr)]
    else:
        below = list(runs.overlapping(ranges, vma.start_addr, vma.end_addr))
    if len(below) != 1 or not _can_go_on(by_start[below[0][0]], vma):
        return None
    return Kept(max(below[0][0], vma.start_addr), min(below[0][1], vma.end_addr), vma)


def _part(vma: Vma, start_addr: int, end_addr: int) -> Vma:
    offset_bytes = vma.offset_bytes + start_addr - vma.start_addr
    return replace(vma, start_addr=start_addr, end_addr=end_addr, offset_bytes=offset_bytes)


def _can_go_on(there: Vma, wanted: Vma) -> bool:
    return _told(there) == _told(wanted) or _same(there) == _same(wanted)


_told = attrgetter("perms", "flags", "device", "inode", "path", "object", "kind", "offset_bytes", "start_addr")
"""All that an image tells of a mapping but its length and pages."""


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
        self._sha256 = ""
        """Of the round that it is as of."""
        self._empty: list[runs.Range] = []
        """Where no page is, as far as it is known."""
        self._kernel: dict[str, runs.Range] = {}
        """Where the kernel's own pages are."""

    def bring(self, mapper: Mapper, images: Checkpoint, info: RoundInfo, process: Process) -> int:
        """What changed until this round, which the process and its `mapper` are of; how many pages were written.

        Of a pre-dump, only mappings that are known to come back as they are there.
        Raises RestoreFailed, ImageCorrupt, StorageError, CallFailed, OSError.
        """
        wanted = [vma for vma in process.vmas if is_ours(vma) and vma.path not in KERNEL_PATHS]
        if info.manifest.kind is not RoundKind.DUMP:
            wanted = list(_certain(wanted, self._there))
        found = changes(self._there, wanted) if self._is_next(info) else _all_anew(self._there, wanted)
        self._shell.calls([Call(Sys.MUNMAP, (start, end - start)) for start, end in found.dropped])
        self._there, self._sha256 = [], ""  # should anything fail, nothing is known of it any more
        if self._kernel != kernel_ranges(process):
            self._drop_kernel_pages()
        mapper.map(found.made)
        made = [vma for vma in found.made if not vma.is_shared]
        kept = [part for part in found.kept if not part.vma.is_shared]
        n_pages = self._fill(images, info, process, made)
        with info.pages_of(process) as pages:
            n_pages += self._follow(pages, kept)
        self._map_kernel_pages(images, info, process)
        self._there, self._sha256 = wanted, info.sha256
        return n_pages

    def _map_kernel_pages(self, images: Checkpoint, info: RoundInfo, process: Process) -> None:
        """Where they are to be; whether they are the same as those of the image only the dump knows."""
        if info.manifest.kind is not RoundKind.DUMP:
            if not self._kernel and place_kernel_pages(self._shell, kernel_ranges(process)):
                self._kernel = kernel_ranges(process)
            return
        with MemoryView(images, info.number, process.pid) as view:
            if self._kernel:
                finish_kernel_pages(self._shell, process, view, self._kernel)
            else:
                map_kernel_pages(self._shell, process, view)

    def _drop_kernel_pages(self) -> None:
        drop_kernel_pages(self._shell, self._kernel)
        self._kernel = {}

    def _is_next(self, info: RoundInfo) -> bool:
        """Whether all that is newer than what is there is in this very round."""
        parent = info.manifest.parent
        return info.manifest.full or (parent is not None and parent.sha256 == self._sha256)

    def _fill(self, images: Checkpoint, info: RoundInfo, process: Process, vmas: Sequence[Vma]) -> int:
        """All pages of mappings that were made."""
        if not vmas:
            return 0
        with MemoryView(images, info.number, process.pid) as view, ExitStack() as stack:
            levels = [stack.enter_context(level) for level in images.levels_of(process, info.number)]
            return fill_mappings(self._shell, view, levels, vmas, self._threads)

    def _follow(self, pages: RoundPages, kept: Sequence[Kept]) -> int:
        """The pages of the round in what was kept; holes are made where pages may be that are gone."""
        ranges = _merged(kept)
        n_pages = write_pages(self._shell, pages, ranges, self._threads)
        for start_addr, end_addr in zero_ranges(pages, _merged(part for part in kept if part.vma.has_file)):
            write_zeros(self._shell, start_addr, end_addr)
        zeros = zero_ranges(pages, _merged(part for part in kept if not part.vma.has_file))
        empty = list(runs.merge(sorted([*empty_ranges(pages, ranges), *zeros])))
        gone = runs.subtract(empty, self._empty)
        self._shell.calls([Call(Sys.MADVISE, (start, end - start, MADV_DONTNEED)) for start, end in gone])
        self._empty = empty if len(empty) <= _MAX_EMPTY else []
        return n_pages


def _all_anew(there: Sequence[Vma], wanted: Sequence[Vma]) -> Changes:
    return Changes([], [(vma.start_addr, vma.end_addr) for vma in there], list(wanted))


def _merged(kept: Iterable[Kept]) -> list[runs.Range]:
    return list(runs.merge((part.start_addr, part.end_addr) for part in kept))


def _certain(vmas: Iterable[Vma], there: Sequence[Vma]) -> Iterator[Vma]:
    """Private memory and private mappings of files that are here, with the flags that an earlier round had for them."""
    ranges = [(vma.start_addr, vma.end_addr) for vma in there]
    flags: Mapping[int, str] = {vma.start_addr: vma.flags for vma in there}
    is_here = cache(os.path.isfile)
    for vma in vmas:
        known = vma.flags
        if not known:
            earlier = {flags[start] for start, _ in runs.overlapping(ranges, vma.start_addr, vma.end_addr)}
            known = earlier.pop() if len(earlier) == 1 else ""
        if known and _is_private_and_here(vma, is_here):
            yield vma if vma.flags == known else replace(vma, flags=known)


def _is_private_and_here(vma: Vma, is_here: Callable[[str], bool]) -> bool:
    if vma.is_shared or vma.path.startswith(_SHARED_NAMES) or vma.path.endswith(_DELETED):
        return False
    if vma.has_file:
        return vma.kind == "file" and is_here(vma.path)
    return vma.kind in ANONYMOUS_VMA_KINDS
