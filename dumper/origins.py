"""Processes that a restore has brought back: in the checkpoint that they came from they go on as who they were there.

A note in the runtime directory says so of each, for as long as it lives; it is known by pid and start time as ever.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dumper.lease import runtime_dir
from dumper.proc import GONE_ERRORS
from dumper.proc.stat import read_stat
from dumper.target import Target
from formats.errors import StorageError

_SUFFIX = ".origin"


class Origin(NamedTuple):
    """The start time of a process in images, and on which boot that was."""

    start_time_ticks: int
    boot_id: str


def note(target: Target, origin: Origin) -> None:
    """That the target was restored. Raises StorageError, PermissionDenied."""
    directory = runtime_dir()
    for path in directory.glob(f"*{_SUFFIX}"):
        if not _lives(path):
            path.unlink(missing_ok=True)
    path = _path(target)
    try:
        path.write_text(json.dumps(origin))
    except OSError as error:
        raise StorageError.from_os_error("write", path, error) from error


def of(target: Target) -> Origin | None:
    """Who the target was in images; None if it was not restored, or nobody noted it."""
    with suppress(OSError, ValueError):
        ticks, boot_id = json.loads(_path(target).read_text())
        return Origin(int(ticks), str(boot_id))
    return None


def image_ticks(target: Target) -> int:
    """The start time that the target has in images."""
    origin = of(target)
    return target.start_time_ticks if origin is None else origin.start_time_ticks


def _path(target: Target) -> Path:
    return runtime_dir() / f"{target.pid}-{target.start_time_ticks}{_SUFFIX}"


def _lives(path: Path) -> bool:
    try:
        pid, ticks = map(int, path.stem.split("-"))
        return read_stat(pid).start_time_ticks == ticks
    except (ValueError, *GONE_ERRORS):
        return False
