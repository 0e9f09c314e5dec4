"""What was found of a round: obstacles and differences, each thing once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """What stands in the way of a restore, or comes back otherwise, and why; `pid` of null is the whole round."""

    pid: int | None
    what: str
    reason: str


class Verdict:
    """Obstacles and warnings, in the order in which they were found; of the same thing the first reason stays."""

    def __init__(self) -> None:
        self._stopping: dict[tuple[int | None, str], Obstacle] = {}
        self._differing: dict[tuple[int | None, str], Obstacle] = {}

    def stop(self, pid: int | None, what: str, reason: str) -> None:
        """Without it the process would not be what it was: no restore."""
        self._differing.pop((pid, what), None)
        self._stopping.setdefault((pid, what), Obstacle(pid=pid, what=what, reason=reason))

    def differ(self, pid: int | None, what: str, reason: str) -> None:
        """It comes back otherwise than it was, in a way that a process must be ready for."""
        if (pid, what) not in self._stopping:
            self._differing.setdefault((pid, what), Obstacle(pid=pid, what=what, reason=reason))

    def forget(self, pid: int | None, what: str) -> None:
        """It is not what the process comes back with."""
        self._stopping.pop((pid, what), None)
        self._differing.pop((pid, what), None)

    @property
    def obstacles(self) -> list[Obstacle]:
        """What stands in the way."""
        return list(self._stopping.values())

    @property
    def warnings(self) -> list[Obstacle]:
        """What comes back otherwise."""
        return list(self._differing.values())

    @property
    def is_restorable(self) -> bool:
        """Whether nothing stands in the way."""
        return not self._stopping
