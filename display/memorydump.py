"""Memory in lines, with the places that it lies in above them."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise

from analysis.places import Section
from analysis.words import WORD_BYTES, Word
from display.hexdump import hexdump


def hex_lines(content: bytes, addr: int, sections: Iterable[Section]) -> Iterator[str]:
    """A hex dump of memory at an address; each section begins with a line of its own."""
    for section, following in pairwise([*sections, Section(addr + len(content), "")]):
        yield f"{section.place}:"
        yield from hexdump(content[section.addr - addr : following.addr - addr], section.addr)


def word_lines(words: Iterable[Word], sections: Iterable[Section]) -> Iterator[str]:
    """A line for each word, pointers named; of many equal words in a row the first and the last, with a "*" between.

    A section begins above the word that its first byte is in.
    """
    places = list(sections)
    starts_addr = [section.addr for section in places]

    def key(word: Word) -> tuple[int, int]:
        return bisect_left(starts_addr, word.addr + WORD_BYTES), word.value

    n_begun = 0
    for (n_sections, _), equal in groupby(words, key):
        yield from (f"{section.place}:" for section in places[n_begun:n_sections])
        n_begun = n_sections
        yield _line(next(equal))
        n_more = 0
        for n_more, last in enumerate(equal, 1):  # noqa: B007 -- a million of them may be equal
            pass
        if n_more > 1:
            yield "*"
        if n_more:
            yield _line(last)


def _line(word: Word) -> str:
    pointer = f"  -> {word.value_place}" if word.value_place else ""
    return f"{word.addr:012x}  {word.value:016x}{pointer}"
