"""The oracle: a stopped process, page by page, against what a checkpoint says of it.

It shares no code with the dumper: /proc is read by the small parsers here, and the checkpoint
through `formats.chain.MemoryView` only, the same view that `predump read` has. It must not change
what it looks at, so pages of private anonymous memory are read only where the page tables have
something: reading a hole would populate it.
"""

from __future__ import annotations

import array
import fcntl
import os
import re
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Protocol

PAGE_BYTES = 4096
PIECE_BYTES = 1 << 20
Range = tuple[int, int, str]
"""Start, end, permissions."""
NOTHING = "nothing"
_ZEROS = bytes(PIECE_BYTES)
_PAGEMAP_BLOCK_BYTES = 1 << 20

# Bits of a /proc/PID/pagemap word (Documentation/admin-guide/mm/pagemap.rst).
_PRESENT = 1 << 63
_SWAPPED = 1 << 62
_GUARD = 1 << 58
_SWAP_TYPE = 0x1F
_MARKER_TYPE = 0x1F  # a write-protect marker looks swapped, but has no content

# PAGEMAP_SCAN (Documentation/admin-guide/mm/pagemap.rst): it passes over the holes of terabytes in no time.
_SCAN = 0xC0606610
_SCAN_ARG = struct.Struct("=12Q")
_SCAN_REGION = struct.Struct("=3Q")
_SCAN_REGIONS = 1 << 10
_SCAN_PRESENT_OR_SWAPPED = 1 << 3 | 1 << 4
SCANNED_BYTES = 1 << 30
"""Ranges of this size and more are looked through by PAGEMAP_SCAN first."""

_NO_FILE_ON_DISK = re.compile(r"^/memfd:|^/SYSV[0-9a-f]{8}|^/anon_hugepage|^/secretmem| \(deleted\)$")


class Segment(Protocol):
    """Some addresses `[start_addr, end_addr)`."""

    @property
    def start_addr(self) -> int: ...
    @property
    def end_addr(self) -> int: ...


class RecordedVma(Segment, Protocol):
    @property
    def perms(self) -> str: ...


class RecordedProcess(Protocol):
    @property
    def vmas(self) -> Sequence[RecordedVma]: ...
    @property
    def unreadable(self) -> Sequence[Segment]: ...


class View(Protocol):
    """What the oracle needs of formats.chain.MemoryView."""

    @property
    def process(self) -> RecordedProcess: ...
    def chunks(
        self, start_addr: int, end_addr: int, max_bytes: int = PIECE_BYTES
    ) -> Iterator[tuple[int, int, bytes | None]]: ...


@dataclass(frozen=True)
class Mapping:
    """A line of /proc/PID/maps."""

    start_addr: int
    end_addr: int
    perms: str
    offset_bytes: int
    inode: int
    path: str

    @property
    def is_exempt(self) -> bool:
        """Whether it is the kernel's own, and no checkpoint needs to have it."""
        return self.path.startswith(("[vvar", "[vdso", "[vsyscall"))

    @property
    def is_private_anonymous(self) -> bool:
        return self.inode == 0 and self.perms[3] == "p"

    @property
    def has_file(self) -> bool:
        """Whether a clean page can be had again from a file on some disk."""
        return self.inode != 0 and not _NO_FILE_ON_DISK.search(self.path)


@dataclass
class Comparison:
    """What `compare` found; equal when `mismatches` is empty."""

    pages_compared: int = 0
    """With content here or there: a hole on both sides is not counted."""
    pages_skipped: int = 0
    """Named as unreadable by the checkpoint, guard pages, and pages past the end of a file."""
    mismatches: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"  {addr:#x}: {why}" for addr, why in self.mismatches[:20]]
        head = f"{len(self.mismatches)} mismatches in {self.pages_compared} pages, {self.pages_skipped} skipped"
        return "\n".join([head, *lines])


def parse_maps(text: str) -> list[Mapping]:
    """The lines of /proc/PID/maps."""
    mappings = []
    for line in text.splitlines():
        addresses, perms, offset, _device, inode, *path = line.split(maxsplit=5)
        start, end = (int(word, 16) for word in addresses.split("-"))
        name = path[0] if path else ""
        mappings.append(Mapping(start, end, perms, int(offset, 16), int(inode), name))
    return mappings


