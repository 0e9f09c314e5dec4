"""The scripts of docs/python.md on real targets, each run as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dumper
from tests.docs.pages import blocks
from tests.harness import (
    COMMAND_S,
    PREDUMP_S,
    REPO,
    Target,
    is_untouched,
    memory_target,
    predump,
    stopped,
    tracked_vmas,
)
from tests.oracle import compare

BLOCKS = blocks("python.md")

pytestmark = pytest.mark.usefixtures("targets")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with memory_target(tmp_path) as started:
        yield started


@contextmanager
def started(name: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """A script of the page under way, and ended if it has not ended by itself."""
    words = [sys.executable, "-c", BLOCKS[name], *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ran(name: str, *args: object) -> list[str]:
    """What a script said that ended well."""
    with started(name, *args) as process:
        out, errors = process.communicate(timeout=PREDUMP_S)
    assert process.returncode == 0, errors
    return out.splitlines()


def test_every_name_is_exported_and_on_a_page() -> None:
    text = "".join((REPO / "docs" / page).read_text() for page in ("python.md", "writewatch.md"))
    for name in dumper.__all__:
        assert getattr(dumper, name).__doc__, name
        assert f"`{name}" in text, name
    assert not hasattr(dumper, "something_else")


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    script = "import sys, dumper; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    assert not {"cffi", "formats", "streams"} & set(done.stdout.split())


def test_rounds_the_dump_and_a_page_of_it(target: Target, checkpoint: Path) -> None:
    with stopped(target.pid):
        said = ran("complete", target.pid, checkpoint)
        assert not compare(target.pid, checkpoint).mismatches
    assert said[0].startswith("round 1 (pre-dump): ")
    assert any("the predicted freeze fits" in line for line in said)
    assert said[-3].startswith("frozen for ")
    assert said[-2].endswith("rounds are in order")
    assert "/memory" in said[-1], "the path of the program is at the top of its stack"
    assert not tracked_vmas(target.pid)
    target.check()


def test_what_a_process_writes(target: Target) -> None:
    (line,) = ran("observe", target.pid)
    assert "MB/s are written" in line
    assert is_untouched(target.pid)
    target.check()


def test_from_one_to_another_over_tls(target: Target, checkpoint: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    predump("keys", "-o", keys, "--host", "127.0.0.1")
    with started("receive", checkpoint, keys) as receiver:
        assert receiver.stdout
        address = receiver.stdout.readline().strip()
        assert ran("send", target.pid, address, keys) == []
        said, errors = receiver.communicate(timeout=COMMAND_S)
        n_rounds = len(said.splitlines())
        assert n_rounds > 2, "a first one, one or more ahead of the freeze, and the dump"
        assert said == "".join(f"round {number + 1} is on disk\n" for number in range(n_rounds))
        assert errors == ""
        assert receiver.returncode == 0
    assert target.wait() == -9
    predump("verify", checkpoint)


def test_old_rounds_become_one(target: Target, checkpoint: Path) -> None:
    for _ in range(3):
        predump("pre-dump", "-p", target.pid, "-D", checkpoint)
    assert ran("flatten", checkpoint) == ["round 2 is made of 2 rounds, 1 were removed", "rounds now: [2, 3]"]
    assert ran("flatten", checkpoint) == ["rounds now: [2, 3]"]
    predump("verify", checkpoint)


def test_a_session_does_not_kill_what_may_not_have_arrived(target: Target) -> None:
    script = f"""
from dumper import AfterDump, Session, open_stream
with open_stream("-") as stream, Session({target.pid}, stream) as session:
    session.dump(AfterDump.KILL)
"""
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=REPO, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert "UsageError: a target is killed only when its dump is known to be on disk" in done.stderr
    assert is_untouched(target.pid)
    assert not tracked_vmas(target.pid)
    target.check()
