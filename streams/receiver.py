"""The receiving side: messages in, committed rounds out. Nothing that arrives is believed.

    one thread receives and decodes -> some decompress and check frames -> the caller's writes, commits and acknowledges

The queue between them is bounded, and with it the memory. What a message says is acted upon in the order of messages.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from formats.checkpoint import RoundInfo
from formats.checkpointlock import CheckpointLock
from formats.closing import Closing
from formats.errors import PredumpError
from formats.faults import Point, reached
from streams.errors import StreamBroken
from streams.messages import Ask, Begin, Content, File, Frames, Holds, Message, corrupt, decode
from streams.questions import Offer, Offered, decode_question, encode_answer
from streams.roundreceiver import Budget, check_frames
from streams.session import Session
from streams.takeover import Takeover
from streams.transport import Incoming

QUEUED_MESSAGES = 4
DEFAULT_MAX_BYTES = 1 << 62


@dataclass(slots=True)
class _Arrived:
    """A message, and the check of its frames; or the end (no message), or why there are no more."""

    message: Message | None = None
    checked: Future[list[bytes]] | None = None
    error: BaseException | None = None


class Receiver(Closing):
    """Writes what arrives into a checkpoint directory, which it locks."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        threads: int = 2,
        on_round: Callable[[RoundInfo], None] = lambda _: None,
        takeover: Takeover | None = None,
    ) -> None:
        """Makes the directory if it is missing. `on_round` is called after each commit; with `takeover` it runs here.

        Raises StorageError, CheckpointBusy.
        """
        self._path = path
        self._on_round = on_round
        self._takeover = takeover
        self._budget = Budget(max_bytes)
        self._resuming = threading.Lock()
        self._session: Session | None = None
        self._lock = CheckpointLock(path)
        self._checkers = ThreadPoolExecutor(threads, thread_name_prefix="check")

    def resume(self, session_id: bytes) -> int:
        """The number of the last message of a session that is in its place; 0 if nothing is known of it.

        What a receiver that was killed left behind is taken up again if it is sound. For any thread.
        """
        with self._resuming:
            if self._session is None:
                self._session = Session.take_up(self._path, session_id, self._budget)
            return self._session.number if self._session and self._session.id == session_id else 0

    def take(self, incoming: Incoming, session_id: bytes = b"") -> None:
        """Takes one session to its end; the sender is told why if that is not the one it meant.

        With an id the session can be resumed by the next receiver if this one is killed, or interrupted. Else a round
        that was not completed is removed. Raises StreamCorrupt, StreamBroken, StreamRefused, TooLarge,
        ImageCorrupt, ImageVersionUnsupported, StorageError.
        """
        session: Session | None = None
        try:
            session = self._session_of(session_id)
            self._take(incoming, session)
            self._end(session)
        except PredumpError as error:
            self._end(session)
            if self._takeover and self._takeover.running:
                return  # whatever becomes of its sender, it runs here
            if not isinstance(error, StreamBroken):
                incoming.refuse(error.message, error.hint, error.exit_code)
            raise
        except BaseException:
            if session and not session.is_resumable:
                self._end(session)
            raise

    def close(self) -> None:
        """Unlocks the directory."""
        self._checkers.shutdown(cancel_futures=True)
        if self._session is not None:
            self._session.close()
        self._lock.close()

    def _session_of(self, session_id: bytes) -> Session:
        """The one that was resumed, or a new one. Raises ImageCorrupt, StorageError."""
        if session_id and self.resume(session_id):
            assert self._session
            return self._session
        with self._resuming:
            if self._session is not None:
                self._session.end()
                self._session = None
            self._session = Session.begin(self._path, session_id, self._budget)
            return self._session

    def _end(self, session: Session | None) -> None:
        with self._resuming:
            self._session = None
            if session is not None:
                session.end()

    def _take(self, incoming: Incoming, session: Session) -> None:
        arrived: queue.Queue[_Arrived] = queue.Queue(QUEUED_MESSAGES)
        holds = session.sequence.round.holds if session.sequence.round else {}
        threading.Thread(target=self._receive, args=(incoming, arrived, holds), name="receive", daemon=True).start()
        if self._takeover and session.number:
            self._takeover.recall(incoming, session.id)
        while (item := self._next(arrived)).message is not None:
            contents = item.checked.result() if item.checked is not None else []
            if isinstance(item.message, Ask):
                self._answer(item.message, incoming, session)
            elif isinstance(item.message, Content):
                self._take_content(item.message)
            committed = self._place(item.message, contents, session)
            if committed is not None:
                self._on_round(committed)
            incoming.acknowledge(session.number)
            reached(Point.ACKNOWLEDGED)
        if item.error is not None:
            raise item.error
        session.sequence.end()

    def _next(self, arrived: queue.Queue[_Arrived]) -> _Arrived:
        """What comes next; a process that waits for the word to run does not wait longer than its time."""
        if self._takeover and (left_s := self._takeover.left_s) is not None:
            try:
                return arrived.get(timeout=left_s)
            except queue.Empty:
                self._takeover.expire()
        return arrived.get()

    def _place(self, message: Message, contents: Sequence[bytes], session: Session) -> RoundInfo | None:
        takeover = self._takeover
        if takeover:
            if isinstance(message, Begin):
                takeover.begin_round()
            takeover.contents.see(message, contents, session.sequence.round)
        committed = session.place(message)
        if takeover and committed is not None:
            takeover.round_arrived(committed)
        return committed

    def _take_content(self, message: Content) -> None:
        if not self._takeover:
            raise corrupt("a file comes that nobody asked for")
        self._takeover.content(message)

    def _answer(self, message: Ask, incoming: Incoming, session: Session) -> None:
        """Raises PredumpError: the sender is told, and nothing runs here."""
        question, number = decode_question(message), session.number + 1
        if self._takeover:
            answer = encode_answer(self._takeover.answer(question, session.id, number))
        elif isinstance(question, Offer):
            answer = encode_answer(Offered(restores=False))
        else:
            raise corrupt("a process is handed over that nobody is to run here")
        incoming.answer(number, answer)

    def _receive(self, incoming: Incoming, arrived: queue.Queue[_Arrived], holds: dict[int, Holds]) -> None:
        """Until the end, or an error. `holds`: what the files of the round hold."""
        try:
            while (data := incoming.receive()) is not None:
                message = decode(data)
                checked: Future[list[bytes]] | None = None
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