def read_maps(pid: int) -> list[Mapping]:
    """The mappings of `pid`."""
    return parse_maps(Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape"))


def _differences(here: Sequence[Range], there: Sequence[Range]) -> Iterator[tuple[int, int, str, str]]:
    """Addresses where two lists of (start, end, permissions) differ: (start, end, here, there).

    Both are in order. Where a range is cut in two does not matter: tracking splits and merges VMAs in the kernel.
    """
    bounds = sorted({bound for start, end, _ in (*here, *there) for bound in (start, end)})
    last: tuple[int, int, str, str] | None = None
    for start, end in pairwise(bounds):
        one, other = _perms_at(here, start), _perms_at(there, start)
        if one == other:
            continue
        if last is not None and last[1:] == (start, one, other):
            last = (last[0], end, one, other)
            continue
        if last is not None:
            yield last
        last = (start, end, one, other)
    if last is not None:
        yield last


def _without(ranges: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    return [one for one in ranges if _perms_at(others, one[0]) == NOTHING]


def _perms_at(ranges: Sequence[Range], addr: int) -> str:
    """`ranges` are in order of their addresses."""
    index = bisect_right(ranges, addr, key=itemgetter(0)) - 1
    return ranges[index][2] if index >= 0 and addr < ranges[index][1] else NOTHING


class ProcessMemory:
    """The memory of a stopped process, read without changing it; a context manager."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._mem_fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        self._pagemap_fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> ProcessMemory:
        return self

    def __exit__(self, *_unused: object) -> None:
        os.close(self._mem_fd)
        os.close(self._pagemap_fd)

    def read(self, start_addr: int, end_addr: int) -> bytes | None:
        """The bytes, or None when some of them cannot be read."""
        try:
            content = os.pread(self._mem_fd, end_addr - start_addr, start_addr)
        except OSError:
            return None
        return content if len(content) == end_addr - start_addr else None

    def populated(self, start_addr: int, end_addr: int) -> Iterator[tuple[int, int, bool]]:
        """Runs `(start, end, guard)` of pages that have content, or are guard pages."""
        run: tuple[int, int, bool] | None = None
        for addr, word in self._words(start_addr, end_addr):
            guard = bool(word & _GUARD)
            marker = word & _SWAP_TYPE == _MARKER_TYPE
            if not (guard or word & _PRESENT or (word & _SWAPPED and not marker)):
                continue
            if run is not None and run[1] == addr and run[2] == guard:
                run = (run[0], addr + PAGE_BYTES, guard)
                continue
            if run is not None:
                yield run
            run = (addr, addr + PAGE_BYTES, guard)
        if run is not None:
            yield run

    def _words(self, start_addr: int, end_addr: int) -> Iterator[tuple[int, int]]:
        """(address, word) of every page whose pagemap word is not zero."""
        if end_addr - start_addr < SCANNED_BYTES:
            yield from self._words_of_all(start_addr, end_addr)
            return
        for start, end in self.entries(start_addr, end_addr):
            yield from self._words_of_all(start, end)

    def entries(self, start_addr: int, end_addr: int) -> Iterator[tuple[int, int]]:
        """Runs of pages that are not holes, by PAGEMAP_SCAN, which changes nothing here."""
        regions = array.array("B", bytes(_SCAN_REGIONS * _SCAN_REGION.size))
        address, _ = regions.buffer_info()
        at = start_addr
        while at < end_addr:
            wanted = (0, 0, _SCAN_PRESENT_OR_SWAPPED, _SCAN_PRESENT_OR_SWAPPED)  # inverted, all of, any of, said
            arg = bytearray(_SCAN_ARG.pack(_SCAN_ARG.size, 0, at, end_addr, 0, address, _SCAN_REGIONS, 0, *wanted))
            found = fcntl.ioctl(self._pagemap_fd, _SCAN, arg)
            for index in range(found):
                start, at, _ = _SCAN_REGION.unpack_from(regions, index * _SCAN_REGION.size)
                yield start, at
            if found < _SCAN_REGIONS:
                return

    def _words_of_all(self, start_addr: int, end_addr: int) -> Iterator[tuple[int, int]]:
        offset, end = start_addr // PAGE_BYTES * 8, end_addr // PAGE_BYTES * 8
        while offset < end:
            block = os.pread(self._pagemap_fd, min(_PAGEMAP_BLOCK_BYTES, end - offset), offset)
            if not block:
                raise OSError(f"/proc/{self._pid}/pagemap ends at {offset // 8 * PAGE_BYTES:#x}")
            if block != _ZEROS[: len(block)]:
                first = offset // 8
                for index, word in enumerate(array.array("Q", block)):
                    if word:
                        yield (first + index) * PAGE_BYTES, word
            offset += len(block)


class _Comparer:
    """One comparison under way."""

    def __init__(self, pid: int, memory: ProcessMemory, view: View, rewritten: Sequence[tuple[int, int]]) -> None:
        self._pid = pid
        self._rewritten = rewritten
        self._memory = memory
        self._view = view
        self._unreadable = [(gap.start_addr, gap.end_addr) for gap in view.process.unreadable]
        self.found = Comparison()

    def compare_mappings(self, mappings: Sequence[Mapping]) -> None:
        """The same addresses with the same permissions on both sides."""
        exempt = [(one.start_addr, one.end_addr, "") for one in mappings if one.is_exempt]
        here = [(one.start_addr, one.end_addr, one.perms) for one in mappings]
        there = sorted((vma.start_addr, vma.end_addr, vma.perms) for vma in self._view.process.vmas)
        for start, end, one, other in _differences(_without(here, exempt), _without(there, exempt)):
            self._mismatch(start, f"{start:#x}-{end:#x} is {one} here, {other} in the checkpoint")

    def compare_mapping(self, mapping: Mapping) -> None:
        """Every page of one mapping, but for what the checkpoint names as unreadable."""
        for start, end in self._readable_parts(mapping):
            at = start
            for piece_start, piece_end, content in self._view.chunks(start, end, PIECE_BYTES):
                length = piece_end - piece_start
                if piece_start != at or (content is not None and len(content) != length):
                    raise AssertionError(f"chunks is not in order or of wrong length at {at:#x}")
                at = piece_end
                if mapping.is_private_anonymous:
                    self._compare_anonymous(piece_start, piece_end, content)
                else:
                    self._compare_other(mapping, piece_start, piece_end, content)
            if at != end:
                raise AssertionError(f"chunks ends at {at:#x}, not at {end:#x}")

    def _readable_parts(self, mapping: Mapping) -> Iterator[tuple[int, int]]:
        at = mapping.start_addr
        for start, end in sorted(self._unreadable):
            first, last = max(start, at), min(end, mapping.end_addr)
            if first >= last:
                continue
            self.found.pages_skipped += (last - first) // PAGE_BYTES
            if at < first:
                yield at, first
            at = last
        if at < mapping.end_addr:
            yield at, mapping.end_addr

    def _compare_anonymous(self, start: int, end: int, content: bytes | None) -> None:
        """Holes are zeros; only what is populated is read."""
        at = start
        for run_start, run_end, guard in self._memory.populated(start, end):
            self._expect_zeros(start, at, run_start, content)
            at = run_end
            if guard:
                self._expect_zeros(start, run_start, run_end, content)
                self.found.pages_skipped += (run_end - run_start) // PAGE_BYTES
                continue
            for piece in range(run_start, run_end, PIECE_BYTES):
                piece_end = min(piece + PIECE_BYTES, run_end)
                said = None if content is None else content[piece - start : piece_end - start]
                self._compare_bytes(piece, self._memory.read(piece, piece_end), said)
        self._expect_zeros(start, at, end, content)

    def _expect_zeros(self, base: int, start: int, end: int, content: bytes | None) -> None:
        """The process has no page there: the checkpoint must not have any bytes but zeros."""
        if content is None or start == end:
            return
        self.found.pages_compared += (end - start) // PAGE_BYTES
        said = content[start - base : end - base]
        if said.count(0) == len(said):
            return
        for addr, page in _pages(start, said):
            if page.count(0) != PAGE_BYTES:
                self._mismatch(addr, "data in the checkpoint, a hole in the process")

    def _compare_other(self, mapping: Mapping, start: int, end: int, content: bytes | None) -> None:
        """Files and shared memory: every page; absent means the file's content, or zeros."""
        for piece in range(start, end, PIECE_BYTES):
            piece_end = min(piece + PIECE_BYTES, end)
            if content is not None:
                said = content[piece - start : piece_end - start]
            elif mapping.has_file:
                said = self._file_content(mapping, piece, piece_end)
            else:
                said = None
            actual = self._memory.read(piece, piece_end)
            if actual is not None:
                self._compare_bytes(piece, actual, said)
                continue
            for addr in range(piece, piece_end, PAGE_BYTES):
                page = self._memory.read(addr, addr + PAGE_BYTES)
                said_page = None if said is None else said[addr - piece : addr - piece + PAGE_BYTES]
                if page is None and content is None and self._is_past_end(mapping, addr):
                    self.found.pages_skipped += 1
                else:
                    self._compare_bytes(addr, page, said_page)

    def _compare_bytes(self, start: int, actual: bytes | None, said: bytes | None) -> None:
        """`said` None means zeros; `actual` None means that the process cannot be read there."""
        if actual is None:
            self._mismatch(start, "cannot be read, and the checkpoint does not say so")
            return
        self.found.pages_compared += len(actual) // PAGE_BYTES
        expected = _ZEROS[: len(actual)] if said is None else said
        if actual == expected:
            return
        for (addr, page), (_, expected_page) in zip(_pages(start, actual), _pages(start, expected), strict=True):
            if page != expected_page and not self._is_rewritten(addr, page, expected_page):
                first = next(i for i in range(PAGE_BYTES) if page[i] != expected_page[i])
                claim = "absent" if said is None else f"byte {expected_page[first]:#04x}"
                self._mismatch(addr + first, f"{claim} in the checkpoint, {page[first]:#04x} here")

    def _is_rewritten(self, addr: int, page: bytes, expected_page: bytes) -> bool:
        """Whether they differ in nothing but what the kernel wrote since."""
        differ = [addr + i for i in range(PAGE_BYTES) if page[i] != expected_page[i]]
        return all(any(start <= at < end for start, end in self._rewritten) for at in differ)

    def _map_file(self, mapping: Mapping) -> str:
        return f"/proc/{self._pid}/map_files/{mapping.start_addr:x}-{mapping.end_addr:x}"

    def _file_content(self, mapping: Mapping, start: int, end: int) -> bytes:
        """What the file behind the mapping holds now, with zeros past its end."""
        fd = os.open(self._map_file(mapping), os.O_RDONLY | os.O_CLOEXEC)
        try:
            offset = mapping.offset_bytes + start - mapping.start_addr
            return os.pread(fd, end - start, offset).ljust(end - start, b"\0")
        finally:
            os.close(fd)

    def _is_past_end(self, mapping: Mapping, addr: int) -> bool:
        size = Path(self._map_file(mapping)).stat().st_size
        return mapping.offset_bytes + addr - mapping.start_addr >= size

    def _mismatch(self, addr: int, why: str) -> None:
        self.found.mismatches.append((addr, why))


def _pages(start: int, content: bytes) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, len(content), PAGE_BYTES):
        yield start + offset, content[offset : offset + PAGE_BYTES]


def compare_view(pid: int, view: View, rewritten: Sequence[tuple[int, int]] = ()) -> Comparison:
    """Every page of the stopped process `pid` against the view of it, but for what was `rewritten` since."""
    mappings = read_maps(pid)
    recorded = sorted((vma.start_addr, vma.end_addr, vma.perms) for vma in view.process.vmas)
    with ProcessMemory(pid) as memory:
        comparer = _Comparer(pid, memory, view, rewritten)
        comparer.compare_mappings(mappings)
        for one in mappings:
            if not one.is_exempt and _perms_at(recorded, one.start_addr) != NOTHING:
                comparer.compare_mapping(one)
    return comparer.found


def compare(pid: int, checkpoint_path: Path, round_number: int | None = None) -> Comparison:
    """Every page of the stopped process `pid` against a round of a checkpoint, the last one."""
    from formats.chain import Checkpoint, MemoryView  # noqa: PLC0415 -- the oracle tests need none

    checkpoint = Checkpoint.open(checkpoint_path)
    manifest = checkpoint.round(round_number).manifest
    process = checkpoint.round(round_number).process(pid)
    rewritten: list[tuple[int, int]] = []
    if manifest.freeze_by == "clone" and process:
        # A thread reaps the clone after the freeze, and the kernel tells it its processor then: rseq(2).
        areas = [thread.rseq for thread in process.threads if thread.rseq]
        rewritten = [(area.addr, area.addr + area.size_bytes) for area in areas]
    with MemoryView(checkpoint, round_number, pid) as view:
        return compare_view(pid, view, rewritten)
