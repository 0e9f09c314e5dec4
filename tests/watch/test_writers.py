"""No write is missed, whoever writes while the watch is asked: the copy that is kept with it equals the memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dumper import WriteWatch
from tests.harness import TARGETS, Target
from tests.kernel.child import PAGE
from tests.tally import Count, Tally

pytestmark = pytest.mark.usefixtures("targets")

N_THREADS = 2
N_PAGES = 4096
SIZE_BYTES = N_PAGES * PAGE
SECONDS = 8.0  # of all tests here together
FEWEST_ROUNDS = 20
KINDS = [("small", False), ("small", True), ("huge", False), ("huge", True)]
N_TESTS = 2 * len(KINDS)
each_kind = pytest.mark.parametrize(("pages", "drops"), KINDS, ids=["small", "small-drop", "huge", "huge-drop"])


class Copy:
    """A copy of the pages at `addr`, kept up to date with what a watch tells."""

    def __init__(self, addr: int, read: Callable[[int, int], bytes]) -> None:
        """`read(start_addr, n_bytes)` reads the memory."""
        self._addr = addr
        self._read = read
        self._bytes = bytearray(SIZE_BYTES)

    def update(self, ranges: list[tuple[int, int]]) -> None:
        """Copies the pages of the ranges."""
        for start, end in ranges:
            self._bytes[start - self._addr : end - self._addr] = self._read(start, end - start)

    def stale_pages(self) -> list[int]:
        """Pages that differ from the memory, which stands still."""
        memory = self._read(self._addr, SIZE_BYTES)
        if memory == self._bytes:
            return []
        pages = range(N_PAGES)
        return [n for n in pages if memory[n * PAGE : (n + 1) * PAGE] != self._bytes[n * PAGE : (n + 1) * PAGE]]


def follow(watch: WriteWatch, copy: Copy, seconds: float) -> int:
    """Keeps the copy up to date for so long; returns the rounds."""
    copy.update(watch.populated(reset=True))
    rounds, end = 0, time.monotonic() + seconds
    while rounds < FEWEST_ROUNDS or time.monotonic() < end:
        copy.update(watch.written(reset=True))
        rounds += 1
    return rounds


def assert_calm(watch: WriteWatch, copy: Copy) -> None:
    """Pages that were dropped and read since are told once more, then nothing."""
    copy.update(watch.written(reset=True))
    assert watch.written() == []


@each_kind
def test_threads_of_another_process(pages: str, drops: bool, tally: Tally, seconds: float | None) -> None:
    with Target.spawn("writers", N_THREADS, N_PAGES, pages, "drop" if drops else "keep") as target:
        addr = int(target.ready.split()[1])
        fd = os.open(f"/proc/{target.pid}/mem", os.O_RDONLY)
        try:
            with WriteWatch.of_process(target.pid, [(addr, SIZE_BYTES)]) as watch:
                target.command("start")
                copy = Copy(addr, lambda start, n_bytes: os.pread(fd, n_bytes, start))
                follow(watch, copy, (seconds or SECONDS) / N_TESTS)
                writes = int(target.command("stop").split()[1])
                copy.update(watch.written(reset=True))
                stale = copy.stale_pages()
                assert_calm(watch, copy)
        finally:
            os.close(fd)
        target.check()
    tally.add(Count.WATCHED_WRITES, writes)
    tally.add(Count.WATCHED_WRITES_MISSED, len(stale))
    assert writes > N_PAGES
    assert stale == []


@each_kind
def test_threads_of_the_own_process(pages: str, drops: bool, tally: Tally, seconds: float | None) -> None:
    """They need no interpreter, and so write at any time."""
    library = ctypes.CDLL(str(Path(TARGETS, "bin", "writers.so")))
    library.start_writers.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    library.stop_writers.restype = ctypes.c_uint64
    with (
        mmap.mmap(-1, SIZE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory,
        memoryview(memory) as view,
        WriteWatch.of_self([view]) as watch,
    ):
        memory.madvise(mmap.MADV_HUGEPAGE if pages == "huge" else mmap.MADV_NOHUGEPAGE)
        addr = watch.regions[0].start_addr
        assert library.start_writers(addr, N_PAGES, N_THREADS, pages == "huge", drops) == 0
        try:
            copy = Copy(addr, lambda start, n_bytes: bytes(view[start - addr : start - addr + n_bytes]))
            follow(watch, copy, (seconds or SECONDS) / N_TESTS)
        finally:
            writes = library.stop_writers()
        copy.update(watch.written(reset=True))
        stale = copy.stale_pages()
        assert_calm(watch, copy)
    tally.add(Count.WATCHED_WRITES, writes)
    tally.add(Count.WATCHED_WRITES_MISSED, len(stale))
    assert writes > N_PAGES
    assert stale == []
