"""Build ids, of files that have one and of what is none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from formats.buildid import build_id
from formats.elf import IDENT_64_LITTLE, NHDR
from tests.format.elffile import elf, note

ID = bytes(range(20))


def found_in(content: bytes) -> str:
    return build_id(lambda offset, n_bytes: content[offset : offset + n_bytes])


def test_it_is_found_behind_other_notes() -> None:
    notes = note(b"GNU\0", 1, bytes(16)) + note(b"XYZ\0", 3, b"1234") + note(b"GNU\0", 3, ID)
    assert found_in(elf(notes)) == ID.hex()


def test_that_of_libc_is_one() -> None:
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line)
    content = Path(libc).read_bytes()
    found = found_in(content)
    assert len(found) == 40
    assert bytes.fromhex(found) in content


@pytest.mark.parametrize(
    "content",
    [
        b"#!/bin/sh\n",
        IDENT_64_LITTLE + b"\xff" * 58,
        elf(b""),
        elf(note(b"GNU\0", 3, ID), size_bytes=1 << 60),
        elf(note(b"GNU\0", 3, ID), headers=0xFFFF),
        elf(note(b"GNU\0", 3, ID), offset=(1 << 64) - 1),
        elf(NHDR.pack(0xFFFFFFFF, 0xFFFFFFFF, 3) + b"GNU\0"),
        elf(NHDR.pack(4, 20, 3) + b"GNU\0" + ID[:7]),
        elf(struct.pack("<I", 4)),
    ],
)
def test_there_is_none_in_what_is_no_elf_file_or_a_damaged_one(content: bytes) -> None:
    assert found_in(content) == ""
