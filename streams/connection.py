"""One TCP connection, with TLS or without: frames out, frames in."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streams.address import Address
from streams.errors import StreamUntrusted
from streams.tls import distrust
from streams.transport import Buffer
from streams.wire import HEADER, Frame, Header, Kind

_JOIN_BYTES = 32 << 10
"""Parts below this are joined before they are sent: a record of TLS each would cost more than the copy."""
_DRAIN_S = 1.0
CONTROL_KINDS = frozenset(Kind) - {Kind.MESSAGE}


class LinkLost(Exception):
    """A connection ended or is of no use any more; the session may go on over another one."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long, in seconds, things may take."""

    handshake_s: float = 10.0
    """Until a connection is made, and has said which session it belongs to."""
    beat_s: float = 2.0
    """Between two signs of life."""
    silence_s: float = 8.0
    """Without a sign of life, until a connection is taken for dead."""
    reconnect_s: float = 60.0
    """Without a connection, until the session is given up."""
    max_retry_s: float = 2.0
    """Between two attempts to connect again, at most."""
    stall_s: float = 300.0
    """Until a sender gives up on a receiver that lives but takes nothing."""
    close_s: float = 5.0
    """Until the other side confirms the end."""


class Connection:
    """Owned by one thread, which alone sends, receives and closes; any thread may `cut` it.

    (OpenSSL does not allow two threads in one connection at once, so none is used in both directions but for control.)
    """

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self._socket = sock
        self._closing = threading.Lock()
        self.peer = peer

    @property
    def identity(self) -> bytes | None:
        """The certificate of the other side; None without TLS."""
        return self._socket.getpeercert(binary_form=True) if isinstance(self._socket, ssl.SSLSocket) else None

    def shake_hands(self, deadline_s: float) -> None:
        """Both sides show who they are, by that time of time.monotonic. Raises LinkLost, StreamUntrusted."""
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(max(deadline_s - time.monotonic(), 0.001))  # for all of it, not for each packet
            with _losses(self.peer):
                self._socket.do_handshake()
        self._socket.settimeout(None)

    def send(self, parts: Sequence[Buffer]) -> None:
        """Sends all parts in order. Raises LinkLost."""
        with _losses(self.peer):
            for piece in _pieces(parts):
                self._socket.sendall(piece)

    def receive_into(self, view: memoryview) -> None:
        """Fills the whole view. Raises LinkLost."""
        with _losses(self.peer):
            while view:
                n_bytes = self._socket.recv_into(view)
                if not n_bytes:
                    raise LinkLost("the connection was closed by the other side")
                view = view[n_bytes:]

    def receive_frame(self, deadline_s: float, *kinds: Kind) -> Frame:
        """The next frame, by that time of time.monotonic. Raises LinkLost, StreamCorrupt."""
        head = Header.unpack(self._receive_by(deadline_s, HEADER.size), allowed=frozenset(kinds))
        return Frame(head.kind, head.number, self._receive_by(deadline_s, head.payload_bytes))

    def _receive_by(self, deadline_s: float, n_bytes: int) -> bytes:
        received = b""
        try:
            while len(received) < n_bytes:
                self._socket.settimeout(max(deadline_s - time.monotonic(), 0.001))
                with _losses(self.peer):
                    piece = self._socket.recv(n_bytes - len(received))
                if not piece:
                    raise LinkLost("the connection was closed by the other side")
                received += piece
        finally:
            self._socket.settimeout(None)
        return received

    def set_blocking(self, blocking: bool) -> None:
        """Whether `send_some` and `receive_some` may wait."""
        self._socket.setblocking(blocking)

    def send_some(self, data: bytes) -> int:
        """Bytes sent without waiting; after 0 the same data has to come again. Raises LinkLost."""
        with _losses(self.peer):
            try:
                return self._socket.send(data)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return 0

    def receive_some(self, n_bytes: int) -> bytes:
        """At most so many bytes, b"" if there are none now. Raises LinkLost."""
        with _losses(self.peer):
            try:
                received = self._socket.recv(n_bytes)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return b""
        if not received:
            raise LinkLost("the connection was closed by the other side")
        return received

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def cut(self) -> None:
        """Ends it, also under a thread that waits in it."""
        with self._closing, contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which would have other threads send without TLS from then on.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def drain(self) -> None:
        """Sees to it that what was sent arrives: a close with unread input would reset the connection."""
        end_s = time.monotonic() + _DRAIN_S
        plain = socket.socket  # what comes now is not decrypted any more
        with contextlib.suppress(OSError):
            plain.shutdown(self._socket, socket.SHUT_WR)
            while (left_s := end_s - time.monotonic()) > 0:
                self._socket.settimeout(left_s)
                if not plain.recv(self._socket, 1 << 16):
                    break

    def close(self) -> None:
        """Gives it back; by its owner."""
        with self._closing:
            self._socket.close()


def dial(address: Address, context: ssl.SSLContext | None, timing: Timing) -> Connection:
    """A connection to that host, checked if with TLS. Raises LinkLost, StreamUntrusted."""
    deadline_s = time.monotonic() + timing.handshake_s
    with _losses(str(address)):
        sock = socket.create_connection((address.host, address.port), timing.handshake_s)
        # The receiver always reads on: what its kernel does not acknowledge for so long is lost on the way (tcp(7)).
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(3 * timing.silence_s * 1000))
    connection = connection_over(sock, str(address), context, server_hostname=address.host)
    try:
        connection.shake_hands(deadline_s)
    except BaseException as error:
        if isinstance(error, StreamUntrusted):
            connection.drain()  # the other side is to learn why
        connection.close()
        raise
    return connection


def connection_over(
    sock: socket.socket, peer: str, context: ssl.SSLContext | None, *, server_hostname: str | None = None
) -> Connection:
    """The connection over a socket, which it owns: as it is, or with TLS, but still without a handshake.

    `server_hostname` is the host that is connected to, None for the side that listens. Raises LinkLost.
    """
    try:
        with _losses(peer):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                is_listener = server_hostname is None
                sock = context.wrap_socket(
                    sock, server_side=is_listener, server_hostname=server_hostname, do_handshake_on_connect=False
                )
    except BaseException:
        sock.close()
        raise
    return Connection(sock, peer)


def _pieces(parts: Sequence[Buffer]) -> Iterator[Buffer]:
    """The parts, small ones joined, large ones as they are."""
    small: list[Buffer] = []
    small_bytes = 0
    for part in parts:
        if len(part) < _JOIN_BYTES:
            small.append(part)
            small_bytes += len(part)
            if small_bytes < _JOIN_BYTES:
                continue
        if small:
            yield b"".join(small)
            small, small_bytes = [], 0
        if len(part) >= _JOIN_BYTES:
            yield part
    if small:
        yield b"".join(small)


@contextlib.contextmanager
def _losses(peer: str) -> Iterator[None]:
    """LinkLost for what the network or TLS says; of a certificate that is refused later on, StreamUntrusted."""
    try:
        yield
    except ssl.SSLError as error:
        untrusted = distrust(error, peer)
        raise untrusted or LinkLost(_words(error)) from error
    except TimeoutError as error:
        raise LinkLost("it took too long") from error
    except OSError as error:
        raise LinkLost((error.strerror or str(error)).lower()) from error


def _words(error: ssl.SSLError) -> str:
    reason = (error.reason or "it ended in the middle of a record").lower().replace("_", " ")
    return f"TLS failed: {reason}"
