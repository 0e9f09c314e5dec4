"""What lies at a path is told by its content; from then on nobody needs to know."""

from __future__ import annotations

from pathlib import Path

from formats.checkpoint import Checkpoint
from formats.errors import OtherImages
from formats.images import Images


def open_images(path: Path) -> Images:
    """Open a checkpoint of predump's, or one of CRIU's, for those who look into it.

    Raises NotACheckpoint, StorageError; ImageCorrupt where directories of CRIU's refer to one another in a circle.
    """
    try:
        return Checkpoint.open(path)
    except OtherImages:
        # Here, since it takes time to load and is needed for CRIU's alone.
        from formats.criu.reading.checkpoint import CriuCheckpoint  # noqa: PLC0415

        return CriuCheckpoint(path)
