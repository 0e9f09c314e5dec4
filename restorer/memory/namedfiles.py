"""Shared memory that has a name: a file of tmpfs or hugetlbfs, which may be there, and be used by others.

the same file, and nobody has it open       its contents are put back
the same file, and others use it            it is left as it is, as if the process had been stopped for a while
one that a killed restore had begun         made anew
another file                                refused: it may be somebody's
none                                        made anew
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from dumper.filesystems import device_name, hugetlb_devices, shmem_devices
from formats.manifest import MemoryObject
from restorer.errors import RestoreFailed

_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_UNFINISHED = "user.predump.unfinished"
"""The extended attribute of a file that is not whole yet: tmpfs has them since Linux 6.6."""


class Found(Enum):
    """How a file was found: MADE anew and empty, OURS alone, or USED by others."""

    MADE = auto()
    OURS = auto()
    USED = auto()


def open_named(held: MemoryObject, *, same_boot: bool, is_whole: bool) -> tuple[int, Found]:
    """A descriptor of the file of its path. `is_whole`: the image has all of its contents.

    Raises RestoreFailed, OSError.
    """
    try:
        found = os.lstat(held.path)
    except FileNotFoundError:
        return _make(held, is_whole=is_whole), Found.MADE
    is_same = same_boot and (device_name(found.st_dev), found.st_ino) == (held.device, held.inode)
    if not is_same and stat.S_ISREG(found.st_mode) and _take_away_unfinished(held.path):
        return _make(held, is_whole=is_whole), Found.MADE
    if not (is_same and stat.S_ISREG(found.st_mode)):
        raise RestoreFailed(
            f"{held.path} is another file than the one that was mapped.",
            hint="Move it away: the file that was there is made anew.",
            path=held.path,
        )
    fd = os.open(held.path, _OPEN)
    return fd, Found.OURS if _is_ours_alone(fd) else Found.USED


def _make(held: MemoryObject, *, is_whole: bool) -> int:
    """Only where files are memory: nothing else is made by a name of an image."""
    parent = Path(held.path).parent
    device = device_name(parent.stat().st_dev)
    if device not in shmem_devices(os.getpid()) | hugetlb_devices(os.getpid()):
        raise RestoreFailed(
            f"{held.path} is gone, and {parent} is no place of shared memory (tmpfs) here.",
            hint="Mount one there, or put the file there.",
            path=held.path,
        )
    if not is_whole:
        raise RestoreFailed(
            f"{held.path} is gone, and the image has only what was mapped of it.",
            hint="Put the file there.",
            path=held.path,
        )
    fd = os.open(held.path, _OPEN | os.O_CREAT | os.O_EXCL, stat.S_IMODE(held.mode))
    with suppress(OSError):
        os.setxattr(fd, _UNFINISHED, b"")
    return fd


def finish(fd: int) -> None:
    """One that was made is whole, and stays."""
    with suppress(OSError):
        os.removexattr(fd, _UNFINISHED)


def _take_away_unfinished(path: str) -> bool:
    """Whether it was what a restore had begun that was killed."""
    with suppress(OSError):
        fd = os.open(path, _OPEN)
        try:
            os.getxattr(fd, _UNFINISHED)
            if _is_ours_alone(fd):
                Path(path).unlink()
                return True
        finally:
            os.close(fd)
    return False


def _is_ours_alone(fd: int) -> bool:
    """Whether nobody else has it open or mapped: who has may not have a lease for writing, fcntl(2)."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return False
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True
