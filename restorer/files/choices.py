"""What the caller of a restore decides about open files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class TerminalChoice(StrEnum):
    """What becomes of a terminal whose other end is not among the processes of the image."""

    REFUSE = "refuse"
    CALLER = "caller"
    """The caller's terminal takes its place."""
    HUNG_UP = "hung-up"
    """It is as if the terminal had been closed: reading says that it ends there, writing fails."""


class TcpChoice(StrEnum):
    """What becomes of established TCP connections."""

    RESTORE = "restore"
    CLOSE = "close"
    """The program has a connection that was reset."""


class OutsideChoice(StrEnum):
    """What becomes of a pipe or Unix connection whose other end is with a process that is not in the image."""

    REFUSE = "refuse"
    CLOSE = "close"
    """It is as if that process had closed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChoices:
    """inherit: the open file behind descriptor N of the root process is the caller's descriptor M (N: M), wherever else
    in the tree that file is open. So a pipe or terminal of the caller takes the place of one that was the caller's
    when the process was started.
    """

    terminal: TerminalChoice = TerminalChoice.REFUSE
    tcp: TcpChoice = TcpChoice.RESTORE
    outside: OutsideChoice = OutsideChoice.REFUSE
    inherit: Mapping[int, int] = field(default_factory=dict)
