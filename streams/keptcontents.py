"""What page files hold, kept from the check of their frames for who fills memory with it when the round is there."""

from __future__ import annotations

from collections.abc import Sequence

from streams.messages import Begin, Frames, Message, Remove
from streams.roundreceiver import RoundReceiver

MAX_KEPT_BYTES = 64 << 20
"""Of one round; of a larger one nothing is kept."""


class KeptContents:
    """Of the round that arrives: by the name of the file, the contents of its frames."""

    def __init__(self) -> None:
        self._contents: dict[str, list[bytes]] = {}
        self._left_bytes = MAX_KEPT_BYTES

    def see(self, message: Message, contents: Sequence[bytes], round_: RoundReceiver | None) -> None:
        """A message before it is acted upon, with the contents of its frames if it has any. Raises StreamCorrupt."""
        if isinstance(message, Begin):
            self._contents, self._left_bytes = {}, MAX_KEPT_BYTES
        elif round_ and isinstance(message, Remove):
            self._contents.pop(round_.name_of(message.file), None)
        elif round_ and isinstance(message, Frames) and round_.holds_pages(message.file):
            self._left_bytes -= sum(map(len, contents))
            if self._left_bytes < 0:
                self._contents = {}
            else:
                self._contents.setdefault(round_.name_of(message.file), []).extend(contents)

    def take(self) -> dict[str, list[bytes]]:
        """All of them: a file that is not whole here has fewer frames than it has on disk."""
        contents, self._contents = self._contents, {}
        return contents
