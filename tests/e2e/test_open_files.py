"""A dump of the command line holds the open files of a tree, with the bytes that are nowhere else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from formats.checkpoint import Checkpoint
from formats.layout import PAGE_BYTES
from formats.manifest import Manifest
from formats.openfiles import OpenFileKind
from formats.sources import ObjectSources
from tests.harness import Target, predump

pytestmark = pytest.mark.usefixtures("targets")


def content_of(checkpoint: Path, number: int) -> bytes:
    """What the last round holds of a memory object, of less than a page."""
    info = Checkpoint.open(checkpoint).round()
    sources = ObjectSources(info)
    try:
        ((_, _, run),) = sources.pieces(number, 0, PAGE_BYTES)
        assert run is not None
        return sources.read(number, run.page_index, 1).rstrip(b"\0")
    finally:
        sources.close()


def manifest_of(checkpoint: Path) -> Manifest:
    return Checkpoint.open(checkpoint).round().manifest


def test_open_files_of_a_tree(tmp_path: Path, checkpoint: Path) -> None:
    with Target.spawn("descriptors", tmp_path) as running:
        words = dict(word.split("=") for word in running.command("info").split()[1:-1])
        done = predump("dump", "-t", running.pid, "-D", checkpoint)
        assert "Not captured:" in done.stdout
        running.check()
    manifest = manifest_of(checkpoint)
    assert {process.pid for process in manifest.processes} == {running.pid, int(words["child"])}
    kinds = Counter(one.kind for one in manifest.open_files)
    assert set(kinds) | {OpenFileKind.OTHER} == set(OpenFileKind)
    by_id = {one.id: one for one in manifest.open_files}
    states = {process.pid: process.state for process in manifest.processes}
    state = states[running.pid]
    assert state is not None
    for name, expected in (("deleted", b"bytes of a file without a name"), ("memfd", b"bytes of a memfd")):
        (descriptor,) = [one for one in state.descriptors if one.fd == int(words[name])]
        number = by_id[descriptor.open_file].object
        assert number is not None
        assert content_of(checkpoint, number) == expected
    predump("verify", checkpoint)
    predump("inspect", checkpoint)


def test_strict_refuses_before_anything_is_touched(tmp_path: Path, checkpoint: Path) -> None:
    with Target.spawn("descriptors", tmp_path) as running:
        done = predump("dump", "-t", running.pid, "-D", checkpoint, "--strict", expect=1)
        assert "TCP connections" in done.stderr
        assert not checkpoint.exists() or not [one for one in checkpoint.iterdir() if one.name.isdigit()]
        running.check()
