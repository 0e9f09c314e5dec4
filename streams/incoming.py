"""The receiving side of a link: one session, over whatever connections its sender makes."""

from __future__ import annotations

import hmac
import threading
import time
from functools import partial

from formats.closing import Closing
from formats.errors import PredumpError
from streams.assembly import Assembly
from streams.connection import Connection, LinkLost, Timing
from streams.control import Control
from streams.errors import StreamBroken, StreamCorrupt
from streams.news import Newsroom
from streams.transport import Buffer
from streams.wire import HEADER, Frame, Header, Hello, Kind, Refusal, Welcome

_FLUSH_S = 2.0
_MESSAGE = frozenset({Kind.MESSAGE})


class LinkIncoming(Closing):
    """See streams.transport.Incoming. `serve_control` and `serve_data` belong to the listener's threads."""

    def __init__(
        self,
        session: bytes,
        identity: bytes | None,
        resumed: int,
        *,
        window_bytes: int,
        timing: Timing,
        news: Newsroom,
        changed: threading.Condition,
    ) -> None:
        """A session of the sender with that certificate, of which messages up to `resumed` are in their place."""
        self.session = session
        self.resumed = resumed
        self.identity = identity
        self._window_bytes = window_bytes
        self._timing = timing
        self._news = news
        self._changed = changed  # guards all that follows
        self._assembly = Assembly(resumed + 1, window_bytes)
        self._acked = resumed
        self._answer: tuple[int, bytes] | None = None
        self._generation = 0
        self._lost_generation = 0
        self._parallel = 0
        self._control: Control | None = None
        self._data: dict[int, Connection] = {}
        self._absent_since_s = time.monotonic()
        self._failure: PredumpError | None = None
        self._refusal: Refusal | None = None
        self._is_ended = False
        self.is_closed = False

    # ---- the caller's thread ----

    def receive(self) -> Buffer | None:
        """See streams.transport.Incoming. Raises StreamBroken, StreamCorrupt."""
        with self._changed:
            self._changed.wait_for(lambda: self._assembly.is_ready or self._is_ended or self._failure is not None)
            message = self._assembly.take()
            if message is None and not self._is_ended and self._failure is not None:
                raise self._failure
            return message

    def acknowledge(self, number: int) -> None:
        """See streams.transport.Incoming."""
        with self._changed:
            if not self._acked <= number < self._assembly.wanted:
                raise ValueError(f"message {number} was not received, or an earlier time")
            self._acked = number
            if self._control is not None:
                self._control.post(Kind.ACK, number)

    def answer(self, number: int, content: bytes) -> None:
        """See streams.transport.Incoming."""
        with self._changed:
            self._answer = number, content
            self._post_answer()

    def refuse(self, message: str, hint: str, exit_code: int) -> None:
        """See streams.transport.Incoming."""
        with self._changed:
            self._refusal = self._refusal or Refusal(message, hint, exit_code)
            self._post_refusal()

    def close(self) -> None:
        """See streams.transport.Incoming. What was refused, or is at its end, is still said."""
        with self._changed:
            self.is_closed = True
            if self._is_ended or self._refusal is not None:
                self._changed.wait_for(lambda: self._control is None, _FLUSH_S)
            self._cut()

    # ---- the listener's threads ----

    def is_of(self, session: bytes, identity: bytes | None) -> bool:
        """Whether a connection belongs to it: the id is a secret of both sides."""
        return hmac.compare_digest(self.session, session) and self.identity == identity

    def expire(self) -> None:
        """Ends it if its sender has been away for too long."""
        with self._changed:
            is_over = self._is_ended or self._failure is not None
            if self._control is None and not is_over and self._absent_s() > self._timing.reconnect_s:
                away = f"The sender was away for {self._timing.reconnect_s:.3g} s."
                self._fail(StreamBroken(away, hint="Look for the reason there, and send again."))

    def serve_control(self, hello: Hello, connection: Connection) -> None:
        """Runs the control connection of a new generation, which supersedes the one before, until it ends."""
        with self._changed:
            if hello.generation <= self._generation:
                raise StreamCorrupt("A control connection came twice.")
            if hello.acked > self._acked or hello.last < self._assembly.wanted - 1:
                raise StreamCorrupt("The sender has lost count of its messages.")
            self._cut()
            self._generation, self._parallel = hello.generation, hello.parallel
            self._data = {}
            self._assembly.begin()
            control = self._control = Control(connection, self._timing)
            welcome = Welcome(self._assembly.wanted, self._acked, self._window_bytes)
            if self._refusal is None:
                control.post(Kind.WELCOME, payload=welcome.pack())
                self._post_answer()
            self._post_refusal()
        try:
            control.run(partial(self._take, control))
        except LinkLost as lost:
            self._lose(hello.generation, str(lost))
        except StreamCorrupt as error:
            self._fail(error)
        finally:
            with self._changed:
                if self._control is control:
                    self._cut()
                    self._control = None
                    self._absent_since_s = time.monotonic()
                self._changed.notify_all()

    def serve_data(self, hello: Hello, connection: Connection) -> None:
        """Receives the messages of a data connection until it ends."""
        generation = hello.generation
        with self._changed:
            if generation != self._generation or hello.parallel != self._parallel or hello.connection in self._data:
                raise StreamCorrupt("A data connection does not belong to those that there are.")
            self._data[hello.connection] = connection
        try:
            self._receive_messages(generation, connection)
        except LinkLost as lost:
            self._lose(generation, str(lost))
        except StreamCorrupt as error:
            self._fail(error)

    def _receive_messages(self, generation: int, connection: Connection) -> None:
        header = memoryview(bytearray(HEADER.size))
        while True:
            connection.receive_into(header)
            head = Header.unpack(header, allowed=_MESSAGE)
            with self._changed:
                if generation != self._generation:
                    return
                self._assembly.expect(head.number, head.payload_bytes)
            message = bytearray(head.payload_bytes)
            connection.receive_into(memoryview(message))
            with self._changed:
                if generation != self._generation:
                    return
                self._assembly.put(head.number, message)
                self._changed.notify_all()

    def _take(self, control: Control, frame: Frame) -> bool:
        """A frame of the sender; whether more are to come."""
        with self._changed:
            match frame.kind:
                case Kind.BEAT:
                    pass
                case Kind.END if frame.number == self._acked == self._assembly.wanted - 1:
                    self._is_ended = True
                    control.post(Kind.BYE, last=True)
                case Kind.ABORT:
                    self._failure = self._failure or StreamBroken(
                        "The sender gave up before everything was sent.", hint="Look what it says, and send again."
                    )
                    return False
                case _:
                    raise StreamCorrupt(f"The sender sent a {frame.kind.name} that has no place here.")
            self._changed.notify_all()
        return True

    def _lose(self, generation: int, why: str) -> None:
        """A connection ended, and so do the others of its generation."""
        with self._changed:
            if generation == self._generation != self._lost_generation and not self._is_over():
                self._lost_generation = generation
                self._news.add("connection-lost", f"The connection to the sender is lost: {why}. It may come back.")
                self._cut()

    def _is_over(self) -> bool:
        return self._is_ended or self.is_closed or self._refusal is not None or self._failure is not None

    def _fail(self, error: PredumpError) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._refusal = self._refusal or Refusal(error.message, error.hint, error.exit_code)
            self._post_refusal()
            self._changed.notify_all()

    def _post_refusal(self) -> None:
        if self._control is not None and self._refusal is not None:
            self._control.post(Kind.REFUSE, payload=self._refusal.pack(), last=True)

    def _post_answer(self) -> None:
        if self._control is not None and self._answer is not None:
            self._control.post(Kind.ANSWER, *self._answer)

    def _absent_s(self) -> float:
        return time.monotonic() - self._absent_since_s

    def _cut(self) -> None:
        if self._control is not None:
            self._control.cut()
        for connection in self._data.values():
            connection.cut()
