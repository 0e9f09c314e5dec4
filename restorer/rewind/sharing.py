"""Who else uses what a process has: memory objects, and open file descriptions with their offsets and flags."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from dumper.filesystems import device_name
from dumper.kernel.files import number_descriptions
from dumper.proc import GONE_ERRORS

FileKey = tuple[int, int]
"""st_dev, st_ino."""


class SharedMode(StrEnum):
    """What becomes of what others might use too: put back if nobody does, in any case, or never."""

    ALONE = "alone"
    ALWAYS = "always"
    NEVER = "never"


def user_of_object(device: str, inode: int, pid: int) -> int:
    """A process that maps it or has it open, other than `pid`; 0 if there is none that the caller may look at."""
    named = f" {device} {inode} "
    for other in _others(pid):
        with suppress(PermissionError, *GONE_ERRORS):
            if named in Path(f"/proc/{other}/maps").read_text(errors="replace"):
                return other
            if any((device_name(key[0]), key[1]) == (device, inode) for _, key in _open_by(other)):
                return other
    return 0


def users_of_files(tid: int, pid: int, fds: Iterable[int]) -> dict[int, int]:
    """For each descriptor of a stopped process that another process shares (dup(2), fork(2)), one of those others.

    What the caller may not look at is taken to be nobody's.
    """
    wanted: dict[FileKey, list[int]] = {}
    for fd in fds:
        with suppress(OSError):
            wanted.setdefault(_key(f"/proc/{tid}/fd/{fd}"), []).append(fd)
    groups = {key: number for number, key in enumerate(wanted)}
    refs = [(tid, fd, groups[key]) for key, ours in wanted.items() for fd in ours]
    owners = {}
    for other in _others(pid) if wanted else ():
        with suppress(PermissionError, *GONE_ERRORS):
            for fd, key in _open_by(other):
                if key in groups:
                    refs.append((other, fd, groups[key]))
                    owners[other, fd] = other
    numbers = number_descriptions(refs)
    sharer = {numbers[ref]: other for ref, other in owners.items()}
    return {fd: sharer[numbers[tid, fd]] for ours in wanted.values() for fd in ours if numbers[tid, fd] in sharer}


def _others(pid: int) -> list[int]:
    own = {pid, os.getpid()}
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in own]  # noqa: PTH208


def _open_by(pid: int) -> Iterator[tuple[int, FileKey]]:
    """Raises OSError: PermissionError, those of a process that is gone."""
    for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 -- in a stop
        with suppress(FileNotFoundError):
            yield int(name), _key(f"/proc/{pid}/fd/{name}")


def _key(path: str) -> FileKey:
    status = os.stat(path)  # noqa: PTH116 -- in a stop
    return status.st_dev, status.st_ino
