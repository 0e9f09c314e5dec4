"""Listens for senders: one session at a time, whatever else connects."""

from __future__ import annotations

import socket
import ssl
import threading
import time

from formats.closing import Closing
from formats.errors import PredumpError, UsageError
from streams.address import Address
from streams.connection import Connection, LinkLost, Timing, connection_over
from streams.errors import StreamBroken, StreamRefused, StreamUntrusted
from streams.incoming import LinkIncoming
from streams.news import Newsroom, Tell
from streams.transport import Resume
from streams.wire import Frame, Hello, Kind, Refusal

_MAX_STRANGERS = 32
"""Connections that have not said yet what they want; with one more the oldest is cut."""
_LOOK_S = 0.25


class Listener(Closing):
    """A thread accepts, and each connection has one of its own, which ends with it."""

    def __init__(
        self,
        place: Address,
        context: ssl.SSLContext | None,
        resume: Resume,
        *,
        window_bytes: int,
        timing: Timing,
        tell: Tell,
    ) -> None:
        """Listens. `resume` is called in a thread of the listener, while there is no session. Raises UsageError."""
        self._context = context
        self._resume = resume
        self._window_bytes = window_bytes
        self._timing = timing
        self._news = Newsroom(tell)
        self._changed = threading.Condition()  # guards all that follows, and the session
        self._strangers: dict[Connection, None] = {}
        self._session: LinkIncoming | None = None
        self._is_accepted = False
        self._is_closed = False
        self._socket = _bound(place)
        self._socket.settimeout(_LOOK_S)
        host, port = self._socket.getsockname()[:2]
        self.address = Address(host, port)
        """Where it listens."""
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._thread.start()

    def accept(self) -> LinkIncoming:
        """Waits for the next session, after the one before was closed. Raises StreamBroken for a closed listener."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or (self._session is not None and not self._is_accepted))
            if self._session is None or self._is_closed:
                raise StreamBroken("The listener was closed.")
            self._is_accepted = True
            return self._session

    @property
    def is_idle(self) -> bool:
        """Whether there is no session."""
        return self._session is None or self._session.is_closed

    def retire(self) -> None:
        """Whoever comes from now on is not answered, and may find another receiver; the session goes on."""
        with self._changed:
            self._is_closed = True

    def close(self) -> None:
        """Listens no more. The session is closed by itself."""
        with self._changed:
            self._is_closed = True
            for stranger in self._strangers:
                stranger.cut()
            self._changed.notify_all()
        self._thread.join()
        self._news.close()

    # ---- the thread that accepts ----

    def _listen(self) -> None:
        with self._socket:
            while not self._is_closed:
                try:
                    accepted, (host, port, *_) = self._socket.accept()
                except TimeoutError:
                    accepted = None
                except OSError:  # a connection that is gone already, or too many open files
                    time.sleep(_LOOK_S)
                    continue
                finally:
                    self._look_after_session()
                if accepted is not None:
                    serve = (accepted, str(Address(host.removeprefix("::ffff:"), port)))
                    threading.Thread(target=self._serve, args=serve, name="link", daemon=True).start()

    def _look_after_session(self) -> None:
        with self._changed:
            if self._session is not None:
                self._session.expire()
                if self._session.is_closed:
                    self._session, self._is_accepted = None, False

    # ---- the threads of the connections ----

    def _serve(self, sock: socket.socket, peer: str) -> None:
        try:
            connection = connection_over(sock, peer, self._context)
        except LinkLost:
            return  # it is gone already
        try:
            introduced = self._introduced(connection)
            if introduced is not None:
                _serve(connection, *introduced)
        except PredumpError as error:
            self._tell_refused(connection, error)
        finally:
            connection.close()

    def _introduced(self, connection: Connection) -> tuple[Hello, LinkIncoming] | None:
        """Finds out what a connection is for; None if there is no use for it, which the other side is told."""
        with self._changed:
            self._strangers[connection] = None
            if len(self._strangers) > _MAX_STRANGERS:
                next(iter(self._strangers)).cut()
        try:
            return self._greeted(connection)
        except (LinkLost, PredumpError) as error:
            self._tell_refused(connection, error)
            connection.drain()
            return None
        finally:
            with self._changed:
                del self._strangers[connection]

    def _greeted(self, connection: Connection) -> tuple[Hello, LinkIncoming]:
        """What it says that it is for. Raises LinkLost, PredumpError."""
        deadline_s = time.monotonic() + self._timing.handshake_s
        connection.shake_hands(deadline_s)
        hello = Hello.unpack(connection.receive_frame(deadline_s, Kind.HELLO).payload)
        try:
            return hello, self._session_of(hello, connection.identity)
        except PredumpError as error:
            refusal = Refusal(error.message, error.hint, error.exit_code)
            connection.send([Frame(Kind.REFUSE, payload=refusal.pack()).pack()])
            raise

    def _tell_refused(self, connection: Connection, error: Exception) -> None:
        if not self._is_closed:
            why = str(error).rstrip(".")
            message = f"A connection from {connection.peer} was refused: {why}."
            self._news.add("connection-refused", str(error) if isinstance(error, StreamUntrusted) else message)

    def _session_of(self, hello: Hello, identity: bytes | None) -> LinkIncoming:
        """The session that a connection belongs to, which a control connection may begin.

        Raises LinkLost for a listener that answers no more, StreamRefused.
        """
        with self._changed:
            session = self._session
            if session is not None and not session.is_closed:
                if session.is_of(hello.session, identity):
                    return session
                raise StreamRefused(
                    "The receiver is busy with another sender.", hint="Wait for its end, or use another receiver."
                )
            if self._is_closed:
                raise LinkLost("the receiver ends")
            if hello.connection:
                raise StreamRefused("The receiver has no session that this connection belongs to.")
            resumed = self._resumed(hello)
            self._session, self._is_accepted = (
                LinkIncoming(
                    hello.session,
                    identity,
                    resumed,
                    window_bytes=self._window_bytes,
                    timing=self._timing,
                    news=self._news,
                    changed=self._changed,
                ),
                False,
            )
            self._changed.notify_all()
            return self._session

    def _resumed(self, hello: Hello) -> int:
        """The last message of the session that an earlier receiver put in its place. Raises StreamRefused."""
        resumed = self._resume(hello.session)
        if resumed < hello.acked:
            known = f"only messages up to {resumed}" if resumed else "nothing"
            raise StreamRefused(
                f"The receiver knows {known} of this session; the sender holds none up to {hello.acked} any more.",
                hint="Send everything again, into a new directory.",
            )
        if resumed > hello.last:
            raise StreamRefused("The receiver has more messages of this session than were sent.")
        return resumed


def _serve(connection: Connection, hello: Hello, session: LinkIncoming) -> None:
    if hello.connection:
        session.serve_data(hello, connection)
    else:
        session.serve_control(hello, connection)


def _bound(place: Address) -> socket.socket:
    """A socket that listens there; without a host, on all addresses."""
    try:
        if place.host:
            family = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((place.host, place.port), family=family)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", place.port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", place.port))
    except OSError as error:
        raise UsageError(
            f"Cannot listen at {place}: {(error.strerror or str(error)).lower()}.",
            hint="Choose another address or port with --listen.",
        ) from error
