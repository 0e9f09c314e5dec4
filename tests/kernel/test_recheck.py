"""Older copies compared with memory: what is the same stays, everything else is to be copied again."""

from __future__ import annotations

import random

import pytest
import zstandard

from dumper.kernel.copy import FileMaps, PageBuffer, Source
from dumper.kernel.recheck import PageHashes, Recheck
from dumper.kernel.runs import RunKind, RunList
from formats.layout import PAGE_BYTES, RUN
from tests.kernel.child import PAGE, ZERO_PAGE, Child, pages_of

N_PAGES = 3000
PROT_NONE = 0
CHECKSUM_BYTES = 4


@pytest.mark.parametrize("seed", range(20))
def test_the_hash_is_that_of_zstd_frames(seed: int) -> None:
    """Their last four bytes are the lower half of it: RFC 8878."""
    page = random.Random(seed).randbytes(PAGE_BYTES) if seed else ZERO_PAGE
    hashes = PageHashes(2)
    hashes.put(memoryview(page), PAGE_BYTES)
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(page)
    assert int(hashes.c[1]) & 0xFFFFFFFF == int.from_bytes(frame[-CHECKSUM_BYTES:], "little")


def run_list(runs: list[tuple[int, int, RunKind, int]]) -> RunList:
    """Of (start_addr, n_pages, kind, page_index)."""
    made = RunList(1)
    made.extend_packed(b"".join(RUN.pack(addr, n_pages, kind, index) for addr, n_pages, kind, index in runs))
    return made


class Copies:
    """Older copies of a child's memory, some of them out of date: stored, or staged, and what is claimed of them."""

    def __init__(self, child: Child, rng: random.Random) -> None:
        self.addr = child.map(N_PAGES)
        self.expected: dict[int, RunKind] = {}
        self.staging = PageBuffer(N_PAGES)
        self.hashes = PageHashes(N_PAGES)
        self.stored: list[tuple[int, int, RunKind, int]] = []
        self.claims: list[tuple[int, int, RunKind, int]] = []
        for page in range(N_PAGES):
            self._add(child, rng, page)

    def _add(self, child: Child, rng: random.Random, page: int) -> None:
        addr = self.addr + page * PAGE
        old = ZERO_PAGE if rng.random() < 0.2 else rng.randbytes(PAGE)
        new = old
        if rng.random() < 0.3:
            at = rng.randrange(PAGE)
            new = old[:at] + bytes([old[at] ^ 1 << rng.randrange(8)]) + old[at + 1 :]
        child.write(self.addr, {page: new})
        claim = rng.choice([RunKind.PARENT, RunKind.PARENT, RunKind.STAGED, RunKind.COPY, RunKind.ZERO, None])
        if claim is None:
            return
        index = 0
        if claim is RunKind.STAGED:
            index = self.staging.n_pages
            self.staging.c.n_pages += 1
            self.staging.memory[index * PAGE : (index + 1) * PAGE] = old
        is_stored = rng.random() < 0.95
        if claim is RunKind.PARENT and is_stored:
            kind = RunKind.ZERO if old == ZERO_PAGE and rng.random() < 0.5 else RunKind.DATA
            self.hashes.put(memoryview(old), page * PAGE)
            self.stored.append((addr, 1, kind, page if kind is RunKind.DATA else 0))
        self.claims.append((addr, 1, claim, index))
        holds = new == old and (claim is RunKind.STAGED or is_stored)
        self.expected[page] = claim if holds or claim in (RunKind.COPY, RunKind.ZERO) else RunKind.COPY

    def settled(self, child: Child) -> RunList:
        """What becomes of the claims."""
        recheck = Recheck(run_list(self.stored), self.hashes)
        return recheck.settle(run_list(self.claims), Source(child.pid, child.mem_fd, FileMaps(), self.staging))


@pytest.mark.parametrize("seed", range(6))
def test_what_differs_is_copied_again(child: Child, seed: int) -> None:
    copies = Copies(child, random.Random(seed))
    settled = list(pages_of(copies.addr, copies.settled(child)))
    assert {page: kind for page, kind, _ in settled} == copies.expected
    staged = {(addr - copies.addr) // PAGE: index for addr, _, kind, index in copies.claims if kind is RunKind.STAGED}
    assert all(staged[page] == index for page, kind, index in settled if kind is RunKind.STAGED)


def test_what_cannot_be_read_any_more_is_copied_again(child: Child) -> None:
    copies = Copies(child, random.Random(7))
    child.unmap(copies.addr, range(100))
    settled = {page: kind for page, kind, _ in pages_of(copies.addr, copies.settled(child))}
    assert all(settled[page] is not RunKind.PARENT for page in settled if page < 100)
    assert {page: kind for page, kind in settled.items() if page >= 100} == {
        page: kind for page, kind in copies.expected.items() if page >= 100
    }


def test_memory_without_permissions_is_compared_too(child: Child) -> None:
    copies = Copies(child, random.Random(8))
    child.protect(copies.addr, range(N_PAGES), PROT_NONE)
    assert {page: kind for page, kind, _ in pages_of(copies.addr, copies.settled(child))} == copies.expected
