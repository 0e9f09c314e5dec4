"""Ids that are to be had again: whoever had them may have ended an instant ago, and not be reaped yet."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from restorer.errors import RestoreFailed

PATIENCE_S = 5.0
ALIVE_PATIENCE_S = 0.5
"""With who has not ended: a process that was just killed takes a moment."""
_POLL_S = 0.005
_MOST_NAMED = 5

_Made = TypeVar("_Made")


def wait_until_free(ids: Iterable[int]) -> None:
    """Until nobody has any of the ids, processes and threads alike. Raises RestoreFailed if some stay taken."""
    start = time.monotonic()
    left = sorted(ids)
    too_high = [number for number in left if number >= _pid_max()]
    if too_high:
        raise RestoreFailed(
            f"Process id {too_high[0]} is more than this system gives: kernel.pid_max is {_pid_max()}.",
            hint=f"Raise it (sysctl kernel.pid_max={too_high[-1] + 1}), or give new ids with --pid new.",
            pid=too_high[0],
        )
    while left := [number for number in left if _is_taken(number)]:
        patience_s = ALIVE_PATIENCE_S if any(map(_is_alive, left)) else PATIENCE_S
        if time.monotonic() > start + patience_s:
            raise _taken(left)
        time.sleep(_POLL_S)


def when_free(number: int, make: Callable[[], _Made]) -> _Made:
    """What `make` makes, tried again while the id is taken. Raises RestoreFailed if it stays so, OSError."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return make()
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            if time.monotonic() > deadline:
                raise _taken([number]) from error
        time.sleep(_POLL_S)


def _pid_max() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text())


def _is_taken(number: int) -> bool:
    """By a process, a thread, or a process group whose leader has ended."""
    if Path(f"/proc/{number}").exists():
        return True
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_alive(number: int) -> bool:
    """Whether a process or thread has it that has not ended."""
    with suppress(OSError):
        return Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2][1:2] not in (b"Z", b"X")
    return False


def _taken(numbers: list[int]) -> RestoreFailed:
    named = ", ".join(f"{number} (by {_holder(number)})" for number in numbers[:_MOST_NAMED])
    more = f", and {len(numbers) - _MOST_NAMED} more" if len(numbers) > _MOST_NAMED else ""
    return RestoreFailed(
        f"Ids of the processes are taken: {named}{more}.",
        hint="End what has them, have a pid namespace made with --pid-namespace, or give new ids with --pid new.",
        pid=numbers[0],
    )


def _holder(number: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{number}/comm").read_text(errors="replace").strip()
    return "a process group or session that still has members"
