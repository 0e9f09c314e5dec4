"""Pids that are to be had again: whoever had them may have ended an instant ago, and not be reaped yet."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from restorer.errors import RestoreFailed

PATIENCE_S = 5.0
_POLL_S = 0.005

_Made = TypeVar("_Made")


def when_free(pid: int, make: Callable[[], _Made]) -> _Made:
    """What `make` makes, tried again while the pid is taken. Raises RestoreFailed if it stays so, OSError."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return make()
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            if time.monotonic() > deadline:
                raise RestoreFailed(
                    f"Process id {pid} is taken: {_holder(pid)}.",
                    hint="End what has it, or give new ids with --pid new.",
                    pid=pid,
                ) from error
        time.sleep(_POLL_S)


def _holder(pid: int) -> str:
    with suppress(OSError):
        return f"by {Path(f'/proc/{pid}/comm').read_text().strip()}"
    return "its process group or session still has members"
