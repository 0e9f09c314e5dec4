"""The summary of `inspect` fits a screen whatever it is about, and is readable without colours and Unicode."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from analysis.mappings import Order, PageKind
from analysis.subject import subject_of
from commands.inspect import ORDERS, SECTIONS
from display.inspect import shown
from display.pagebar import bar_legend, page_bar
from display.view import View
from formats.checkpoint import Checkpoint
from formats.layout import RunKind
from formats.manifest import Manifest, Missing
from tests.display import samples
from tests.display.samples import inspected, manifest_of, tree_manifest
from tests.display.test_inspect import hostile_manifest, pre_dump_of
from tests.format.images import ImageRound, page_of, round_path, vma_of, write_chain
from tests.harness import PREDUMP_S, REPO, parse_events, predump

LINES = 24


def long_chain() -> list[Manifest]:
    return [replace(pre_dump_of(tree_manifest()), round=number) for number in range(1, 100)] + [
        replace(tree_manifest(), round=100)
    ]


def large_tree() -> list[Manifest]:
    children = [samples.process_of(pid, samples.SERVER, f"child{pid}") for pid in range(10_000, 11_000)]
    return [manifest_of(samples.server(), *children)]


def everything_at_once() -> list[Manifest]:
    """Many mappings of all kinds, many things missing, and writes that went unseen."""
    vmas = [samples.vma_of(i, f"/lib/{i}" * 40, pages_data=5, pages_zero=3, pages_parent=2) for i in range(3000)]
    process = replace(
        samples.server(),
        cmdline=["word"] * 10_000,
        vmas=vmas,
        unseen_writers=["io_uring of descriptor 9"] * 30,
        missing=[Missing(what=f"{chr(97 + i)} thing", reason="r" * 1000) for i in range(20)],
    )
    return [manifest_of(process)]


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize(
    "manifests",
    [[tree_manifest()], long_chain(), large_tree(), everything_at_once(), [hostile_manifest()]],
    ids=["tree", "chain", "large", "everything", "hostile"],
)
def test_it_fits_a_screen(manifests: list[Manifest], columns: int) -> None:
    lines = inspected(columns, *manifests, sections=["summary"]).splitlines()
    assert len(lines) < LINES
    assert max(map(cell_len, lines)) <= columns


def test_it_fits_a_screen_when_much_is_damaged(tmp_path: Path) -> None:
    chain = write_chain(tmp_path / "checkpoint", *[ImageRound({0: page_of(1)})] * 5)
    for number, name in product(range(1, 6), ("pages", "pagemap")):
        (round_path(chain, number) / f"{name}-42.zst").unlink()
    done = predump("inspect", chain, expect=20, env={"COLUMNS": "80"})
    assert "NO: 10 problems" in done.stdout
    assert len(done.stdout.splitlines()) < LINES


def test_zombies_and_others_of_a_tree() -> None:
    text = inspected(160, tree_manifest(), pid=samples.ZOMBIE, sections=["summary"])
    assert "helper, pid 4244, a zombie: it has no memory, threads or files left; one of 3 processes" in text
    text = inspected(160, tree_manifest(), pid=samples.WORKER, sections=["summary"])
    assert "worker, pid 4243, 1 thread, 1 child; one of 3 processes with 3 threads" in text


# --- bars -------------------------------------------------------------------------------------------

PAGES = st.fixed_dictionaries({kind: st.integers(0, 1 << 40) | st.integers(0, 3) for kind in PageKind})


@given(PAGES, st.integers(len(PageKind), 40), st.booleans())
@example({**dict.fromkeys(PageKind, 0), PageKind.FILE: 1, PageKind.HOLE: 2, PageKind.UNREADABLE: 5}, 7, True)
def test_a_bar_shows_every_kind_and_no_more(pages: dict[PageKind, int], columns: int, plain: bool) -> None:
    bar = page_bar(pages, columns, plain=plain)
    assert len(bar) == (columns if any(pages.values()) else 0)
    glyphs = [entry[0] for entry in bar_legend(pages, plain=plain).plain.split("  ")]
    shown = [glyph for kind, glyph in zip(PageKind, glyphs, strict=True) if pages[kind]]
    assert list(dict.fromkeys(bar.plain)) == shown
    total = sum(pages.values())
    for kind, glyph in zip(PageKind, glyphs, strict=True):
        exact = pages[kind] * columns / total if total else 0
        assert bar.plain.count(glyph) <= exact + 1
    assert not plain or bar.plain.isascii()


def test_each_kind_has_a_glyph_and_a_colour_of_its_own() -> None:
    pages = dict.fromkeys(PageKind, 1)
    for plain in (False, True):
        bar = page_bar(pages, len(PageKind), plain=plain)
        assert len(set(bar.plain)) == len({str(span.style) for span in bar.spans}) == len(PageKind)


# --- terminals and pipes ----------------------------------------------------------------------------


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    vmas = (vma_of(0, 8, "heap", "[heap]"), vma_of(16, 32), vma_of(40, 44, "file", "/usr/lib/libc.so.6"))
    first = ImageRound({page: page_of(page) for page in (*range(6), *range(16, 20))}, vmas)
    last = ImageRound({0: page_of(9), **dict.fromkeys((*range(1, 6), *range(16, 20)), RunKind.PARENT)}, vmas)
    return write_chain(tmp_path / "checkpoint", first, last)


def on_a_terminal(checkpoint: Path, **environment: str) -> str:
    """What the command writes to one."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    words = [sys.executable, "-m", "cli", "inspect", str(checkpoint)]
    try:
        with subprocess.Popen(words, cwd=REPO, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=env) as run:
            os.close(theirs)
            written = bytearray()
            try:
                while piece := os.read(ours, 1 << 16):
                    written += piece
            except OSError:
                pass  # EIO: nobody has the other side open any more
            run.wait(PREDUMP_S)
    finally:
        os.close(ours)
    assert run.returncode == 0
    return written.decode()


