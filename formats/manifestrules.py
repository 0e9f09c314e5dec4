"""What must hold inside a manifest beyond the types of its values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from formats.layout import IMAGE_NAME, PAGE_BYTES, pagemap_name, pages_name

if TYPE_CHECKING:
    from formats.manifest import Manifest, Process, Stats

KNOWN_FEATURES: frozenset[str] = frozenset()
"""Incompatible features that this version reads; schema 1 has none so far."""

_CHECKPOINT_ID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PERMS = re.compile(r"[r-][w-][x-][ps]")
_ADDR_END = 1 << 64  # VMAs may lie in the upper half ([vsyscall]); runs may not
_PID_MAX = (1 << 31) - 1


def find_problem(manifest: Manifest) -> str | None:
    """What is wrong with a manifest, as half a sentence, or None if it is sound."""
    problems = chain(
        _problems_of_round(manifest),
        _problems_of_files(manifest),
        _problems_of_counts(manifest.stats, "the round"),
        chain.from_iterable(map(_problems_of_process, manifest.processes)),
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
    pids = [process.pid for process in manifest.processes]
    if len(set(pids)) != len(pids):
        yield "it has a process twice"
    if manifest.root_pid not in pids:
        yield f"its root process {manifest.root_pid} is not in it"


def _problems_of_files(manifest: Manifest) -> Iterator[str]:
    for entry in manifest.files:
        if not IMAGE_NAME.fullmatch(entry.name):
            yield f"{entry.name[:80]!r} is not the name of an image file"
        if entry.stored_bytes < 0:
            yield f"{entry.name} has a negative size"
        if not (_SHA256.fullmatch(entry.sha256) and _SHA256.fullmatch(entry.seek_table_sha256)):
            yield f"a sha256 of {entry.name} is not 64 hex digits"
    names = {entry.name for entry in manifest.files}
    if len(names) != len(manifest.files):
        yield "it has a file twice"
    expected: set[str] = set()
    for process in manifest.processes:
        pair = {pages_name(process.pid), pagemap_name(process.pid)}
        # A process without memory (a zombie) may have no files; half a pair is damage.
        if pair & names:
            expected |= pair
    for name in sorted(names ^ expected):
        yield f"{name} belongs to no process of it, or lacks its counterpart"


def _problems_of_process(process: Process) -> Iterator[str]:
    where = f"process {process.pid}"
    if not 1 <= process.pid <= _PID_MAX:
        yield f"{where} is not a pid"
    yield from _problems_of_counts(process, where)
    previous_end_addr = 0
    for vma in process.vmas:
        if not _is_page_range(vma.start_addr, vma.end_addr):
            yield f"{where}: the VMA at {vma.start_addr:#x} is not a range of pages"
        if vma.start_addr < previous_end_addr:
            yield f"{where}: the VMA at {vma.start_addr:#x} is out of order"
        if not _PERMS.fullmatch(vma.perms):
            yield f"{where}: the VMA at {vma.start_addr:#x} has impossible permissions"
        if min(vma.pages_data, vma.pages_zero, vma.pages_parent) < 0:
            yield f"{where}: the VMA at {vma.start_addr:#x} has a negative page count"
        previous_end_addr = vma.end_addr
    for gap in process.unreadable:
        if not _is_page_range(gap.start_addr, gap.end_addr):
            yield f"{where}: the gap at {gap.start_addr:#x} is not a range of pages"
    tids = [thread.tid for thread in process.threads]
    if len(set(tids)) != len(tids):
        yield f"{where}: it has a thread twice"


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
