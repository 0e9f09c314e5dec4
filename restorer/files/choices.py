"""What the caller of a restore decides about open files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

OUTSIDE = "its other end is with a process that is not in the image"
"""Why something is refused that the caller may have closed, or give something else for."""


class TcpChoice(StrEnum):
    """What becomes of established TCP connections."""

    RESTORE = "restore"
    CLOSE = "close"
    """The program has a connection that was reset."""


class OutsideChoice(StrEnum):
    """What becomes of a pipe, Unix connection or terminal whose other end is with a process outside of the image."""

    REFUSE = "refuse"
    CLOSE = "close"
    """It is as if that process had closed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChoices:
    """tty: the caller's terminal takes the place of one whose other end is outside.

    inherit: the open file behind descriptor N of the root process is the caller's descriptor M (N: M), wherever else
    in the tree that file is open. So a pipe or terminal of the caller takes the place of one that was the caller's
    when the process was started.
    """

    tty: bool = False
    outside: OutsideChoice = OutsideChoice.REFUSE
    tcp: TcpChoice = TcpChoice.RESTORE
    inherit: Mapping[int, int] = field(default_factory=dict)
