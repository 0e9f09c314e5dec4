"""Streams as lists of messages: recorded from rounds, and played to a receiver."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from formats.checkpoint import Checkpoint
from formats.layout import RunKind
from streams.errors import StreamBroken
from streams.resend import send_round
from streams.sender import Sender
from streams.transport import Buffer
from tests.format.images import ImageObject, ImageRound, page_of, write_chain, write_tree

ZERO, PARENT = RunKind.ZERO, RunKind.PARENT
FIRST = ImageRound({**{page: page_of(page) for page in range(40)}, 40: ZERO, 50: page_of(50)})
SECOND = ImageRound({**dict.fromkeys(range(39), PARENT), 39: page_of(139), 40: page_of(140), 50: PARENT})


def chain_of(directory: Path) -> Path:
    """A checkpoint of two pre-dumps and a dump with memory objects."""
    write_chain(directory, FIRST, SECOND)
    objects = [ImageObject(3, {0: page_of(1000), 1: ZERO}), ImageObject(7, {5: page_of(1005)})]
    write_tree(directory, 3, {42: ImageRound({0: page_of(7)}), 43: ImageRound({3: page_of(8)})}, objects)
    return directory


class Recorder:
    """A transport that keeps what is sent, and acknowledges all of it."""

    acknowledges = True

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def send(self, parts: Sequence[Buffer]) -> int:
        self.messages.append(b"".join(parts))
        return len(self.messages)

    def wait_for(self, number: int) -> None:
        assert number <= len(self.messages)

    def give_up(self) -> None:
        """Nobody waits."""

    def close(self) -> None:
        """Nothing is held."""


def recorded(checkpoint: Path) -> list[bytes]:
    """The messages of a whole checkpoint."""
    recorder = Recorder()
    sender = Sender(recorder)
    opened = Checkpoint.open(checkpoint)
    sender.greet(None, opened.numbers[0])
    with ThreadPoolExecutor(1) as checkers:
        for info in opened.rounds:
            send_round(sender, info, checkers)
    return recorder.messages


class Player:
    """Plays messages to a receiver, from the one behind `first` on; with `breaks` it does not come to its end."""

    def __init__(self, messages: Sequence[bytes], *, first: int = 0, breaks: bool = False) -> None:
        self._messages = messages
        self._position = first
        self._breaks = breaks
        self.acknowledged = first
        self.refusal: tuple[str, int] | None = None

    def receive(self) -> bytes | None:
        if self._position == len(self._messages):
            if self._breaks:
                raise StreamBroken("the connection is gone")
            return None
        self._position += 1
        return self._messages[self._position - 1]

    def acknowledge(self, number: int) -> None:
        assert self.acknowledged < number <= self._position
        self.acknowledged = number

    def refuse(self, message: str, hint: str, exit_code: int) -> None:
        assert hint
        self.refusal = (message, exit_code)

    def close(self) -> None:
        """Nothing is held."""


def tree_of(directory: Path) -> dict[str, bytes]:
    """All files below a directory, by their path in it."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
