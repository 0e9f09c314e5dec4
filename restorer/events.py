"""What a restore has to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Tell = Callable[[str], None]
"""Takes what came back otherwise than it was, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The processes are there. `pids`: as we see them, in the order of the image; the first is the root's.

    Of the time, `memory_ns` is what the pages took and `resume_ns` what it took to let all of them go.
    """

    round: int
    pids: list[int]
    pages_filled: int
    duration_ns: int
    memory_ns: int
    resume_ns: int
