"""Where a watched memory lies, in this process or in another one: the same tests hold for both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from dumper import WriteWatch
from tests.kernel.child import PAGE, Memory, running_child


class Place:
    """A process whose memory can be changed, and watched. `memory` has the methods of `Memory`."""

    def __init__(self, pid: int, memory: Any) -> None:
        self.pid = pid
        self.memory = memory

    @property
    def is_own(self) -> bool:
        return self.pid == os.getpid()

    def watch(self, addr: int, n_pages: int) -> WriteWatch:
        """A watch over some pages."""
        return WriteWatch.of_process(self.pid, [(addr, n_pages * PAGE)])


@contextmanager
def own_memory() -> Iterator[Place]:
    yield Place(os.getpid(), Memory())


@contextmanager
def memory_of_another() -> Iterator[Place]:
    with running_child() as child:
        yield Place(child.pid, child)


def pages(addr: int, ranges: Sequence[tuple[int, int]]) -> list[int]:
    """What a watch told, as page numbers from `addr` on; AssertionError unless it is in order, in whole pages."""
    assert all(start < end and start % PAGE == end % PAGE == 0 for start, end in ranges)
    assert all(one[1] < other[0] for one, other in pairwise(ranges)), "ascending, and apart"
    return [page for start, end in ranges for page in range((start - addr) // PAGE, (end - addr) // PAGE)]


def told(watch: WriteWatch, addr: int, *, reset: bool = True) -> list[int]:
    """The pages that are told now."""
    return pages(addr, watch.written(reset=reset))


def contents(place: Place, addr: int, numbers: Iterable[int]) -> list[bytes]:
    """The bytes of the pages."""
    found: list[bytes] = place.memory.read(addr, list(numbers))
    return found
