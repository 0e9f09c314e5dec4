"""Random operations and commands in a row: each dump equals the memory, and the target never comes to harm."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from tests.harness import Target
from tests.stress.player import Harmed, Player
from tests.stress.sequences import Sequence, sequence
from tests.tally import Count, Tally

pytestmark = pytest.mark.usefixtures("targets")

DEFAULT_S = 25.0


def play(drawn: Sequence, directory: Path, tally: Tally) -> None:
    """Plays it; AssertionError that tells all of it if something is wrong."""
    directory.mkdir()
    tally.add(Count.SEQUENCES)
    tally.add(Count.TARGETS_HARMED, 0)
    again = f"again: pytest tests/stress --seed {drawn.seed}\n{drawn}"
    with Target.spawn("churn", directory / "file") as target:
        try:
            with Player(drawn, target, directory, tally) as player:
                player.play()
        except Exception as error:
            if isinstance(error, Harmed) or not target.alive():
                tally.add(Count.TARGETS_HARMED)
            raise AssertionError(f"{type(error).__name__}: {error}\n{again}") from error


def test_random_sequences(
    tmp_path: Path, tally: Tally, first_seed: int, seed: int | None, seconds: float | None
) -> None:
    """As many as fit the time; with --seed and no --seconds that one only."""
    end = time.monotonic() + (DEFAULT_S if seconds is None else seconds)
    for number in itertools.count():
        play(sequence(first_seed + number), tmp_path / str(number), tally)
        if time.monotonic() > end or (seed is not None and seconds is None):
            break


def test_a_sequence_is_drawn_from_its_seed_alone() -> None:
    assert str(sequence(7)) == str(sequence(7))
    assert str(sequence(7)) != str(sequence(8))
