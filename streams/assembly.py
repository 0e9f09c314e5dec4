"""What a receiver holds: messages that came over several connections, put in order again, within the window."""

from __future__ import annotations

from collections import deque

from streams.errors import StreamCorrupt
from streams.transport import Buffer
from streams.wire import cost


class Assembly:
    """Messages up to `wanted` (exclusive) are received in order; of those some wait to be taken."""

    def __init__(self, wanted: int, window_bytes: int) -> None:
        self.wanted = wanted
        self._window_bytes = window_bytes
        self._ready: deque[Buffer] = deque()
        self._ahead: dict[int, Buffer | None] = {}  # None: it is being received
        self._held_bytes = 0  # what all of these take of the window

    def begin(self) -> None:
        """New connections bring again what comes after the messages in order."""
        self._ahead.clear()
        self._held_bytes = sum(cost(len(message)) for message in self._ready)

    def expect(self, number: int, n_bytes: int) -> None:
        """Makes room for a message, of which the header came. Raises StreamCorrupt unless it may come now."""
        if number < self.wanted or number in self._ahead:
            raise StreamCorrupt(f"Message {number} came twice.")
        if self._held_bytes + cost(n_bytes) > self._window_bytes:
            raise StreamCorrupt(f"With message {number} of {n_bytes} bytes, more was sent than the window takes.")
        self._ahead[number] = None
        self._held_bytes += cost(n_bytes)

    def put(self, number: int, message: Buffer) -> None:
        """The message that was expected."""
        self._ahead[number] = message
        while (following := self._ahead.get(self.wanted)) is not None:
            del self._ahead[self.wanted]
            self._ready.append(following)
            self.wanted += 1

    @property
    def is_ready(self) -> bool:
        """Whether there is a message to take."""
        return bool(self._ready)

    def take(self) -> Buffer | None:
        """The next message in order, if it has come."""
        if not self._ready:
            return None
        message = self._ready.popleft()
        self._held_bytes -= cost(len(message))
        return message
