"""The scan of a frozen target that looks only at what changed since the last micro-round."""

import os
import random

import pytest

from dumper.kernel.copy import FileMaps, PageBuffer, Source
from dumper.kernel.pages import Scanner, Span, SpanFlag, SpanTable
from dumper.kernel.runs import RunKind, RunList
from dumper.staging import Staging
from tests.kernel.child import MADV_GUARD_INSTALL, PAGE, ZERO_PAGE, Child, pages_of

N_PAGES = 3000
MADV_DONTNEED = 4
STAGING_PAGES = 1 << 14


def changes_of(addr: int, n_pages: int) -> SpanTable:
    return SpanTable([Span(addr, addr + n_pages * PAGE, SpanFlag.CHANGES)])


def captured(staging: Staging, addr: int) -> dict[int, bytes]:
    """Content of each page of the picture; one that is still to be copied has none."""
    found = {}
    for page, kind, index in pages_of(addr, staging.picture):
        assert kind in (RunKind.STAGED, RunKind.ZERO, RunKind.COPY)
        assert page not in found, "a page is there once"
        if kind is RunKind.STAGED:
            found[page] = bytes(staging.memory.memory[index * PAGE : (index + 1) * PAGE])
        elif kind is RunKind.ZERO:
            found[page] = ZERO_PAGE
    return found


def memory_of(child: Child, addr: int, n_pages: int) -> dict[int, bytes]:
    """What /proc/PID/mem says; guard pages cannot be read."""
    found = {}
    for page in range(n_pages):
        try:
            found[page] = os.pread(child.mem_fd, PAGE, addr + page * PAGE)
        except OSError:
            continue
    return found


def change(child: Child, rng: random.Random, addr: int, n_pages: int) -> None:
    """A random operation on random pages."""
    start = rng.randrange(n_pages)
    some = range(start, min(n_pages, start + rng.randrange(1, 40)))
    operation = rng.randrange(6)
    if operation < 3:
        child.write(addr, {page: rng.randbytes(8) for page in rng.sample(some, min(3, len(some)))})
    elif operation == 3:
        child.advise(addr, some, MADV_DONTNEED)
    elif operation == 4:
        child.read(addr, some)
    else:
        child.write(addr, dict.fromkeys(some, ZERO_PAGE))


@pytest.mark.parametrize("distrust", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_picture_equals_the_memory(child: Child, seed: int, distrust: bool) -> None:
    rng = random.Random(seed)
    addr = child.map(N_PAGES)
    child.track(addr, N_PAGES)
    child.write(addr, {page: rng.randbytes(8) for page in range(0, N_PAGES, rng.choice([1, 2, 7]))})
    scanner = Scanner(child.pagemap_fd)
    staging = Staging(scanner, RunList(1), PageBuffer(STAGING_PAGES))
    scanner._mode.distrust_holes = distrust
    source = Source(child.pid, child.mem_fd, FileMaps())
    for _ in range(3):
        for _ in range(rng.randrange(60)):
            change(child, rng, addr, N_PAGES)
        staging.scan(SpanTable([Span(addr, addr + N_PAGES * PAGE)]))
        staging.copy(source)
    for _ in range(rng.randrange(200)):
        change(child, rng, addr, N_PAGES)
    guards = range(100, 110)
    child.advise(addr, guards, MADV_GUARD_INSTALL)

    staging.final_scan(changes_of(addr, N_PAGES))
    staging.final_copy(source)

    assert staging.fits
    found, memory = captured(staging, addr), memory_of(child, addr, N_PAGES)
    assert {page: found.get(page, ZERO_PAGE) for page in memory} == memory
    assert not found.keys() & set(guards)


def test_memory_mapped_anew_at_the_same_place_is_scanned_in_full(child: Child) -> None:
    addr = child.map(N_PAGES)
    child.track(addr, N_PAGES)
    child.touch(addr, range(N_PAGES))
    staging = Staging(Scanner(child.pagemap_fd), RunList(1), PageBuffer(STAGING_PAGES))
    source = Source(child.pid, child.mem_fd, FileMaps())
    staging.scan(SpanTable([Span(addr, addr + N_PAGES * PAGE)]))
    staging.copy(source)
    child.unmap(addr, range(N_PAGES))
    assert child.map(N_PAGES) == addr, "the kernel puts it where there is the same room again"
    child.write(addr, {5: b"new"})

    staging.final_scan(changes_of(addr, N_PAGES))
    staging.final_copy(source)

    assert captured(staging, addr) == {5: b"new".ljust(PAGE, b"\0")}


@pytest.mark.parametrize("seed", range(4))
def test_what_is_left_to_a_clone(child: Child, seed: int) -> None:
    """All but what lies in some ranges, with the copies of before."""
    rng = random.Random(seed)
    addr = child.map(N_PAGES)
    child.track(addr, N_PAGES)
    staging = Staging(Scanner(child.pagemap_fd), RunList(1), PageBuffer(STAGING_PAGES))
    source = Source(child.pid, child.mem_fd, FileMaps())
    for _ in range(2):
        for _ in range(40):
            change(child, rng, addr, N_PAGES)
        staging.scan(SpanTable([Span(addr, addr + N_PAGES * PAGE)]))
        staging.copy(source)
    for _ in range(40):
        change(child, rng, addr, N_PAGES)
    bounds = sorted(rng.sample(range(N_PAGES), 8))
    ranges = [(addr + start * PAGE, addr + end * PAGE) for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
    staging.final_scan(changes_of(addr, N_PAGES))
    pages, inside = staging.pages_to_copy, staging.pages_to_copy_in(ranges)

    assert staging.leave_to_clone(ranges, source) == inside

    assert staging.picture.pages_of(RunKind.COPY) == pages - inside
    assert not any(staging.picture.pages_within(RunKind.COPY, *one) for one in ranges)
    staging.copy_runs(staging.picture, source)
    found, memory = captured(staging, addr), memory_of(child, addr, N_PAGES)
    assert {page: found.get(page, ZERO_PAGE) for page in memory} == memory
