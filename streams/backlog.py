"""What a sender holds: messages that are not acknowledged, and which of them goes over the connections next."""

from __future__ import annotations

from collections.abc import Sequence

from streams.errors import StreamBroken, StreamCorrupt
from streams.transport import Buffer
from streams.wire import Welcome, cost


class Backlog:
    """Messages by number. Those from `acked` + 1 to `last` are held; each generation takes them in order."""

    def __init__(self) -> None:
        self.acked = 0
        self.last = 0
        self.held_bytes = 0
        """What the held messages take of a window."""
        self._parts: dict[int, Sequence[Buffer]] = {}
        self._begin = self._next = 1  # taken by this generation: from, and up to (exclusive)
        self._flying_bytes = 0  # what those of them take that are not acknowledged
        self._receiver_bytes = 0  # at most
        self._sent = 0  # the highest number ever taken

    def append(self, parts: Sequence[Buffer]) -> int:
        """Holds one more message; its number."""
        self.last += 1
        self._parts[self.last] = parts
        self.held_bytes += _cost(parts)
        return self.last

    def begin(self, welcome: Welcome) -> None:
        """A new generation goes on with what the receiver says that it wants.

        Raises StreamBroken if that is gone, StreamCorrupt if it never was.
        """
        if welcome.wanted <= self.acked:
            raise StreamBroken(
                f"The receiver wants message {welcome.wanted}, but had acknowledged all up to {self.acked}.",
                hint="What it had written is gone there: begin anew, into a new directory.",
            )
        if welcome.wanted > self._sent + 1:
            raise StreamCorrupt(f"The receiver wants message {welcome.wanted}, but {self._sent} was the last one sent.")
        self.acknowledge(welcome.acked)
        self._begin = self._next = welcome.wanted
        self._flying_bytes = 0
        self._receiver_bytes = welcome.window_bytes

    def take(self) -> tuple[int, Sequence[Buffer]] | None:
        """The next message and its number, if there is one that the receiver has room for."""
        if self._next > self.last:
            return None
        parts = self._parts[self._next]
        if self._flying_bytes + _cost(parts) > self._receiver_bytes:
            return None
        self._flying_bytes += _cost(parts)
        self._next += 1
        self._sent = max(self._sent, self._next - 1)
        return self._next - 1, parts

    def acknowledge(self, number: int) -> None:
        """Forgets the messages up to that one. Raises StreamCorrupt for one that was not sent."""
        if number > self._sent:
            raise StreamCorrupt(f"The receiver acknowledges message {number}, but {self._sent} was the last one sent.")
        while self.acked < number:
            self.acked += 1
            parts = self._parts.pop(self.acked)
            self.held_bytes -= _cost(parts)
            if self._begin <= self.acked < self._next:
                self._flying_bytes -= _cost(parts)


def _cost(parts: Sequence[Buffer]) -> int:
    return cost(sum(map(len, parts)))