COLOURS = re.compile(r"\x1b\[[0-9;]*3[0-7]")


def test_colours_are_for_terminals_that_want_them(chain: Path) -> None:
    assert COLOURS.search(on_a_terminal(chain))
    assert not COLOURS.search(on_a_terminal(chain, NO_COLOR="1"))
    assert "\x1b" not in predump("inspect", chain).stdout


def test_an_encoding_without_blocks(chain: Path) -> None:
    done = predump("inspect", chain, env={"PYTHONIOENCODING": "ascii", "COLUMNS": "80"})
    assert re.search(r"\[heap\].* #=+\.+$", done.stdout, re.MULTILINE)
    assert done.stdout.isascii()


# --- options ----------------------------------------------------------------------------------------


def starts(*words: object) -> list[str]:
    return re.findall(r"^7f0000\w{6}", predump("inspect", *words).stdout, re.MULTILINE)


def test_options_that_choose_mappings_show_them(chain: Path) -> None:
    assert starts(chain, "--vma", "heap") == ["7f0000000000"]
    assert starts(chain, "--vma", "libc*", "--vma", "0x7f0000010000") == ["7f0000010000", "7f0000028000"]
    assert starts(chain, "--min-size", "32K", "--sort", "size") == ["7f0000010000", "7f0000000000"]
    assert starts(chain, "--sort", "written", "--limit", "1") == ["7f0000000000"]
    assert starts(chain, "--writable", "--vma", "libc*", "--show", "vmas,rounds") == ["7f0000028000"]


def test_sections_come_in_one_order(chain: Path) -> None:
    text = predump("inspect", chain, "--show", "vmas,stats", "--show", "rounds").stdout
    assert re.findall(r"^(Rounds|Figures|VMAs)", text, re.MULTILINE) == ["Rounds", "Figures", "VMAs"]
    assert "whole" in predump("inspect", chain, "--show", "all").stdout


def test_the_words_of_the_options_are_those_of_the_view(chain: Path) -> None:
    """The command has them written down: reading help loads no engine."""
    assert tuple(Order) == ORDERS
    opened = subject_of(Checkpoint.open(chain))
    for section in SECTIONS:
        shown(opened, View(80), (section,))


def test_sections_without_content(chain: Path) -> None:
    assert predump("inspect", chain, "--show", "objects,files").stdout.strip() == (
        "There is nothing to show: files, objects."
    )
    assert "None of the 3 VMAs is meant." in predump("inspect", chain, "--vma", "stack").stdout


def test_an_unknown_section(chain: Path) -> None:
    done = predump("inspect", chain, "--show", "vmas,heap", expect=2)
    assert "'heap' is none of summary, missing, restore, rounds" in " ".join(done.stderr.split())


def test_json_has_each_section(chain: Path) -> None:
    plain = parse_events(predump("inspect", chain, "--json").stdout)
    assert [event["type"] for event in plain] == ["round", "round", "result"]
    assert plain[-1]["manifest"]["root_pid"] == 42
    assert plain[-1]["whole"] is True
    chosen = parse_events(predump("inspect", chain, "--vma", "heap", "--json").stdout)
    assert [event["type"] for event in chosen] == ["vma", "result"]
    assert "manifest" not in chosen[-1]
    heap = chosen[0]
    assert {name: heap[name] for name in ("path", "pages_data", "pages_parent", "pages_hole", "pages_rewritten")} == {
        "path": "[heap]",
        "pages_data": 1,
        "pages_parent": 5,
        "pages_hole": 2,
        "pages_rewritten": 1,
    }
    assert heap["times_written"] == pytest.approx(1 / 6)
    assert 0 < heap["stored_bytes"] < 4096
    everything = parse_events(predump("inspect", chain, "--show", "all", "--json").stdout)
    kinds = [str(event.get("section", event["type"])) for event in everything]
    assert list(dict.fromkeys(kinds)) == ["restore", "round", "stats", "tree", "vma", "environment", "result"]
    assert kinds.count("vma") == 3


def test_json_of_a_damaged_chain_says_so(chain: Path) -> None:
    (round_path(chain, 1) / "pages-42.zst").unlink()
    events = parse_events(predump("inspect", chain, "--json", expect=20).stdout)
    assert [event["type"] for event in events] == ["round", "round", "finding", "result"]
    assert (events[-1]["whole"], events[-1]["errors"], events[-1]["exit_code"]) == (False, 1, 20)
