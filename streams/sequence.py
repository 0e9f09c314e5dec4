"""Messages in the one order that makes sense: a hello, then one round after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from formats.checkpoint import RoundInfo
from formats.errors import ImageVersionUnsupported
from formats.layout import SCHEMA_VERSION
from formats.roundwriter import RoundWriter
from streams.errors import StreamRefused
from streams.messages import (
    PROTOCOL_VERSION,
    Ask,
    Begin,
    Content,
    File,
    Frames,
    Hello,
    Message,
    Remove,
    corrupt,
)
from streams.roundreceiver import Budget, RoundReceiver

Intend = Callable[[int, str], None]
"""Called with the number of a round and the SHA-256 of its manifest right before it is committed."""


class Sequence:
    """Acts on messages. `last` is the round committed last, `round` the one that has begun."""

    def __init__(self, path: Path, last: RoundInfo | None, budget: Budget, intend: Intend) -> None:
        self.last = last
        self.round: RoundReceiver | None = None
        self._path = path
        self._budget = budget
        self._intend = intend
        self._is_greeted = False
        self._next_number = 1

    def go_on(self) -> None:
        """The hello was there before: the next round is the one behind `last`."""
        self._is_greeted = True
        self._next_number = self.last.number + 1 if self.last else 1

    def act_on(self, message: Message, open_writer: Callable[[Path, int], RoundWriter] = RoundWriter) -> None:
        """Raises StreamCorrupt, StreamRefused, TooLarge, ImageVersionUnsupported, StorageError."""
        round_ = self.round
        if isinstance(message, Hello):
            self._greet(message)
        elif not self._is_greeted:
            raise corrupt("it does not begin with a hello")
        elif isinstance(message, Begin):
            self._begin(message, open_writer)
        elif isinstance(message, Ask | Content):
            if round_ is not None:
                raise corrupt("a question comes in the middle of a round")
        elif round_ is None:
            raise corrupt("a file or a manifest comes outside of a round")
        elif isinstance(message, File):
            round_.file(message)
        elif isinstance(message, Remove):
            round_.remove(message)
        elif isinstance(message, Frames):
            round_.frames(message)
        else:
            committed = round_.part(message, lambda sha256: self._intend(round_.number, sha256))
            if committed is not None:
                self.round = None
                self.last = committed
                self._next_number = committed.number + 1

    def end(self) -> None:
        """Raises StreamCorrupt if this is no place to end."""
        if self.round is not None:
            raise corrupt(f"it ends in the middle of round {self.round.number}")

    def abandon(self) -> None:
        """Removes the round that has begun, if any."""
        if self.round is not None:
            self.round.abandon()
            self.round = None

    def _greet(self, hello: Hello) -> None:
        if self._is_greeted:
            raise corrupt("a hello comes in the middle")
        if (hello.version, hello.schema) != (PROTOCOL_VERSION, SCHEMA_VERSION):
            raise ImageVersionUnsupported(
                f"The sender speaks version {hello.version} of the protocol, with images of schema {hello.schema}; "
                f"this version of predump takes {PROTOCOL_VERSION} and {SCHEMA_VERSION}.",
                hint="Use the same version of predump on both sides.",
            )
        if not _follows(hello, self.last):
            raise _does_not_follow(hello, self._path, self.last)
        self._is_greeted = True
        self._next_number = hello.round + 1

    def _begin(self, message: Begin, open_writer: Callable[[Path, int], RoundWriter]) -> None:
        number = self._next_number
        if self.round is not None:
            raise corrupt(f"round {message.round} begins before round {self.round.number} has ended")
        if message.round != number:
            raise corrupt(f"round {message.round} comes where round {number} belongs")
        self.round = RoundReceiver(open_writer(self._path, number), number, self.last, self._budget)


def _follows(hello: Hello, last: RoundInfo | None) -> bool:
    """Whether the rounds to come go on where this checkpoint ends; one without any may begin with any round."""
    if last is None:
        return not any(hello.checkpoint_id) and not any(hello.sha256)
    here = bytes.fromhex(last.manifest.checkpoint_id), last.number
    return (hello.checkpoint_id, hello.round) == here and last.is_known_as(hello.sha256.hex())


def _does_not_follow(hello: Hello, path: Path, last: RoundInfo | None) -> StreamRefused:
    is_new = not any(hello.checkpoint_id)
    comes = "begins a new checkpoint" if is_new else f"goes on behind round {hello.round} of a checkpoint"
    has = f"has another one up to round {last.number}" if last else "has no round yet"
    if last is not None and hello.checkpoint_id.hex() == last.manifest.checkpoint_id:
        has = f"has it up to round {last.number}"
    return StreamRefused(
        f"the stream {comes}, but {path} {has}",
        hint="Receive it into another directory, or send what comes behind the rounds that are there (--from).",
        path=str(path),
    )
