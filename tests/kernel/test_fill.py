"""Memory filled from a frame of pages: what is missing, what is there, and what no userfaultfd has."""

from __future__ import annotations

import ctypes
import mmap
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dumper.kernel import uffd
from dumper.kernel.fill import RunTable
from dumper.kernel.missing import watch
from dumper.kernel.probes import userfaultfd
from dumper.kernel.uffd import USER_MODE_ONLY, Feature
from formats.layout import PAGE_BYTES

N_PAGES = 16
N_WATCHED = 8
FIRST_PAGE = 100  # of the frame
N_FRAME_PAGES = 20


def content_of(index: int) -> bytes:
    return bytes([index]) * PAGE_BYTES


FRAME = b"".join(map(content_of, range(FIRST_PAGE, FIRST_PAGE + N_FRAME_PAGES)))
RUNS = [(0, 6, 96), (6, 8, 102), (8, 14, 104), (14, 16, 119)]
"""First page, end, index: the first begins before the frame, the last ends behind it."""


@contextmanager
def memory() -> Iterator[tuple[mmap.mmap, int, int]]:
    """Private memory, its address, and a userfaultfd for the first half of it."""
    with mmap.mmap(-1, N_PAGES * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as made:
        made.madvise(mmap.MADV_NOHUGEPAGE)
        addr = ctypes.addressof(ctypes.c_char.from_buffer(made))
        fd = userfaultfd(os.O_CLOEXEC | os.O_NONBLOCK | USER_MODE_ONLY)
        try:
            uffd.enable(fd, Feature(0))
            watch(fd, addr, addr + N_WATCHED * PAGE_BYTES)
            yield made, addr, fd
        finally:
            os.close(fd)


def table_at(addr: int) -> RunTable:
    starts, ends, indexes = zip(*RUNS, strict=True)
    columns = ([addr + page * PAGE_BYTES for page in starts], [addr + page * PAGE_BYTES for page in ends], indexes)
    return RunTable(*(array("Q", column) for column in columns))


@pytest.fixture
def mem_fd() -> Iterator[int]:
    fd = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def pages_of(made: mmap.mmap, first_page: int) -> list[bytes]:
    """Those that the runs and the frame have in common; none may be missing."""
    return [made[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] for page in range(first_page, 15)]


WANTED = [content_of(index) for index in (*range(100, 110), 119)]


def test_pages_are_brought_whether_they_are_missing_or_not(mem_fd: int) -> None:
    with memory() as (made, addr, fd):
        there = RunTable(*(array("Q", [value]) for value in (addr + 5 * PAGE_BYTES, addr + 6 * PAGE_BYTES, 118)))
        assert there.fill(fd, mem_fd, FRAME, FIRST_PAGE, 0, 1) == 1
        assert table_at(addr).fill(fd, mem_fd, FRAME, FIRST_PAGE, 0, len(RUNS)) == len(WANTED)
        assert pages_of(made, 4) == WANTED


def test_all_is_written_without_a_userfaultfd(mem_fd: int) -> None:
    with memory() as (made, addr, _):
        assert table_at(addr).fill(-1, mem_fd, FRAME, FIRST_PAGE, 2, len(RUNS)) == 7
        assert pages_of(made, N_WATCHED) == WANTED[4:]


def test_memory_that_is_not_there_is_an_error(mem_fd: int) -> None:
    with memory() as (_, addr, fd):
        table = table_at(addr + N_PAGES * PAGE_BYTES + (1 << 46))
        with pytest.raises(OSError, match="Input/output"):
            table.fill(fd, mem_fd, FRAME, FIRST_PAGE, 0, len(RUNS))


@pytest.mark.parametrize("runs", [(0, 5), (-1, 2), (3, 2)])
def test_only_runs_that_there_are(mem_fd: int, runs: tuple[int, int]) -> None:
    with memory() as (_, addr, fd), pytest.raises(ValueError, match="there are no runs"):
        table_at(addr).fill(fd, mem_fd, FRAME, FIRST_PAGE, *runs)
