"""What all forms have in common in which a round is written for other tools."""

from __future__ import annotations

from collections.abc import Callable

from formats.errors import UsageError
from formats.images import Images
from formats.manifest import RoundKind

Progress = Callable[[int, int], None]
"""Called with bytes of page content written, and to be written."""

_MACHINE = "x86_64"


def is_torn(images: Images, number: int | None, *, permitted: bool) -> bool:
    """Whether the round (the selected one for None) is a pre-dump round.

    Raises UsageError if that is not `permitted`, or if the machine is one whose threads predump does not know.
    """
    info = images.round(number)
    if info.manifest.host.machine != _MACHINE:
        raise UsageError(f"Round {info.number} of {images.path} is of a machine of type {info.manifest.host.machine}.")
    torn = info.manifest.kind is RoundKind.PRE_DUMP
    if torn and not permitted:
        raise UsageError(
            f"Round {info.number} of {images.path} is a pre-dump round: its pages are of different moments, and "
            "it has no registers.",
            hint="Name a dump round with --round N, or add --torn to have its pages without registers.",
            round=info.number,
        )
    return torn
