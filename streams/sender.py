"""The sending side: a round becomes messages while it is written."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from formats.checkpoint import RoundInfo
from formats.framefile import FrameFile
from formats.layout import SCHEMA_VERSION, round_name
from formats.roundfiles import RoundFiles
from streams.messages import (
    PROTOCOL_VERSION,
    Begin,
    File,
    Hello,
    Message,
    Remove,
    holds_and_number,
    split_frames,
    split_manifest,
)
from streams.questions import Answer, Question, decode_answer, question_message
from streams.transport import Buffer, Outgoing


class Sender:
    """First it says hello; then one round after the other may be opened."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._lock = threading.Lock()

    def greet(self, before: RoundInfo | None = None, first: int = 1) -> None:
        """The first round has number `first`, and comes after the round `before`, if the receiver has any.

        Raises StreamBroken, StreamRefused.
        """
        checkpoint_id = bytes.fromhex(before.manifest.checkpoint_id) if before else bytes(16)
        sha256 = bytes.fromhex(before.sha256) if before else bytes(32)
        self.wait_for(self.send(Hello(PROTOCOL_VERSION, SCHEMA_VERSION, checkpoint_id, first - 1, sha256)))

    def send(self, message: Message) -> int:
        """Sends it; returns its number. For any thread. Raises StreamBroken, StreamRefused."""
        with self._lock:
            return self._outgoing.send(message.encode())

    def wait_for(self, number: int) -> None:
        """Waits until that message is acknowledged, where there is a way back. Raises as `send`."""
        self._outgoing.wait_for(number)

    def ask(self, question: Question, answer_type: type[Answer], timeout_s: float) -> Answer | None:
        """The answer to a question; None if there is none in time. Raises as `send`, and StreamCorrupt."""
        return self.start(question).wait(answer_type, timeout_s)

    def start(self, question: Question) -> Asked:
        """Asks it. Raises as `send`."""
        return Asked(self._outgoing, self.send(question_message(question)))

    def give_up(self) -> None:
        """Nothing is sent any more, nobody waits."""
        self._outgoing.give_up()

    def open_round(self, number: int) -> SentRound:
        """Begins a round. Raises as `send`."""
        return SentRound(self, number)


class Asked:
    """A question that was sent."""

    def __init__(self, outgoing: Outgoing, number: int) -> None:
        self._outgoing = outgoing
        self._number = number

    def wait(self, answer_type: type[Answer], timeout_s: float) -> Answer | None:
        """Its answer; None if there is none in time. Raises StreamBroken, StreamRefused, StreamCorrupt."""
        content = self._outgoing.answer_to(self._number, timeout_s)
        return None if content is None else decode_answer(answer_type, content)


class SentRound(RoundFiles):
    """A round in a stream. It is committed when the receiver has acknowledged it, where there is a way back."""

    def __init__(self, sender: Sender, number: int) -> None:
        super().__init__(Path(round_name(number)))
        self._sender = sender
        self._number = number
        self._n_files = 0
        self._begun = False
        self._last_part = 0
        self._is_confirmed = False

    def publish(self, data: bytes) -> None:
        """Sends the manifest. Raises as `Sender.send`."""
        self._begin()
        for part in split_manifest(data):
            self._last_part = self._sender.send(part)

    def confirm(self) -> None:
        """Waits until the receiver has committed the round. Raises as `Sender.send`."""
        self._sender.wait_for(self._last_part)
        self._is_confirmed = True

    def give_up(self) -> None:
        """Ends the stream, unless the round was committed, or nothing of it was sent."""
        if self._begun and not self._is_confirmed:
            self._sender.give_up()

    def abandon(self) -> None:
        """The same: the receiver removes what is no whole round."""
        self.give_up()

    def _begin(self) -> None:
        """With the first file: a round that is withdrawn before leaves no trace."""
        if not self._begun:
            self._begun = True
            self._sender.send(Begin(self._number))

    def _create(self, name: str) -> FrameFile:
        self._begin()
        file = SentFile(self._sender, self.path / name, self._n_files)
        self._n_files += 1
        return file


class SentFile(FrameFile):
    """A file in a stream."""

    def __init__(self, sender: Sender, path: Path, file: int) -> None:
        self.path = path
        self._sender = sender
        self._file = file
        self._stored_bytes = 0
        sender.send(File(file, *holds_and_number(path.name)))

    def append(self, frames: Sequence[Buffer], contents_bytes: Sequence[int]) -> None:
        """Sends them. Raises as `Sender.send`."""
        for message in split_frames(self._file, self._stored_bytes, frames, contents_bytes):
            self._sender.send(message)
            self._stored_bytes += message.stored_bytes

    def finish(self, seek_table: bytes) -> None:
        """The receiver makes the seek table by itself."""

    def abort(self) -> None:
        """Nothing is held."""

    def remove(self) -> None:
        """Has the receiver remove it. Raises as `Sender.send`."""
        self._sender.send(Remove(self._file))
