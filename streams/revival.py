"""What a receiver needs of whoever brings processes back: it gives the rounds, and says when they are to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from formats.checkpoint import RoundInfo
from streams.questions import Problem, WantedFile


class Revival(Protocol):
    """The processes of a checkpoint that is still arriving. Called by one OS thread, which owns ptrace.

    Nothing of them runs before `run`, and if this process is killed before, they end with it.
    """

    def problems(self, files: Sequence[WantedFile]) -> list[Problem]:
        """Which of those files are missing here, or are others. May be called by any thread."""

    def prepare(self, info: RoundInfo) -> None:
        """Does ahead what can be done with a pre-dump, which was committed. Raises PredumpError."""

    def complete(self, info: RoundInfo) -> list[str]:
        """Builds all of it, standing still, from a dump; returns what tells each process from a later one.

        Raises PredumpError: nothing is left then.
        """

    def before_run(self) -> None:
        """What is to be done right before they run. Raises PredumpError: they are not to run then."""

    def run(self) -> list[int]:
        """Lets them go; their pids. Raises PredumpError: nothing runs then, and nothing is left."""

    def abort(self) -> None:
        """Ends what does not run. May be called at any time, and again."""

    def is_there(self, processes: Sequence[str]) -> bool:
        """Whether processes that an earlier receiver was to let go are there. May be called by any thread."""
