"""Pages copied into the staging memory by two threads are those that one would have copied."""

from __future__ import annotations

import ctypes
import mmap
import os
import random

import pytest

from dumper.kernel import copy
from dumper.kernel.copy import Copier, FileMaps, PageBuffer, Source, StagingMemory
from dumper.kernel.runs import RunKind, RunList
from formats.layout import PAGE_BYTES, RUN

N_PAGES = 1 << 9
KINDS = (RunKind.COPY, RunKind.COPY, RunKind.PARENT, RunKind.ZERO, None)


def staged(memory: PageBuffer, records: bytes, mem_fd: int) -> tuple[bool, list[tuple[int, ...]], bytes]:
    """What is copied, and the runs that say so."""
    runs, out = RunList(1), RunList(1)
    runs.extend_packed(records)
    fits = Copier(Source(os.getpid(), mem_fd, FileMaps()), runs).stage(memory, out)
    found = [RUN.unpack_from(out.packed(), at) for at in range(0, len(out.packed()), RUN.size)]
    return fits, merged(found), bytes(memory.content())


def merged(runs: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """With neighbours as one run each: where the work was cut in two does not matter."""
    found: list[tuple[int, ...]] = []
    for addr, n_pages, kind, index in runs:
        last = found[-1] if found else (0, 0, 0, 0)
        is_next = last[0] + last[1] * PAGE_BYTES == addr and last[2] == kind
        if is_next and (kind != RunKind.STAGED or last[3] + last[1] == index):
            found[-1] = (last[0], last[1] + n_pages, kind, last[3])
        else:
            found.append((addr, n_pages, kind, index))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_two_copy_what_one_copies(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(copy, "PAGES_FOR_TWO", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    with mmap.mmap(-1, N_PAGES * PAGE_BYTES) as memory, open("/proc/self/mem", "rb") as mem:  # noqa: PTH123
        view = ctypes.c_char.from_buffer(memory)
        addr = ctypes.addressof(view)
        for page in range(N_PAGES):
            memory[page * PAGE_BYTES : page * PAGE_BYTES + 8] = rng.randbytes(8)
        records, page = b"", 0
        while page < N_PAGES:
            n_pages, kind = min(rng.randrange(1, 40), N_PAGES - page), rng.choice(KINDS)
            records += RUN.pack(addr + page * PAGE_BYTES, n_pages, kind, 0) if kind else b""
            page += n_pages
        alone = staged(PageBuffer(N_PAGES), records, mem.fileno())
        with StagingMemory(N_PAGES) as by_two:
            assert by_two.helper
            assert staged(by_two, records, mem.fileno()) == alone
        assert alone[0]
        del view


def test_pages_that_cannot_be_read_stay_to_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "PAGES_FOR_TWO", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    with mmap.mmap(-1, 8 * PAGE_BYTES) as memory, open("/proc/self/mem", "rb") as mem:  # noqa: PTH123
        view = ctypes.c_char.from_buffer(memory)
        addr = ctypes.addressof(view)
        nowhere = 0x1000  # below vm.mmap_min_addr
        records = RUN.pack(nowhere, 2, RunKind.COPY, 0) + RUN.pack(addr, 8, RunKind.COPY, 0)
        with StagingMemory(16) as by_two:
            found = staged(by_two, records, mem.fileno())
        assert found == staged(PageBuffer(16), records, mem.fileno())
        assert (nowhere, 2, RunKind.COPY, 0) in found[1]
        del view
