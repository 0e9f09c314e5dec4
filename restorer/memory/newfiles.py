"""Files for memory objects that no name leads to, empty and of no size yet."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from dumper.kernel.shared import anonymous_shared
from formats.manifest import MemoryObject
from restorer.memory import hugepages

MEMFD = "/memfd:"
_ANONYMOUS = "/dev/zero"
ANONYMOUS_HUGE = "/anon_hugepage"
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def make(held: MemoryObject) -> int:
    """A file of its kind, which appears in /proc as the old one did where that can be had. Raises OSError."""
    if held.path.startswith(MEMFD):
        return _memfd(held, held.path.removeprefix(MEMFD))
    if held.path in (_ANONYMOUS, ANONYMOUS_HUGE):
        huge_page_bytes = _huge_page_bytes(held) if held.kind == "hugetlb" else 0
        with suppress(PermissionError):
            return anonymous_shared(held.pages_end_bytes, huge_page_bytes)
    elif held.path.startswith("/"):
        return _without_name(held)
    return _memfd(held, held.path.lstrip("/") or "shared")


def _memfd(held: MemoryObject, name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    if held.kind == "hugetlb":
        flags |= hugepages.memfd_flags(_huge_page_bytes(held))
    return os.memfd_create(name, flags)


def _huge_page_bytes(held: MemoryObject) -> int:
    return hugepages.page_bytes(held.device, held.size_bytes)


def _without_name(held: MemoryObject) -> int:
    """Made by its name and deleted, so that /proc shows that; where it is taken, without any."""
    mode = stat.S_IMODE(held.mode)
    try:
        fd = os.open(held.path, _NEW, mode)
    except FileExistsError:
        return os.open(Path(held.path).parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
    Path(held.path).unlink()
    return fd
