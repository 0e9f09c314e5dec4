"""Files below a directory that stands for the root of another machine, whose links must not lead out of it."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path

_MAX_LINKS = 40  # as the kernel: path_resolution(7)
_MAX_NAMES = 4096
_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK and O_NOCTTY: for what takes the place of a regular file after it was looked at.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_below(root: Path, path: str) -> int | None:
    """Descriptor of the regular file that `path` means where `root` is the root; None if there is none to be read.

    As openat2(2) with RESOLVE_IN_ROOT: absolute links and ".." start and end at `root`. Each name is opened in the
    directory that the one before it led to, so that nobody who renames meanwhile leads the walk elsewhere. `path` is
    decoded with surrogateescape, and may be hostile.
    """
    try:
        with ExitStack() as opened:
            return _walk(root, os.fsencode(path), opened)
    except (OSError, ValueError):  # no such file, no permission; no possible name
        return None


def _walk(root: Path, path: bytes, opened: ExitStack) -> int | None:
    def enter(name: str | bytes | Path, flags: int, parent_fd: int | None) -> int:
        fd = os.open(name, flags, dir_fd=parent_fd)
        opened.callback(os.close, fd)
        return fd

    # The directories from the root to where the walk is: "..", wherever it comes from, goes back to one of them.
    directories = [enter(root, _WALK & ~os.O_NOFOLLOW, None)]
    names = _names(path)
    links = 0
    while names:
        name = names.pop()
        if name == b"..":
            directories = directories[: max(1, len(directories) - 1)]
            continue
        kind = stat.S_IFMT(os.stat(name, dir_fd=directories[-1], follow_symlinks=False).st_mode)
        if kind == stat.S_IFLNK:
            links += 1
            target = os.readlink(name, dir_fd=directories[-1])
            if links > _MAX_LINKS or len(names) > _MAX_NAMES:
                return None
            if target.startswith(b"/"):
                directories = directories[:1]
            names += _names(target)
        elif names:
            directories.append(enter(name, _WALK, directories[-1]))
        elif kind == stat.S_IFREG:
            fd = os.open(name, _READ, dir_fd=directories[-1])
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
    return None


def _names(path: bytes) -> list[bytes]:
    """The names of a path, the first one last."""
    return [name for name in reversed(path.split(b"/")) if name not in {b"", b"."}]
