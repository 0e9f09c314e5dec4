"""Which mappings a word names."""

from __future__ import annotations

import pytest

from analysis.selection import VmaSelection
from tests.analysis.samples import vma

TEXT = vma(0x1000, 0x3000, "r-xp", "/usr/bin/server", kind="file", inode=5)
HEAP = vma(0x5000, 0x9000, path="[heap]", kind="heap")
ANON = vma(0x10000, 0x11000)
LIBC = vma(0x20000, 0x21000, "r--p", "/usr/lib/libc.so.6", kind="file", inode=6)
SHARED = vma(0x30000, 0x31000, "rw-s", "/dev/zero (deleted)", kind="shmem", inode=9)
STACK = vma(0x40000, 0x50000, path="[stack]", kind="stack")
VDSO = vma(0x60000, 0x61000, "r-xp", "[vdso]", kind="special")
ALL = [TEXT, HEAP, ANON, LIBC, SHARED, STACK, VDSO]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ALL),
        (("heap",), [HEAP]),
        (("stack",), [STACK]),
        (("anon",), [ANON]),
        (("shm",), [SHARED]),
        (("0x10fff",), [ANON]),
        (("0x11000",), []),
        (("0xzz",), []),
        (("/usr/*",), [TEXT, LIBC]),
        (("libc*",), [LIBC]),
        (("[vdso]",), [VDSO]),
        (("vdso",), [VDSO]),
        (("heap", "server"), [TEXT, HEAP]),
    ],
)
def test_words(words: tuple[str, ...], expected: list[object]) -> None:
    assert VmaSelection(words).of(ALL) == expected


def test_writable() -> None:
    assert VmaSelection(writable=True).of(ALL) == [HEAP, ANON, SHARED, STACK]


def test_size() -> None:
    assert VmaSelection(min_bytes=0x4000).of(ALL) == [HEAP, STACK]
    assert VmaSelection(("heap",), min_bytes=0x4001).of(ALL) == []
