"""Which bytes of changed pages are others, as ranges that a person can look at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from analysis.diff.pages import Difference, PageChange
from analysis.places import Places, Section
from formats import runs
from formats.layout import PAGE_BYTES

JOINED_BYTES = 8
"""Ranges with fewer bytes between them that are the same are one."""
KEPT_BYTES = 256
"""Of a range, at most."""

_RANGE = re.compile(rb"[^\0]+(?:\0{1,%d}[^\0]+)*" % (JOINED_BYTES - 1))


@dataclass(slots=True)
class ByteRange:
    """Bytes that are others, in `[start_addr, end_addr)` as addressed after; what lies there is called `place`.

    In a symbol all of them are one entry, which then may be of several ranges (`n_ranges`). `before` and `after` are
    the bytes of the first range, KEPT_BYTES at most. `owner_addr` is where the symbol begins, or the mapping.
    """

    start_addr: int
    end_addr: int
    place: str
    owner_addr: int
    before: bytes = b""
    after: bytes = b""
    n_ranges: int = 1


def changed_ranges(before: bytes, after: bytes) -> Iterator[runs.Range]:
    """Ranges of bytes that are not the same, of two contents of one size."""
    differing = (int.from_bytes(before, "little") ^ int.from_bytes(after, "little")).to_bytes(len(before), "little")
    return (found.span() for found in _RANGE.finditer(differing))


class ByteRanges:
    """Gathers the ranges of differences, which come ascending by address, until there are `most`.

    `ranges` are those so far; `pages_left` counts changed pages of which not all is in them then, `pages_unread` those
    whose bytes one of the rounds does not have.
    """

    def __init__(self, most: int, places: Places) -> None:
        """`places` has the names of addresses after."""
        self.ranges: list[ByteRange] = []
        self.pages_left = self.pages_unread = 0
        self._most = most
        self._places = places
        self._tail = (0, b"", b"")  # the last bytes looked at: their end address, before, after

    def add(self, difference: Difference) -> None:
        """Look at the bytes of a difference."""
        if difference.change is PageChange.UNKNOWN:
            return
        if difference.before is None or difference.after is None:
            self.pages_unread += difference.n_pages
            return
        if len(self.ranges) >= self._most:
            self.pages_left += difference.n_pages
            return
        before, after = difference.before, difference.after
        addr = difference.start_addr + difference.span.shift
        end_addr, *tails = self._tail
        if end_addr == addr:  # a range may go on over the border
            before, after = tails[0] + before, tails[1] + after
            addr -= len(tails[0])
        self._tail = (addr + len(before), before[1 - JOINED_BYTES :], after[1 - JOINED_BYTES :])
        for start, end in changed_ranges(before, after):
            sections = list(self._places.sections(addr + start, addr + end))
            ends_addr = [*(section.addr for section in sections[1:]), addr + end]
            for section, section_end_addr in zip(sections, ends_addr, strict=True):
                if not self._put(section, section_end_addr - addr, addr, before, after):
                    self.pages_left += (addr + len(before) - section.addr - 1) // PAGE_BYTES + 1
                    return

    def _put(self, section: Section, end: int, addr: int, before: bytes, after: bytes) -> bool:
        """Take in a range up to `end` in contents at `addr`; False if there are enough of them."""
        start = section.addr - addr
        if before[start:end] == after[start:end]:  # what joined the ranges at both sides of it
            return True
        owner_addr, is_symbol = self._owner(section.addr)
        last = self.ranges[-1] if self.ranges else None
        if last is not None and last.owner_addr == owner_addr:
            if section.addr - last.end_addr < JOINED_BYTES:
                if last.n_ranges == 1:
                    _keep(last, last.end_addr - addr, end, before, after)
                last.end_addr = max(last.end_addr, addr + end)
                return True
            if is_symbol:
                last.n_ranges += 1
                last.end_addr = addr + end
                return True
        if len(self.ranges) >= self._most:
            return False
        self.ranges.append(ByteRange(section.addr, addr + end, section.place, owner_addr))
        _keep(self.ranges[-1], start, end, before, after)
        return True

    def _owner(self, addr: int) -> tuple[int, bool]:
        symbol = self._places.symbols.at(addr) if self._places.symbols else None
        vma = self._places.vma_at(addr)
        return (symbol.start_addr, True) if symbol else (vma.start_addr if vma else 0, False)


def _keep(one: ByteRange, start: int, end: int, before: bytes, after: bytes) -> None:
    """Add bytes to those that are kept of a range."""
    end = min(end, start + KEPT_BYTES - len(one.before))
    one.before += before[start:end]
    one.after += after[start:end]
