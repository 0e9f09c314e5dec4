"""Memory as words of eight bytes, and what those that may be pointers point to."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from analysis.places import Places

WORD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Word:
    """Eight bytes at an address as a little-endian number; `value_place` is what that is the address of, "" if none."""

    addr: int
    value: int
    value_place: str


def words_of(content: bytes, addr: int, places: Places) -> Iterator[Word]:
    """Memory at an address, a whole number of words; raises ImageCorrupt, StorageError."""
    for position, (value,) in enumerate(struct.iter_unpack("<Q", content)):
        yield Word(addr + position * WORD_BYTES, value, places.name(value))
