"""What `search` shows, of a checkpoint made by hand, in narrow and wide terminals."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from cli import cli
from formats.layout import PAGE_BYTES, RunKind
from tests.format.images import (
    PID,
    ImageObject,
    ImageRound,
    PageState,
    addr_of,
    object_vma,
    vma_of,
    write_round,
    write_tree,
)
from tests.schemas import check_event
from tests.snapshots import assert_snapshot

HOSTILE = "/tmp/\x1b[2J[bold]x[/nope]\r\n\x07\u202e\udcff"


def page(text: bytes, offset: int = 0) -> bytes:
    """A page of zeros but for a text."""
    return bytes(offset) + text + bytes(PAGE_BYTES - offset - len(text))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two rounds of a process, the second with one that shares memory with it."""
    vmas = (
        vma_of(0, 4, "heap", "[heap]"),
        replace(vma_of(8, 12, "file", "/usr/lib/libserver.so.2"), inode=77),
        replace(vma_of(16, 18, "anon", HOSTILE), perms="r--p"),
        vma_of(32, 1 << 20),
    )
    pages: dict[int, PageState] = {
        0: page(b'{"user": "admin", "password": "hunter2", "shell": "/bin/sh"}', 700),
        1: page("Password?".encode("utf-16-le"), PAGE_BYTES - 18),
        8: page(b"usage: server [--password FILE]\n\0\x7f\x1b[2J", 64),
        16: page(b"password\x1b[2J\xff" + addr_of(0).to_bytes(8, "little"), 11),
    }
    path = tmp_path / "checkpoint"
    parent = write_round(path, 1, ImageRound(pages, vmas))
    later: dict[int, PageState] = {**dict.fromkeys(pages, RunKind.PARENT), 0: page(b"nothing"), 3: page(b"password=1")}
    images = {
        PID: ImageRound(later, (*vmas[:3], object_vma(20, 22, 1), vmas[3])),
        PID + 1: ImageRound({}, (object_vma(20, 22, 1),)),
    }
    write_tree(path, 2, images, [ImageObject(1, {0: page(b"the password of all", 32)}, 2 * PAGE_BYTES)], parent)
    return path


def shown(*words: object, columns: int = 80) -> str:
    """What is printed, the time it took left out."""
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(cli, ["search", *map(str, words)])
    assert done.exit_code == 0, done.output
    return re.sub(r"; [0-9.]+ (µs|ms|s)\.\n$", "; TIME.\n", done.stdout)


def every_way(checkpoint: Path, columns: int) -> str:
    """Several searches, one below the other."""
    searches: tuple[tuple[object, ...], ...] = (
        ("password", "-i"),
        ("password", "-i", "--all-rounds", "--all-processes"),
        ("password", "--context", 24, "--round", 1, "-m", 2),
        ("hex:70 ?? 73 73 77 6f 72 64 1b", "--context", 0),
        ("hex:00 00 00", "-m", 3),
        ("ptr:0x0", "-m", 30, "--vma", hex(addr_of(32))),
        ("ptr:heap",),
        ("re:pass[a-z]+=[0-9]", "-c"),
        ("nowhere",),
    )
    return "\n".join(
        f"$ predump search {' '.join(map(str, words))}\n{shown(checkpoint, *words, columns=columns)}"
        for words in searches
    )


@pytest.mark.parametrize("columns", [80, 160])
def test_matches_at_a_glance(checkpoint: Path, columns: int) -> None:
    text = every_way(checkpoint, columns)
    *table, _ = shown(checkpoint, "password", "-i", "--all-rounds", "--all-processes", columns=columns).splitlines()
    assert [line for line in table if cell_len(line) > columns] == []
    assert re.search(r"[^\n\x20-\x7e…]", text) is None
    assert_snapshot(f"search-{columns}.txt", text)


def test_events_are_what_the_schemas_say(checkpoint: Path) -> None:
    for words in (
        ("password", "-i", "--all-rounds", "--all-processes"),
        ("ptr:heap",),
        ("hex:00", "-m", "5"),
        ("x", "-c"),
    ):
        done = CliRunner().invoke(cli, ["search", str(checkpoint), *words, "--json"])
        assert done.exit_code == 0
        for line in done.stdout.splitlines():
            check_event(json.loads(line))


def test_options_that_exclude_each_other(checkpoint: Path) -> None:
    for words in (("--round", "1", "--all-rounds"), ("--pid", str(PID), "--all-processes")):
        done = CliRunner().invoke(cli, ["search", str(checkpoint), "x", *words])
        assert done.exit_code == 2
        assert "exclude each other" in done.stderr
    assert CliRunner().invoke(cli, ["search", str(checkpoint), "x", "--pid", "7"]).exit_code == 2
