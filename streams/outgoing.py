"""The sending side of a link, which goes on over new connections when the old ones break.

    send --> backlog --> a writer for each data connection       the caller's thread --> one thread each
                ^------ acknowledgements <-- control             one thread, which connects again as well

All connections of a generation end together. The next generation begins with the message that the receiver wants.
"""

from __future__ import annotations

import secrets
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from formats.errors import PredumpError
from streams.address import Address
from streams.backlog import Backlog
from streams.connection import Connection, LinkLost, Timing, dial
from streams.errors import StreamBroken, StreamCorrupt, StreamRefused
from streams.generation import Generation, Outage
from streams.news import Newsroom, Tell
from streams.transport import MAX_MESSAGE_BYTES, Buffer
from streams.wire import Frame, Hello, Kind, Refusal, Welcome, cost, message_header

MAX_CARRIED_BYTES = 256 << 30
"""By one data connection, then there are new ones: AES-GCM is good for some more with one key (RFC 8446, 5.5)."""


class LinkOutgoing:
    """See streams.transport.Outgoing."""

    acknowledges = True

    def __init__(
        self,
        address: Address,
        context: ssl.SSLContext | None,
        *,
        window_bytes: int,
        parallel: int,
        timing: Timing,
        tell: Tell,
    ) -> None:
        """Connects. Raises StreamBroken, StreamRefused, StreamUntrusted, StreamCorrupt."""
        self._address = address
        self._context = context
        self._window_bytes = window_bytes
        self._parallel = parallel
        self._timing = timing
        self._session = secrets.token_bytes(16)

        self._news = Newsroom(tell)
        self._changed = threading.Condition()  # guards all that follows
        self._backlog = Backlog()
        self._answer: tuple[int, bytes] = (0, b"")
        self._progress_s = time.monotonic()  # when something was last sent or acknowledged, or began to be due
        self._failure: Exception | None = None
        self._ending: Kind | None = None
        self._is_over = False
        self._n_generations = 0
        try:
            self._generation = self._connect()
        except LinkLost as lost:
            raise StreamBroken(
                f"Cannot connect to {address}: {lost}.", hint="Start 'predump receive --listen' there first."
            ) from lost
        self._thread = threading.Thread(target=self._serve, name="link", daemon=True)
        self._thread.start()

    # ---- the caller's thread ----

    def send(self, parts: Sequence[Buffer]) -> int:
        """See streams.transport.Outgoing."""
        n_bytes = sum(map(len, parts))
        if n_bytes > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {n_bytes} bytes")
        backlog = self._backlog
        self._wait_until(lambda: backlog.held_bytes + cost(n_bytes) <= self._window_bytes)
        with self._changed:
            if not backlog.held_bytes:
                self._progress_s = time.monotonic()
            self._changed.notify_all()
            return backlog.append(parts)

    def wait_for(self, number: int) -> None:
        """See streams.transport.Outgoing."""
        self._wait_until(lambda: self._backlog.acked >= number)

    def answer_to(self, number: int, timeout_s: float) -> bytes | None:
        """See streams.transport.Outgoing."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or self._answer[0] == number, timeout_s)
            if self._answer[0] == number:
                return self._answer[1]
            if self._failure is not None:
                raise self._failure
            return None

    def give_up(self) -> None:
        """See streams.transport.Outgoing."""
        with self._changed:
            self._failure = self._failure or StreamBroken("The stream was given up.")
            self._changed.notify_all()

    def close(self) -> None:
        """See streams.transport.Outgoing."""
        with self._changed:
            if self._ending is None:
                is_complete = self._failure is None and self._backlog.acked == self._backlog.last
                self._ending = Kind.END if is_complete else Kind.ABORT
                self._is_over = bool(self._generation.why_lost) and not is_complete
                self._post_ending()
                self._changed.notify_all()
        self._thread.join(self._timing.close_s)
        with self._changed:
            self._is_over = True
            self._generation.lose("closed")
            self._changed.notify_all()
        self._thread.join(self._timing.close_s)
        self._news.close()

    def _wait_until(self, is_due: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or is_due())
            if self._failure is not None and not is_due():
                raise self._failure

    def _post_ending(self) -> None:
        if self._ending is not None:
            self._generation.control.post(self._ending, self._backlog.last, last=self._ending is Kind.ABORT)

    # ---- the thread of the control connection ----

    def _serve(self) -> None:
        outage: Outage | None = None
        try:
            while True:
                began_s, acked = time.monotonic(), self._backlog.acked
                self._run(self._generation)
                if self._is_over or self._failure is not None:
                    return
                lived_s = time.monotonic() - began_s
                if outage is None or self._backlog.acked > acked or lived_s > self._timing.silence_s:
                    outage = Outage(self._timing)
                self._connect_again(outage)
        except Exception as error:
            self._fail(error)

    def _run(self, generation: Generation) -> None:
        """Until its connections are lost, or the session is over."""
        writers = [
            threading.Thread(target=self._write, args=(generation, connection), name="link-writer", daemon=True)
            for connection in generation.data
        ]
        for writer in writers:
            writer.start()
        try:
            generation.control.run(self._take)
            self._is_over = True
        except LinkLost as lost:
            with self._changed:
                generation.lose(str(lost))
        finally:
            with self._changed:
                generation.lose("over")
                self._changed.notify_all()
            for writer in writers:
                writer.join()

    def _take(self, frame: Frame) -> bool:
        """A frame of the receiver; whether more are to come."""
        match frame.kind:
            case Kind.ACK:
                with self._changed:
                    self._backlog.acknowledge(frame.number)
                    self._progress_s = time.monotonic()
                    self._changed.notify_all()
            case Kind.ANSWER:
                with self._changed:
                    self._answer = frame.number, frame.payload
                    self._progress_s = time.monotonic()
                    self._changed.notify_all()
            case Kind.BEAT:
                self._check_progress()
            case Kind.REFUSE:
                raise _refused(frame)
            case Kind.BYE if self._ending is Kind.END:
                return False
            case _:
                raise StreamCorrupt(f"The receiver sent a {frame.kind.name} that has no place here.")
        return True

    def _check_progress(self) -> None:
        with self._changed:
            if self._backlog.held_bytes and time.monotonic() - self._progress_s > self._timing.stall_s:
                raise StreamBroken(
                    f"The receiver is alive but took nothing for {self._timing.stall_s:.3g} s.",
                    hint="Look what it waits for: its disk, for example.",
                )

    def _connect_again(self, outage: Outage) -> None:
        """The next generation. Raises StreamBroken if there is none in time, StreamRefused and others at once."""
        why = self._generation.why_lost
        self._news.add(
            "reconnecting", f"The connection to {self._address} is lost: {why}. What is not acknowledged is kept."
        )
        while True:
            with self._changed:
                if outage.is_too_long():
                    raise StreamBroken(
                        f"There was no connection to {self._address} for {self._timing.reconnect_s:.3g} s: {why}.",
                        hint="Mend the link or the receiver, and raise --reconnect-timeout if that takes longer.",
                    )
                self._changed.wait_for(lambda: self._is_over, outage.next_pause_s())
                if self._is_over:
                    return
            try:
                generation = self._connect()
                break
            except LinkLost as lost:
                why = str(lost)
        with self._changed:
            self._generation = generation
            self._post_ending()
            if self._is_over:
                generation.lose("closed")
            self._changed.notify_all()  # the WELCOME may have acknowledged something
        self._news.add("reconnected", f"There is a connection to {self._address} again.")

    def _connect(self) -> Generation:
        """Makes all connections. Raises LinkLost, and what ends the session."""
        self._n_generations += 1
        connections: list[Connection] = []
        try:
            control = dial(self._address, self._context, self._timing)
            connections.append(control)
            welcome = self._greet(control)
            for number in range(1, self._parallel + 1):
                data = dial(self._address, self._context, self._timing)
                connections.append(data)
                data.send([self._hello(number)])
                control.send([Frame(Kind.BEAT).pack()])  # many connections over a slow link take their time
            with self._changed:
                self._backlog.begin(welcome)
        except BaseException:
            for connection in connections:
                connection.close()
            raise
        return Generation(connections, self._timing)

    def _greet(self, control: Connection) -> Welcome:
        with suppress(LinkLost):  # the answer says more
            control.send([self._hello(0)])
        deadline_s = time.monotonic() + self._timing.handshake_s
        answer = control.receive_frame(deadline_s, Kind.WELCOME, Kind.REFUSE)
        if answer.kind is Kind.REFUSE:
            raise _refused(answer)
        return Welcome.unpack(answer.payload)

    def _hello(self, connection: int) -> bytes:
        backlog = self._backlog
        hello = Hello(
            Hello.MAGIC,
            self._session,
            self._n_generations,
            connection,
            self._parallel,
            backlog.acked,
            backlog.last,
        )
        return Frame(Kind.HELLO, payload=hello.pack()).pack()

    # ---- the threads of the data connections ----

    def _write(self, generation: Generation, connection: Connection) -> None:
        try:
            carried_bytes = 0
            while (message := self._next(generation)) is not None:
                number, parts = message
                n_bytes = sum(map(len, parts))
                connection.send([message_header(number, n_bytes), *parts])
                carried_bytes += n_bytes
                if carried_bytes > MAX_CARRIED_BYTES:
                    raise LinkLost("it has carried enough for one key")
        except LinkLost as lost:
            with self._changed:
                generation.lose(str(lost))
        except Exception as error:
            self._fail(error)
        finally:
            connection.close()

    def _next(self, generation: Generation) -> tuple[int, Sequence[Buffer]] | None:
        """The next message, once there is one that may be sent; None when the generation is lost."""
        with self._changed:
            while not generation.why_lost:
                message = self._backlog.take()
                if message is not None:
                    self._progress_s = time.monotonic()
                    return message
                self._changed.wait()
        return None

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._generation.lose("the session failed")
            self._changed.notify_all()


def _refused(frame: Frame) -> PredumpError:
    refusal = Refusal.unpack(frame.payload)
    return StreamRefused(
        f"The receiver refuses: {refusal.message}", hint=refusal.hint, receiver_exit_code=refusal.exit_code
    )
