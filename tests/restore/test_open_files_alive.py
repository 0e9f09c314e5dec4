"""A process with descriptors of every kind that can come back: it says itself whether it is what it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from formats.manifest import Manifest
from formats.openfiles import OpenFile, OpenFileKind
from tests.alive import Lives
from tests.answering import Answering
from tests.harness import TARGETS

O_DIRECTORY, O_TMPFILE = 0o200000, 0o20000000


@pytest.fixture
def opened(lives: Lives, tmp_path: Path) -> Iterator[Answering]:
    files = tmp_path / "files"
    files.mkdir()
    with Answering(lives, tmp_path, [TARGETS / "bin" / "descriptors", files, "restorable"]) as target:
        yield target


def test_everything_is_as_it_was(opened: Answering, tmp_path: Path) -> None:
    manifest = opened.die_and_come_back(tmp_path / "checkpoint")
    assert {one.kind for one in manifest.open_files} == set(OpenFileKind) - {OpenFileKind.OTHER}
    assert opened.ask("quit") == "ok"


def test_records_are_the_same_after_three_deaths(opened: Answering, tmp_path: Path) -> None:
    """What a dump says of open files is what it says of those of the restored process."""
    manifests = [opened.die_and_come_back(tmp_path / f"checkpoint-{number}") for number in range(3)]
    first, *others = [described(manifest) for manifest in manifests]
    for other in others:
        assert other == first
    assert opened.ask("quit") == "ok"


def described(manifest: Manifest) -> dict[str, object]:
    """What is open, by process and descriptor, without what a kernel numbers anew and times that go on."""
    files = {one.id: one for one in manifest.open_files}
    pipes = {(pipe.device, pipe.inode): pipe for pipe in manifest.pipes}
    found: dict[str, object] = {}
    for process in manifest.processes:
        assert process.state is not None
        for descriptor in process.state.descriptors:
            one = files[descriptor.open_file]
            where = f"descriptor {descriptor.fd}"
            sharing = [other.fd for other in process.state.descriptors if other.open_file == one.id]
            pipe = pipes.get((one.device, one.inode))
            found[where] = (descriptor.close_on_exec, sharing, plain(one), pipe and replace(pipe, inode=0, device=""))
        found["locks"] = process.state.locks
        found["missing"] = [item.reason for item in process.missing]
    return found


def plain(one: OpenFile) -> OpenFile:
    changes: dict[str, object] = {"id": 0, "object": one.object is not None, "mount_id": 0}
    has_name = one.path.startswith("/") and not one.deleted
    if not has_name:
        changes |= {"inode": 0, "device": "", "path": ""}
    if one.flags & O_TMPFILE:
        changes["flags"] = one.flags & ~O_TMPFILE & ~O_DIRECTORY
    if one.timerfd:
        assert one.timerfd.remaining_ns > 0 or one.timerfd.ticks
        changes["timerfd"] = replace(one.timerfd, remaining_ns=0)
    if one.epoll is not None:
        changes["epoll"] = sorted((watch.fd, watch.events, watch.data) for watch in one.epoll)
    if one.socket:
        options = {name: value for name, value in one.socket.options.items() if name != "so_peercred_pid"}
        changes["socket"] = replace(one.socket, options=options, peer_inode=bool(one.socket.peer_inode))
    return replace(one, **changes)  # type: ignore[arg-type]
