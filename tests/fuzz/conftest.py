"""The checkpoints that are damaged, made once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fuzz.readers import Ending, commands_on, run
from tests.fuzz.samples import Files, Sample, dumped, hand_made, write_files


class Bench:
    """A sample at a place of its own, with what every command says of it undamaged."""

    def __init__(self, sample: Sample, directory: Path) -> None:
        self.sample = sample
        self.checkpoint = directory / "checkpoint"
        self.out = directory / "out" / "core"
        self.out.parent.mkdir()
        self.words = commands_on(self.checkpoint, sample, self.out)
        self.undamaged = {ending.words: ending for ending in self.endings(sample.files)}
        assert [ending.stderr for ending in self.undamaged.values() if ending.exit_code] == []

    def endings(self, files: Files, chosen: Sequence[int] | None = None) -> list[Ending]:
        """How commands end (the chosen ones, or all) where the checkpoint has these files."""
        write_files(self.checkpoint, files)
        words = self.words if chosen is None else [self.words[index] for index in chosen]
        return [run(item) for item in words]

    def misread(self, ending: Ending) -> bool:
        """Whether it ended well with anything but what the undamaged checkpoint gives."""
        return ending.exit_code == 0 and ending.output != self.undamaged[ending.words].output


@pytest.fixture(scope="session")
def made_by_hand(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    sample = hand_made(tmp_path_factory.mktemp("made") / "checkpoint")
    return Bench(sample, tmp_path_factory.mktemp("by-hand"))


@pytest.fixture(scope="session")
def dumped_by_predump(tmp_path_factory: pytest.TempPathFactory, targets: None) -> Bench:  # noqa: ARG001
    sample = dumped(tmp_path_factory.mktemp("dumped"))
    return Bench(sample, tmp_path_factory.mktemp("by-predump"))


@pytest.fixture(params=["made_by_hand", "dumped_by_predump"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Each of the two."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Bench)
    return found
