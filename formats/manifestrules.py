"""What must hold inside a manifest beyond the types of its values: the round, its files, memory and objects.

`formats.staterules` has what concerns the state of processes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from formats import staterules
from formats.layout import (
    IMAGE_NAME,
    PAGE_BYTES,
    object_pagemap_name,
    object_pages_name,
    pagemap_name,
    pages_name,
)
from formats.manifest import OBJECT_KINDS, SYSV_PREFIX, RoundKind
from formats.staterules import has_twice

if TYPE_CHECKING:
    from formats.manifest import FileEntry, Gap, Manifest, MemoryObject, PageRange, Process, Segment, Stats, Vma
    from formats.outline import ManifestOutline, VmaOutline

KNOWN_FEATURES: frozenset[str] = frozenset()
"""Incompatible features that this version reads; schema 2 has none so far."""

_CHECKPOINT_ID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PERMS = re.compile(r"[r-][w-][x-][ps]")
_ADDR_END = 1 << 64  # VMAs may lie in the upper half ([vsyscall]); runs may not
_OFFSET_END = 1 << 63  # loff_t
_PID_MAX = (1 << 31) - 1
_OBJECT_ID_MAX = (1 << 31) - 1
_SEGMENT_ID_MAX = (1 << 31) - 1
_U32_MAX = (1 << 32) - 1


def find_problem(manifest: Manifest) -> str | None:
    """What is wrong with a manifest, as half a sentence, or None if it is sound."""
    object_ids = {item.id for item in manifest.objects}
    problems = chain(
        _problems_of_round(manifest),
        _problems_of_files(manifest),
        _problems_of_counts(manifest.stats, "the round"),
        _problems_of_objects(manifest),
        chain.from_iterable(_problems_of_process(process, object_ids) for process in manifest.processes),
        staterules.problems_of_state(manifest, object_ids),
    )
    return next(problems, None)


def find_problem_of_outline(outline: ManifestOutline) -> str | None:
    """The same of a manifest in outline: whatever else the round says is not looked at."""
    problems = chain(
        _problems_of_entries(outline.files),
        chain.from_iterable(
            _problems_of_order(process.vmas, f"process {process.pid}") for process in outline.processes
        ),
    )
    return next(problems, None)


def _problems_of_round(manifest: Manifest) -> Iterator[str]:
    if not _CHECKPOINT_ID.fullmatch(manifest.checkpoint_id):
        yield "checkpoint_id is not 32 hex digits"
    if manifest.round < 1:
        yield f"round {manifest.round} is not a round number"
    if manifest.host.page_bytes != PAGE_BYTES:
        yield f"pages of {manifest.host.page_bytes} bytes are not {PAGE_BYTES}"
    parent = manifest.parent
    if parent is None:
        if not manifest.full:
            yield "it is neither full nor has it a parent"
    elif not 1 <= parent.round < manifest.round:
        yield f"its parent is round {parent.round}"
    elif not _SHA256.fullmatch(parent.sha256):
        yield "its parent's sha256 is not 64 hex digits"
    if not all(map(_SHA256.fullmatch, manifest.stands_for)):
        yield "a sha256 that it stands for is not 64 hex digits"
    if manifest.stands_for and not manifest.full:
        yield "it stands for another round, but is not full"
    pids = [process.pid for process in manifest.processes]
    if has_twice(pids):
        yield "it has a process twice"
    if manifest.root_pid not in pids:
        yield f"its root process {manifest.root_pid} is not in it"


def _problems_of_entries(entries: Sequence[FileEntry]) -> Iterator[str]:
    for entry in entries:
        if not IMAGE_NAME.fullmatch(entry.name):
            yield f"{entry.name[:80]!r} is not the name of an image file"
        if entry.stored_bytes < 0:
            yield f"{entry.name} has a negative size"
        if not (_SHA256.fullmatch(entry.sha256) and _SHA256.fullmatch(entry.seek_table_sha256)):
            yield f"a sha256 of {entry.name} is not 64 hex digits"


def _problems_of_files(manifest: Manifest) -> Iterator[str]:
    yield from _problems_of_entries(manifest.files)
    names = {entry.name for entry in manifest.files}
    if len(names) != len(manifest.files):
        yield "it has a file twice"
    expected: set[str] = set()
    alive = [process for process in manifest.processes if not process.zombie]
    pairs = chain(
        ({pages_name(process.pid), pagemap_name(process.pid)} for process in alive),
        ({object_pages_name(item.id), object_pagemap_name(item.id)} for item in manifest.objects),
    )
    for pair in pairs:
        # What has no memory may have no files; half a pair is damage.
        if pair & names:
            expected |= pair
    for name in sorted(names ^ expected):
        yield f"{name} belongs to no live process or object of it, or lacks its counterpart"


def _problems_of_objects(manifest: Manifest) -> Iterator[str]:
    objects = manifest.objects
    if objects and manifest.kind is not RoundKind.DUMP:
        yield "it has memory objects, but is no dump"
    if has_twice(item.id for item in objects):
        yield "it has an object's id twice"
    if has_twice((item.device, item.inode) for item in objects if not item.path.startswith(SYSV_PREFIX)):
        yield "it has an object twice"
    for item in objects:
        where = f"object {item.id}"
        if not 0 <= item.id <= _OBJECT_ID_MAX:
            yield f"{where} is not an id"
        if item.kind not in OBJECT_KINDS:
            yield f"{where} is of no known kind"
        if not 0 <= item.size_bytes < _OFFSET_END:
            yield f"{where} has an impossible size"
        if min(item.pages_data, item.pages_zero) < 0:
            yield f"{where} has a negative page count"
        if (item.pages_data + item.pages_zero) * PAGE_BYTES > item.pages_end_bytes:
            yield f"{where} has more pages than its size allows"
        yield from _problems_of_ranges(item.unreadable, f"{where}: the gap")
        if item.segment:
            yield from _problems_of_segment(item, item.segment, where)


def _problems_of_segment(item: MemoryObject, segment: Segment, where: str) -> Iterator[str]:
    if not 0 <= item.inode <= _SEGMENT_ID_MAX or not 0 <= segment.key <= _U32_MAX:
        yield f"{where} is a segment with an impossible id or key"
    if not 0 < segment.size_bytes <= item.pages_end_bytes:
        yield f"{where} is a segment with an impossible size"
    if not all(0 <= number <= _U32_MAX for number in (segment.uid, segment.gid, segment.mode)):
        yield f"{where} is a segment with an impossible owner or mode"


def _problems_of_process(process: Process, object_ids: set[int]) -> Iterator[str]:
    where = f"process {process.pid}"
    if not 1 <= process.pid <= _PID_MAX:
        yield f"{where} is not a pid"
    if process.zombie and (process.vmas or process.threads or process.state):
        yield f"{where} is a zombie, but has memory, threads or state"
    yield from _problems_of_counts(process, where)
    yield from _problems_of_order(process.vmas, where)
    for vma in process.vmas:
        yield from _problems_of_vma(vma, f"{where}: the VMA at {vma.start_addr:#x}", object_ids)
    yield from _problems_of_ranges(process.unreadable, f"{where}: the gap")
    yield from _problems_of_ranges(process.guards, f"{where}: the guard")
    if has_twice(thread.tid for thread in process.threads):
        yield f"{where}: it has a thread twice"


def _problems_of_order(vmas: Sequence[Vma] | Sequence[VmaOutline], where: str) -> Iterator[str]:
    previous_end_addr = 0
    for vma in vmas:
        if not previous_end_addr <= vma.start_addr < vma.end_addr:
            yield f"{where}: the VMA at {vma.start_addr:#x} is out of order"
        previous_end_addr = vma.end_addr


def _problems_of_vma(vma: Vma, where: str, object_ids: set[int]) -> Iterator[str]:
    if not _is_page_range(vma.start_addr, vma.end_addr):
        yield f"{where} is not a range of pages"
    if not _PERMS.fullmatch(vma.perms):
        yield f"{where} has impossible permissions"
    if min(vma.pages_data, vma.pages_zero, vma.pages_parent) < 0:
        yield f"{where} has a negative page count"
    if vma.object is None:
        return
    if vma.object not in object_ids:
        yield f"{where} refers to object {vma.object}, which is not in it"
    # It may reach behind the object's end, as mappings of files do.
    if vma.offset_bytes % PAGE_BYTES or not 0 <= vma.offset_bytes <= _OFFSET_END - (vma.end_addr - vma.start_addr):
        yield f"{where} has an impossible offset into object {vma.object}"


def _problems_of_ranges(ranges: Iterable[Gap | PageRange], where: str) -> Iterator[str]:
    for item in ranges:
        if not _is_page_range(item.start_addr, item.end_addr):
            yield f"{where} at {item.start_addr:#x} is not a range of pages"


def _problems_of_counts(counted: Process | Stats, where: str) -> Iterator[str]:
    counts = (
        counted.pages_present,
        counted.pages_written,
        counted.pages_data,
        counted.pages_zero,
        counted.pages_parent,
    )
    if min(counts) < 0:
        yield f"{where} has a negative page count"


def _is_page_range(start_addr: int, end_addr: int) -> bool:
    """Whether `[start_addr, end_addr)` is a non-empty range of whole pages."""
    return 0 <= start_addr < end_addr <= _ADDR_END and start_addr % PAGE_BYTES == 0 and end_addr % PAGE_BYTES == 0
