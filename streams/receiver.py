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
from formats.faults import Point, reached
from formats.layout import SCHEMA_VERSION
from formats.replacing import tidy_up
from formats.roundwriter import KeptRoundWriter, RoundWriter
from streams.errors import StreamBroken, StreamRefused
from streams.journal import Entry, Journal, JournalReader, remove_journal
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
    head_of,
    place_of_frames,
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
        self._next_number = 1
        self._resuming = threading.Lock()
        self._session_id = b""
        self._number = 0  # of the last message that is in its place
        self._journal: Journal | None = None
        self._lock = CheckpointLock(path)
        try:
            self.last = _last_round(path)
        except BaseException:
            self._lock.close()
            raise
        self._checkers = ThreadPoolExecutor(threads, thread_name_prefix="check")

    def resume(self, session_id: bytes) -> int:
        """The number of the last message of a session that is in its place; 0 if nothing is known of it.

        What a receiver that was killed left behind is taken up again if it is sound. For any thread.
        """
        with self._resuming:
            if session_id != self._session_id and not self._session_id:
                self._take_up(session_id)
            return self._number if session_id == self._session_id else 0

    def take(self, incoming: Incoming, session_id: bytes = b"") -> None:
        """Takes one session to its end; the sender is told why if that is not the one it meant.

        With an id the session can be resumed by the next receiver if this one is killed, or interrupted. Else a round
        that was not completed is removed. Raises StreamCorrupt, StreamBroken, StreamRefused, TooLarge,
        ImageVersionUnsupported, StorageError.
        """
        try:
            if not session_id or not self.resume(session_id):
                self._begin_session(session_id)
            self._take(incoming)
            self._end_session()
        except PredumpError as error:
            self._end_session()
            if not isinstance(error, StreamBroken):
                incoming.refuse(error.message, error.hint, error.exit_code)
            raise
        except BaseException:
            if self._journal is None:
                self._end_session()
            raise

    def close(self) -> None:
        """Unlocks the directory."""
        self._checkers.shutdown(cancel_futures=True)
        if self._journal is not None:
            self._journal.close()
        self._lock.close()

    # ---- messages ----------------------------------------------------------------------------------------------

    def _take(self, incoming: Incoming) -> None:
        arrived: queue.Queue[_Arrived] = queue.Queue(QUEUED_MESSAGES)
        holds = self._round.holds if self._round else {}
        threading.Thread(target=self._receive, args=(incoming, arrived, holds), name="receive", daemon=True).start()
        while (item := arrived.get()).message is not None:
            if item.checked is not None:
                item.checked.result()
            self._place(item.message)
            incoming.acknowledge(self._number)
            reached(Point.ACKNOWLEDGED)
        if item.error is not None:
            raise item.error
        if self._round is not None:
            raise corrupt(f"it ends in the middle of round {self._round.number}")

    def _receive(self, incoming: Incoming, arrived: queue.Queue[_Arrived], holds: dict[int, Holds]) -> None:
        """Until the end, or an error. `holds`: what the files of the round hold."""
        try:
            while (data := incoming.receive()) is not None:
                message = decode(data)
                checked: Future[None] | None = None
                if isinstance(message, Begin):
                    holds = {}
                elif isinstance(message, File):
                    holds[message.file] = message.holds
                elif isinstance(message, Frames) and message.file in holds:  # else it will be refused in its turn
                    checked = self._checkers.submit(check_frames, message, holds[message.file])
                arrived.put(_Arrived(message, checked))
            arrived.put(_Arrived())
        except BaseException as error:  # whatever it is, it is the other thread that reports it
            arrived.put(_Arrived(error=error))

    def _place(self, message: Message) -> None:
        """Acts on the next message, and writes down that it is in its place."""
        number, committed = self._number + 1, self.last
        journal = self._journal
        if isinstance(message, Remove) and journal is not None:
            journal.add(number, head_of(message))  # before: what is removed cannot be gone over again
            self._act_on(message)
        else:
            self._act_on(message)
            reached(Point.RECEIVED)
            if journal is not None and self.last is not committed:
                self._renew_journal(number)
            elif journal is not None:
                journal.add(number, head_of(message))
        self._number = number

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
        if not _follows(hello, self.last):
            raise _does_not_follow(hello, self.path, self.last)
        self._next_number = hello.round + 1
        self._greeted = True

    def _begin(self, message: Begin) -> None:
        number = self._next_number
        if self._round is not None:
            raise corrupt(f"round {message.round} begins before round {self._round.number} has ended")
        if message.round != number:
            raise corrupt(f"round {message.round} comes where round {number} belongs")
        self._round = RoundReceiver(RoundWriter(self.path, number), number, self.last, self._budget)

    def _take_part(self, round_: RoundReceiver, message: Part) -> None:
        def intend(sha256: str) -> None:
            if self._journal is not None:
                self._journal.intend(self._number + 1, round_.number, bytes.fromhex(sha256))

        committed = round_.part(message, intend)
        if committed is not None:
            self._round = None
            self.last = committed
            self._next_number = committed.number + 1
            self._on_round(committed)

    # ---- sessions ----------------------------------------------------------------------------------------------

    def _begin_session(self, session_id: bytes) -> None:
        """Whatever else was begun here is given up."""
        self._end_session()
        tidy_up(self.path)
        self.last = _last_round(self.path)
        if session_id:
            self._journal = Journal.begin(self.path, session_id, 0, self.last.number if self.last else 0)
        self._session_id = session_id

    def _end_session(self) -> None:
        if self._round is not None:
            self._round.abandon()
            self._round = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        remove_journal(self.path)
        self._session_id = b""
        self._number = 0
        self._greeted = False

    def _renew_journal(self, number: int) -> None:
        """All up to this message is in the rounds."""
        if self._journal is not None:
            self._journal.close()
        self._journal = Journal.begin(self.path, self._session_id, number, self.last.number if self.last else 0)

    def _take_up(self, session_id: bytes) -> None:
        """Goes on with the session if there is a sound journal of it; else all is as before."""
        try:
            with JournalReader(self.path) as reader:
                if reader.session_id == session_id:
                    self._session_id = session_id
                    self._replay(reader)
        except PredumpError:
            # Files that are shorter than they were, or damaged, after a power cut: nothing of it can be believed.
            self._end_session()
            tidy_up(self.path)

    def _replay(self, reader: JournalReader) -> None:
        """Raises PredumpError if what it says does not fit what is there."""
        last_number = self.last.number if self.last else 0
        removed: set[int] = set()
        self._greeted = True
        for record in reader.records():
            if isinstance(record, Entry):
                message = None if place_of_frames(record.head) else decode(record.head)
                removed |= {message.file} if isinstance(message, Remove) else set()
            elif self.last and (record.round, record.sha256.hex()) == (last_number, self.last.sha256):
                self._renew_journal(record.number)
                self._number = record.number
                self._next_number = last_number + 1
                return
        if reader.round != last_number:
            raise corrupt("the journal is not of these rounds")
        self._greeted = reader.number > 0
        self._next_number = last_number + 1
        self._number = reader.number
        writer: KeptRoundWriter | None = None
        for record in reader.records():
            if isinstance(record, Entry):
                writer = self._go_over(record.head, removed, writer)
                self._number = record.number
        if writer is not None:
            writer.cut()
        else:
            tidy_up(self.path)
        self._journal = reader.go_on()

    def _go_over(self, head: bytes, removed: set[int], writer: KeptRoundWriter | None) -> KeptRoundWriter | None:
        """Acts on a message again whose frames are on disk already; returns the writer of its round."""
        place = place_of_frames(head)
        if place is not None:
            file, offset_bytes, n_bytes = place
            if file in removed:
                return writer
            if self._round is None or writer is None:
                raise corrupt("the journal has frames outside of a round")
            data = head + writer.read(self._round.name_of(file), offset_bytes, n_bytes)
            message = decode(data)
            assert isinstance(message, Frames)
            check_frames(message, self._round.holds[file])
            self._round.frames(message)
            return writer
        message = decode(head)
        if isinstance(message, Begin):
            writer = KeptRoundWriter(self.path, message.round)
            self._round = RoundReceiver(writer, message.round, self.last, self._budget)
        elif isinstance(message, File | Remove) and message.file in removed:
            if isinstance(message, File) and self._round is not None:
                self._round.skip_file()
        else:
            self._act_on(message)
        return writer


def _last_round(path: Path) -> RoundInfo | None:
    try:
        return Checkpoint.open(path).round()
    except NotACheckpoint:
        return None


def _follows(hello: Hello, last: RoundInfo | None) -> bool:
    """Whether the rounds to come go on where this checkpoint ends; one without any may begin with any round."""
    if last is None:
        return not any(hello.checkpoint_id) and not any(hello.sha256)
    here = bytes.fromhex(last.manifest.checkpoint_id), last.number
    return (hello.checkpoint_id, hello.round) == here and last.is_known_as(hello.sha256.hex())


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
