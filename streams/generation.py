"""A sender's times with connections, and those without."""

from __future__ import annotations

import time
from collections.abc import Sequence

from streams.connection import Connection, Timing
from streams.control import Control


class Generation:
    """The connections of one time that the session connected."""

    def __init__(self, connections: Sequence[Connection], timing: Timing) -> None:
        self.control = Control(connections[0], timing)
        self.data = connections[1:]
        self.why_lost = ""

    def lose(self, why: str) -> None:
        """Ends all connections, in whatever threads they are; under the lock. The first reason counts."""
        self.why_lost = self.why_lost or why
        self.control.cut()
        for connection in self.data:
            connection.cut()


class Outage:
    """A time without a connection of any use: how long it may take, and when to try again."""

    def __init__(self, timing: Timing) -> None:
        self._end_s = time.monotonic() + timing.reconnect_s
        self._max_pause_s = timing.max_retry_s
        self._pause_s = 0.0

    def is_too_long(self) -> bool:
        """Whether it is time to give up."""
        return time.monotonic() > self._end_s

    def next_pause_s(self) -> float:
        """Longer each time; first none."""
        pause_s, self._pause_s = self._pause_s, min(max(self._pause_s * 2, 0.1), self._max_pause_s)
        return min(pause_s, max(self._end_s - time.monotonic(), 0.0) + 0.01)
