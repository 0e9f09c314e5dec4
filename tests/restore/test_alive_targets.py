"""The targets themselves: alone they find nothing wrong, and they notice each thing that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.alive import Alive, Lives

PROGRAMS = ("alive-memory", "alive-threads", "alive-signals", "alive-calls", "alive-process")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_target_notices_what_is_wrong(program: str, lives: Lives, home: Path) -> None:
    target = Alive(lives, home / "target", program)
    assert target.check() == {}
    for part in target.parts:
        target.spoil(part)
        assert part in target.check(part)
