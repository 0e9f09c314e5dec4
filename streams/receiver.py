"""The receiving side: messages in, committed rounds out. Nothing that arrives is believed.

    one thread receives and decodes -> some decompress and check frames -> the caller's writes, commits and acknowledges

The queue between them is bounded, and with it the memory. What a message says is acted upon in the order of messages.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from formats.checkpoint import Checkpoint, RoundInfo
from formats.checkpointlock import CheckpointLock
from formats.closing import Closing
from formats.errors import ImageVersionUnsupported, NotACheckpoint, PredumpError
from formats.layout import SCHEMA_VERSION
from formats.replacing import tidy_up
from formats.roundwriter import RoundWriter
from streams.errors import StreamRefused
from streams.messages import (
    PROTOCOL_VERSION,
    Begin,
    File,
    Frames,
    Hello,
    Holds,
    Message,
    Part,
    Remove,
    corrupt,
    decode,
)
from streams.roundreceiver import Budget, RoundReceiver, check_frames
from streams.transport import Incoming

QUEUED_MESSAGES = 4
DEFAULT_MAX_BYTES = 1 << 62


@dataclass(slots=True)
class _Arrived:
    """A message, and the check of its frames; or the end (no message), or why there are no more."""

    message: Message | None = None
    checked: Future[None] | None = None
    error: BaseException | None = None


class Receiver(Closing):
    """Writes what arrives into a checkpoint directory, which it locks. `last` is the round committed last."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        threads: int = 2,
        on_round: Callable[[RoundInfo], None] = lambda _: None,
    ) -> None:
        """Makes the directory if it is missing. `on_round` is called after each commit.

        Raises StorageError, CheckpointBusy, ImageCorrupt.
        """
        self.path = path
        self._on_round = on_round
        self._budget = Budget(max_bytes)
        self._round: RoundReceiver | None = None
        self._greeted = False
        self._number = 0  # of the last message that is in its place
        self._lock = CheckpointLock(path)
        try:
            self.removed = tidy_up(path)
            self.last = _last_round(path)
        except BaseException:
            self._lock.close()
            raise
        self._checkers = ThreadPoolExecutor(threads, thread_name_prefix="check")

    def take(self, incoming: Incoming) -> None:
        """Takes one session to its end; the sender is told why if that is not the one it meant.

        A round that was not completed is removed. Raises StreamCorrupt, StreamBroken, StreamRefused, TooLarge,
        ImageVersionUnsupported, StorageError.
        """
        arrived: queue.Queue[_Arrived] = queue.Queue(QUEUED_MESSAGES)
        threading.Thread(target=self._receive, args=(incoming, arrived), name="receive", daemon=True).start()
        try:
            while (item := arrived.get()).message is not None:
                if item.checked is not None:
                    item.checked.result()
                self._act_on(item.message)
                self._number += 1
                incoming.acknowledge(self._number)
            if item.error is not None:
                raise item.error
            if self._round is not None:
                raise corrupt(f"it ends in the middle of round {self._round.number}")
        except PredumpError as error:
            incoming.refuse(error.message, error.hint, error.exit_code)
            raise
        finally:
            self._abandon()

    def close(self) -> None:
        """Unlocks the directory."""
        self._checkers.shutdown(cancel_futures=True)
        self._lock.close()

    def _receive(self, incoming: Incoming, arrived: queue.Queue[_Arrived]) -> None:
        """Until the end, or an error."""
        holds: dict[int, Holds] = {}
        try:
            while (data := incoming.receive()) is not None:
                message = decode(data)
                checked: Future[None] | None = None
                if isinstance(message, Begin):
                    holds.clear()
                elif isinstance(message, File):
                    holds[message.file] = message.holds
                elif isinstance(message, Frames) and message.file in holds:  # else it will be refused in its turn
                    checked = self._checkers.submit(check_frames, message, holds[message.file])
                arrived.put(_Arrived(message, checked))
            arrived.put(_Arrived())
        except BaseException as error:  # whatever it is, it is the other thread that reports it
            arrived.put(_Arrived(error=error))

    def _act_on(self, message: Message) -> None:
        if isinstance(message, Hello):
            self._greet(message)
        elif not self._greeted:
            raise corrupt("it does not begin with a hello")
        elif isinstance(message, Begin):
            self._begin(message)
        elif self._round is None:
            raise corrupt("a file or a manifest comes outside of a round")
        elif isinstance(message, File):
            self._round.file(message)
        elif isinstance(message, Remove):
            self._round.remove(message)
        elif isinstance(message, Frames):
            self._round.frames(message)
        else:
            self._take_part(self._round, message)

    def _greet(self, hello: Hello) -> None:
        if self._greeted:
            raise corrupt("a hello comes in the middle")
        if (hello.version, hello.schema) != (PROTOCOL_VERSION, SCHEMA_VERSION):
            raise ImageVersionUnsupported(
                f"The sender speaks version {hello.version} of the protocol, with images of schema {hello.schema}; "
                f"this version of predump takes {PROTOCOL_VERSION} and {SCHEMA_VERSION}.",
                hint="Use the same version of predump on both sides.",
            )
        last = self.last
        here = (bytes(16), 0, bytes(32))
        if last is not None:
            here = (bytes.fromhex(last.manifest.checkpoint_id), last.number, bytes.fromhex(last.sha256))
        if (hello.checkpoint_id, hello.round, hello.sha256) != here:
            raise _does_not_follow(hello, self.path, last)
        self._greeted = True

    def _begin(self, message: Begin) -> None:
        number = self.last.number + 1 if self.last else 1
        if self._round is not None:
            raise corrupt(f"round {message.round} begins before round {self._round.number} has ended")
        if message.round != number:
            raise corrupt(f"round {message.round} comes where round {number} belongs")
        self._round = RoundReceiver(lambda: RoundWriter(self.path, number), number, self.last, self._budget)

    def _take_part(self, round_: RoundReceiver, message: Part) -> None:
        committed = round_.part(message)
        if committed is not None:
            self._round = None
            self.last = committed
            self._on_round(committed)

    def _abandon(self) -> None:
        if self._round is not None:
            self._round.abandon()
            self._round = None


def _last_round(path: Path) -> RoundInfo | None:
    try:
        return Checkpoint.open(path).round()
    except NotACheckpoint:
        return None


def _does_not_follow(hello: Hello, path: Path, last: RoundInfo | None) -> StreamRefused:
    comes = f"begins after round {hello.round} of a checkpoint" if hello.round else "begins a new checkpoint"
    has = f"has another one up to round {last.number}" if last else "has no round yet"
    if last is not None and hello.checkpoint_id.hex() == last.manifest.checkpoint_id:
        has = f"has it up to round {last.number}"
    return StreamRefused(
        f"the stream {comes}, but {path} {has}",
        hint="Receive it into another directory, or send what comes after the rounds that are there (--from).",
        path=str(path),
    )
