"""Memory as lines."""

from __future__ import annotations

from analysis.places import Section
from analysis.words import Word
from display.memorydump import hex_lines, word_lines


def test_each_section_of_a_hex_dump_has_a_line_above() -> None:
    content = b"abcd" + bytes(48) + b"x"
    sections = [Section(0x1000, "a:text+0x2"), Section(0x1004, "a:zeros")]
    assert list(hex_lines(content, 0x1000, sections)) == [
        "a:text+0x2:",
        "000000001000  61 62 63 64                                       |abcd|",
        "a:zeros:",
        "000000001004  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
        "*",
        "000000001034  78                                                |x|",
    ]
    assert list(hex_lines(b"", 0x1000, [])) == []


def test_words() -> None:
    values = [5, 0, 0, 7, 7, 7, 7, 7]
    words = [Word(0x1000 + 8 * n, value, "heap+0x10" if value == 5 else "") for n, value in enumerate(values)]
    sections = [Section(0x1000, "a:x"), Section(0x1006, "a:y"), Section(0x1028, "a:z")]
    assert list(word_lines(words, sections)) == [
        "a:x:",
        "a:y:",
        "000000001000  0000000000000005  -> heap+0x10",
        "000000001008  0000000000000000",
        "000000001010  0000000000000000",
        "000000001018  0000000000000007",
        "000000001020  0000000000000007",
        "a:z:",
        "000000001028  0000000000000007",
        "*",
        "000000001038  0000000000000007",
    ]
    assert list(word_lines([], [])) == []
