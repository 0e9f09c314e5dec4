"""What `read` prints, of an image made by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from formats.layout import PAGE_BYTES
from tests.format.images import ImageRound, addr_of, vma_of, write_chain
from tests.harness import REPO, predump

TEXT = b"caf\xc3\xa9 \xff\x1b[2J\n"
HEAP = b"head".ljust(16, b"-") + addr_of(0).to_bytes(8, "little") * 3 + addr_of(4).to_bytes(8, "little")


@pytest.fixture
def made(checkpoint: Path) -> Path:
    page = HEAP + TEXT + b"\0"
    heap = replace(vma_of(0, 2, "heap", "[heap]"))
    crossing = bytes(PAGE_BYTES - 3) + b"abc"
    pages = {0: page.ljust(PAGE_BYTES, b"\0"), 4: crossing, 5: b"def".ljust(PAGE_BYTES, b"\0")}
    return write_chain(checkpoint, ImageRound(pages, (heap, vma_of(4, 5), vma_of(5, 6))))


def lines(made: Path, *words: object) -> list[str]:
    return predump("read", made, *words).stdout.splitlines()


def test_hex_dump(made: Path) -> None:
    assert lines(made, "heap+8", 16) == [
        "heap+0x8:",
        "7f0000000008  2d 2d 2d 2d 2d 2d 2d 2d  00 00 00 00 00 7f 00 00  |--------........|",
    ]
    assert len(lines(made, "heap")) == 1 + 64 // 16
    name, other = f"anon@{addr_of(4):x}", f"anon@{addr_of(5):x}"
    assert lines(made, f"{name}+4093", 5) == [
        f"{name}+0xffd:",
        "7f0000004ffd  61 62 63                                          |abc|",
        f"{other}:",
        "7f0000005000  64 65                                             |de|",
    ]


def test_words(made: Path) -> None:
    assert lines(made, "heap", 43, "--words") == [
        "heap:",
        "7f0000000000  2d2d2d2d64616568",
        "7f0000000008  2d2d2d2d2d2d2d2d",
        "7f0000000010  00007f0000000000  -> heap",
        "*",
        "7f0000000020  00007f0000000000  -> heap",
        f"7f0000000028  00007f0000004000  -> anon@{addr_of(4):x}",
    ]


def test_strings(made: Path) -> None:
    done = predump("read", made, f"heap+{len(HEAP)}", "--string")
    assert (done.stdout, done.stderr) == ("café \\xff\\x1b[2J\\n\n", ""), "nothing of it drives the terminal"
    assert lines(made, hex(addr_of(4) + PAGE_BYTES - 3), "--string") == ["abcdef"]
    cut = predump("read", made, hex(addr_of(4) + PAGE_BYTES - 3), 4, "--string")
    assert cut.stdout == "abcd\n"
    assert "no end within 4 bytes" in cut.stderr


def test_raw(made: Path) -> None:
    words = [sys.executable, "-m", "cli", "read", str(made), f"heap+{len(HEAP)}", str(len(TEXT)), "--raw"]
    assert subprocess.run(words, cwd=REPO, capture_output=True, check=True).stdout == TEXT
    predump("read", made, "heap", 8, "--raw", "--json", expect=2)


def test_json_of_each_form(made: Path) -> None:
    plain = predump("read", made, "heap+8", 16, "--json").result
    assert plain["place"] == "heap+0x8"
    assert plain["sections"] == [{"addr": addr_of(0) + 8, "place": "heap+0x8"}]
    words = predump("read", made, "heap+40", 8, "--words", "--json").result
    assert words["words"] == [{"addr": addr_of(0) + 40, "value": addr_of(4), "value_place": f"anon@{addr_of(4):x}"}]
    text = predump("read", made, f"heap+{len(HEAP)}", "--string", "--json").result
    assert text["text"] == "café \\xff\x1b[2J\n"
    assert bytes.fromhex(str(text["hex"])) == TEXT


def test_the_usual_length_ends_with_the_mapping(made: Path) -> None:
    assert predump("read", made, hex(addr_of(6) - 5), "--json").result["length"] == 5
    assert predump("read", made, "heap", 0, "--json").result["hex"] == ""
    predump("read", made, hex(addr_of(6)), "--json", expect=1)
