"""What the commands say of CRIU's checkpoints: those that look into images do, all others name them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import cli
from tests.criuwriter import ANON_PRIVATE, HEAP, PAGE_BYTES, REGULAR, CriuImages, Mark, Task, Vma, addr_of, write_chain
from tests.elfreader import Core
from tests.harness import number, parse_events

PID = 100
NEEDLE = b"a needle".ljust(PAGE_BYTES, b".")
GDB = shutil.which("gdb")


def predump(*words: object, expect: int = 0) -> str:
    """What the command prints, run in this process."""
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == expect, done.output
    return done.output if expect else done.stdout


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Two pre-dumps and a dump: page 1 is another one in each, page 10 is new in the last."""
    pages = [bytes([number]) * PAGE_BYTES for number in range(5)]
    first = CriuImages(running={PID: {0: pages[0], 1: pages[1], 9: pages[2]}})
    second = CriuImages(running={PID: {0: Mark.PARENT, 1: pages[3], 9: Mark.PARENT}})
    vmas = (Vma(0, 8), Vma(8, 16, REGULAR | ANON_PRIVATE | HEAP))
    last: dict[int, bytes | Mark] = {0: Mark.PARENT, 1: pages[4], 9: Mark.PARENT, 10: NEEDLE}
    return write_chain(tmp_path, first, second, CriuImages([Task(PID, vmas, last, tids=(PID + 1,))]))


def test_inspect(chain: Path) -> None:
    shown = " ".join(predump("inspect", chain, "--show", "all").split())
    for text in ("task, pid 100, 2 threads", "/usr/bin/task", "frozen for 2.1 ms", "[heap]", "Not captured"):
        assert text in shown
    *rounds, result = parse_events(predump("inspect", chain, "--json"))
    assert [event["kind"] for event in rounds if event["type"] == "round"] == ["pre-dump", "pre-dump", "dump"]
    assert number(result, "round") == 3


def test_read(chain: Path) -> None:
    assert "a needle" in predump("read", chain, hex(addr_of(10)), 16)
    for count, content in enumerate((1, 3, 4), start=1):
        (result,) = parse_events(predump("read", chain, hex(addr_of(1)), 2, "--round", count, "--json"))
        assert result["hex"] == bytes([content, content]).hex()
    predump("read", chain, hex(addr_of(20)), 1, expect=1)


def test_search(chain: Path) -> None:
    *matches, result = parse_events(predump("search", chain, "needle", "--json"))
    assert [number(event, "addr") for event in matches if event["type"] == "match"] == [addr_of(10) + 2]
    assert result["type"] == "result"


def test_diff(chain: Path) -> None:
    """Of a pre-dump no mapping is known, but pages are compared by their addresses all the same."""
    assert "1 page changed (4.0 KiB), 1 page added (4.0 KiB)" in predump("diff", chain, 1, 3)
    assert "1 page changed (4.0 KiB)" in predump("diff", chain, 1, 2)


def test_export_to_a_core(chain: Path, tmp_path: Path) -> None:
    predump("export", chain, "--to", "core", "-o", tmp_path / "core")
    heap = next(load for load in Core(tmp_path / "core").loads if load.start_addr == addr_of(8))
    assert Core(tmp_path / "core").content(heap)[2 * PAGE_BYTES : 3 * PAGE_BYTES] == NEEDLE
    if GDB is None:
        pytest.skip("gdb is not installed: what it makes of the core is not known")
    words = [GDB, "-batch", "-ex", f"x/s {addr_of(10):#x}", "-ex", "info threads", "-c", tmp_path / "core"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert '"a needle' in done.stdout
    assert done.stdout.count("LWP 100") + done.stdout.count("LWP 101") >= 2


@pytest.mark.parametrize("words", [("verify",), ("flatten", "-o", "out"), ("flatten", "--drop"), ("send",)])
def test_commands_for_own_checkpoints_say_so(chain: Path, words: tuple[str, ...]) -> None:
    command, *options = words
    said = predump(command, chain, *options, expect=2)
    assert "CRIU" in said
    assert "predump inspect" in said


def test_damage_has_its_exit_code(chain: Path) -> None:
    pages = chain / "pages-1.img"
    pages.write_bytes(pages.read_bytes()[:PAGE_BYTES])
    assert "names pages up to byte" in predump("read", chain, hex(addr_of(10)), 1, expect=20)
    shutil.rmtree(chain.parent / "d1")
    assert "is not there" in predump("read", chain, hex(addr_of(0)), 1, expect=22)
