"""Each thing that is to come back: after one death, after five in a row, and byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.alive import Alive, Lives

# Parts by program; all of them where there is none.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "alive-memory": (),
    "alive-threads": (),
    "alive-signals": (),
    "alive-calls": ("deeds", "left", "files"),
    "alive-process": (),
}


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize("program", PROGRAMS)
def test_all_is_as_it_was_after_five_deaths(program: str, lives: Lives, home: Path, tmp_path: Path) -> None:
    target = Alive(lives, home / "target", program, *PROGRAMS[program])
    assert target.check() == {}
    for number in range(5):
        checkpoint = tmp_path / f"checkpoint-{number}"
        target.die(checkpoint)
        assert target.come_back(checkpoint)[0] == target.pid
        assert target.check() == {}


def test_calls_wait_at_least_as_long_as_they_were_told(lives: Lives, home: Path, tmp_path: Path) -> None:
    target = Alive(lives, home / "target", "alive-calls", "times")
    target.die(tmp_path / "checkpoint")
    target.come_back(tmp_path / "checkpoint")
    assert target.check() == {}
