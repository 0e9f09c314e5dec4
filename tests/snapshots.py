"""What a terminal shows, kept in files: a change of it is seen in the change of a file."""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORY = Path(__file__).parent / "display" / "snapshots"


def assert_snapshot(name: str, text: str) -> None:
    """Compare with tests/display/snapshots/NAME, which is written anew where UPDATE_SNAPSHOTS is set."""
    path = DIRECTORY / name
    shown = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    if "UPDATE_SNAPSHOTS" in os.environ:
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown)
    assert path.exists(), f"{path} is missing: UPDATE_SNAPSHOTS=1 pytest writes it"
    assert shown == path.read_text(), f"{path} is another one; if it should be: UPDATE_SNAPSHOTS=1 pytest"
