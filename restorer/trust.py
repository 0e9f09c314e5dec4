"""Whose image it is. A checkpoint is code that will run, with the rights of whoever restores it.

Nobody but its owner, who must be the caller, may have written it, or may put something else in its place meanwhile:

    the directories above   of the caller or of root, written to by nobody else unless they are sticky (/tmp)
    links on the way        of the caller or of root
    DIR, DIR/NNNN, files    of the caller, written to by nobody else; links are none (formats.files)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from formats.layout import IMAGE_NAME, MANIFEST_NAME, round_name
from formats.manifest import Manifest
from restorer.checks.findings import Problem, Subject

ROOT_UID = 0
PATH_MAX = 4096
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MAX_LINKS = 40  # as the kernel: path_resolution(7)
_HINT = "Copy it to a directory of your own if you know where it is from, or insist with --trust."


def distrusted(checkpoint: Path, numbers: list[int], uid: int) -> Iterator[Problem]:
    """What speaks against the rounds `numbers` of a checkpoint, for a caller with the user id `uid`."""
    yield from map(_problem, _on_the_way(checkpoint.absolute(), uid))
    directory = Path(os.path.realpath(checkpoint))
    yield from map(_problem, _own(directory, uid))
    for number in numbers:
        path = directory / round_name(number)
        yield from map(_problem, _own(path, uid))
        try:
            with os.scandir(path) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            yield _problem(f"{path} cannot be listed: {error.strerror}")
            continue
        for name in names:
            if name == MANIFEST_NAME or IMAGE_NAME.fullmatch(name):
                yield from map(_problem, _own(path / name, uid))


def _problem(message: str) -> Problem:
    return Problem(Subject.OWNER, f"{message}.", _HINT)


def _on_the_way(path: Path, uid: int) -> Iterator[str]:
    """What is wrong with the directories above it, and with links on the way to it."""
    pending, place, n_links = list(reversed(path.parts[1:])), Path("/"), 0
    yield from _above(place, uid)
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            place = place.parent
            continue
        try:
            status = (place / name).lstat()
        except OSError as error:
            yield f"{place / name} cannot be looked at: {error.strerror}"
            return
        if not stat.S_ISLNK(status.st_mode):
            place /= name
            if pending:
                yield from _above(place, uid)
            continue
        n_links += 1
        if status.st_uid not in (ROOT_UID, uid) or n_links > _MAX_LINKS:
            yield f"{place / name} is a symbolic link of user {status.st_uid}"
            return
        target = (place / name).readlink()
        pending += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        place = Path("/") if target.is_absolute() else place


def _above(path: Path, uid: int) -> Iterator[str]:
    status = path.stat()
    if status.st_uid not in (ROOT_UID, uid):
        yield f"{path}, a directory above it, belongs to user {status.st_uid}"
    elif status.st_mode & OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        yield f"{path}, a directory above it, can be written to by others"


def _own(path: Path, uid: int) -> Iterator[str]:
    try:
        status = path.lstat()
    except OSError as error:
        yield f"{path} cannot be looked at: {error.strerror}"
        return
    if stat.S_ISLNK(status.st_mode):
        yield f"{path} is a symbolic link"
    elif status.st_uid != uid:
        yield f"{path} belongs to user {status.st_uid}, not to {uid}, who would run what is in it"
    elif status.st_mode & OTHERS_WRITE:
        yield f"{path} can be written to by others"


def strange_paths(manifest: Manifest) -> Iterator[Problem]:
    """Paths that the kernel never tells: it names files from the root on, without detours."""
    for what, path in _paths(manifest):
        if is_strange(path):
            yield Problem(
                Subject.PATH, f"The image names {path[:200]!r} as {what}, which is no path that a kernel tells."
            )


def is_strange(path: str) -> bool:
    """Whether it is relative, endless, or has a detour in it."""
    parts = path.split("/")
    return not path.startswith("/") or len(path) > PATH_MAX or "\0" in path or not {".", ".."}.isdisjoint(parts)


def _paths(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for process in manifest.processes:
        if process.zombie is not None:
            continue
        yield from ((f"a file mapped by process {process.pid}", v.path) for v in process.vmas if v.kind == "file")
        if process.exe:
            yield f"the executable of process {process.pid}", process.exe
        if process.state is not None:
            yield f"the working directory of process {process.pid}", process.state.cwd or "/"
            yield f"the root directory of process {process.pid}", process.state.root or "/"
    for held in manifest.objects:
        if held.kind != "memfd" and held.path.startswith("/"):
            yield f"memory object {held.id}", held.path
    for item in manifest.open_files:
        if item.kind.value in ("file", "directory", "device", "fifo"):
            yield f"open file {item.id}", item.path
        yield from ((f"a file watched by open file {item.id}", one.path) for one in item.inotify or [] if one.path)
