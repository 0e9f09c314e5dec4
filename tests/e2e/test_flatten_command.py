"""`predump flatten` as its user sees it: what it says, what it refuses, and what of it is left when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.checkpoint import Checkpoint
from formats.layout import FRAME_PAGES, PAGE_BYTES, RunKind
from tests.format.images import PID, ImageRound, addr_of, page_of, vma_of, write_chain
from tests.harness import predump

USAGE, CORRUPT, PARENT_MISSING = 2, 20, 22
N_PAGES = 3 * FRAME_PAGES


@pytest.fixture
def chain(checkpoint: Path) -> Path:
    """Three rounds, the second and third with a page each."""
    vmas = (vma_of(0, N_PAGES),)
    first = ImageRound({page: page_of(page) for page in range(N_PAGES)}, vmas)
    second = ImageRound(dict.fromkeys(range(N_PAGES), RunKind.PARENT) | {1: page_of(1001)}, vmas)
    third = ImageRound(dict.fromkeys(range(N_PAGES), RunKind.PARENT) | {2: page_of(1002)}, vmas)
    return write_chain(checkpoint, first, second, third)


def test_into_a_new_checkpoint(chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = predump("flatten", chain, "-o", out, "--round", 2)
    assert done.stdout.startswith(f"{out}: round 2 is self-contained, made of 2 rounds: ")
    assert not done.stderr
    assert Checkpoint.open(out).numbers == [2]
    assert predump("read", out, hex(addr_of(1)), PAGE_BYTES, "--json").result["hex"] == page_of(1001).hex()
    assert "flattened from rounds 1 to 2" in " ".join(predump("inspect", out, "--show", "rounds").stdout.split())
    predump("verify", out)
    again = predump("flatten", chain, "-o", out, check=False)
    assert again.returncode == USAGE
    assert f"{out} is a checkpoint already" in again.stderr


def test_a_round_named_by_its_directory(chain: Path, tmp_path: Path) -> None:
    predump("flatten", chain / "0002", "-o", tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").numbers == [2]


def test_in_place(chain: Path) -> None:
    done = predump("flatten", chain, "--drop", "--keep", 1, "--json")
    assert {key: done.result[key] for key in ("type", "round", "kind", "rounds", "dropped", "pages_data")} == {
        "type": "result",
        "round": 2,
        "kind": "pre-dump",
        "rounds": 2,
        "dropped": 1,
        "pages_data": N_PAGES,
    }
    assert done.result["copied_frames"] == 2
    assert done.result["made_frames"] == 1
    assert Checkpoint.open(chain).numbers == [2, 3]
    predump("verify", chain)
    assert (
        predump("flatten", chain, "--drop", "--keep", 1).stdout == f"{chain}: nothing to flatten, no round removed.\n"
    )
    assert "1 earlier round removed" in predump("flatten", chain, "--drop").stdout
    assert predump("read", chain, hex(addr_of(2)), PAGE_BYTES, "--json").result["hex"] == page_of(1002).hex()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a new checkpoint with -o, or use --drop"),
        (("--drop", "-o", "out"), "name a new checkpoint with -o, or use --drop"),
        (("--drop", "--keep", 1, "--round", 1), "--round and --keep exclude each other"),
        (("--drop", "--round", 9), "has no round 9"),
        (("-o", "out", "--keep", 3), "has no round before the last 3"),
    ],
)
def test_wrong_usage(chain: Path, words: tuple[object, ...], message: str) -> None:
    done = predump("flatten", chain, *words, check=False)
    assert done.returncode == USAGE
    assert message in done.stderr
    assert Checkpoint.open(chain).numbers == [1, 2, 3]
    assert sorted(path.name for path in chain.iterdir()) == ["0001", "0002", "0003"]


@pytest.mark.parametrize("words", [("--drop",), ("-o", "OUT")])
def test_damage(chain: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    words = tuple(str(tmp_path / "out") if word == "OUT" else word for word in words)
    path = chain / "0001" / f"pages-{PID}.zst"
    sound = path.read_bytes()
    path.write_bytes(sound[:50] + bytes([sound[50] ^ 1]) + sound[51:])
    done = predump("flatten", chain, *words, check=False)
    assert done.returncode == CORRUPT
    assert str(path) in done.stderr
    assert sorted(item.name for item in chain.iterdir()) == ["0001", "0002", "0003"]
    assert not (tmp_path / "out").exists()
    (chain / "0001").rename(tmp_path / "elsewhere")
    assert predump("flatten", chain, *words, check=False).returncode == PARENT_MISSING
