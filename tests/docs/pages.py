"""Blocks of the pages in docs/, run as they stand but for a few words that the caller names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.harness import PREDUMP_S, REPO

_BLOCK = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> dict[str, str]:
    """The blocks of docs/PAGE that have a name (the second word behind the fence), by it."""
    found = _BLOCK.findall((REPO / "docs" / page).read_text())
    named = dict(found)
    assert len(named) == len(found), "two blocks have the same name"
    return named


def put_in(block: str, words: Mapping[str, object]) -> str:
    """The block with other words in it, each of which it must have."""
    for word, other in words.items():
        assert word in block, f"{word!r} is not in the block:\n{block}"
        block = block.replace(word, str(other))
    return block


class Shell:
    """Runs blocks in a directory, with `predump` and stand-ins for other commands found first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._bin = directory / "bin"
        self._bin.mkdir()
        self.add("predump", f'PYTHONPATH="{REPO}" exec "{sys.executable}" -m cli "$@"\n')

    def add(self, name: str, script: str) -> Path:
        """A command of that name."""
        path = self._bin / name
        path.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        return path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}"}

    def start(self, block: str, *prefix: str) -> subprocess.Popen[str]:
        """The block under way, by `prefix` if given: a command that runs others."""
        return subprocess.Popen(
            [*prefix, "sh", "-c", block],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, block: str, *prefix: str, expect: int = 0) -> str:
        """Runs it to its end; what it said on standard output. AssertionError unless it exits with `expect`."""
        with self.start(block, *prefix) as process:
            try:
                out, errors = process.communicate(timeout=PREDUMP_S)
            finally:
                process.kill()
        assert process.returncode == expect, f"exit code {process.returncode}\n{block}\n{out}\n{errors}"
        assert "Traceback" not in errors, errors
        return out
