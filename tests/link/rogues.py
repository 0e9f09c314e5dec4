"""Peers that speak the protocol, but not as it is meant."""

from __future__ import annotations

import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from streams.wire import HEADER, Frame, Header, Hello, Kind, Welcome

ALL = frozenset(Kind)


def read_exactly(sock: socket.socket, n_bytes: int) -> bytes:
    """So many bytes; ConnectionError at an end."""
    data = b""
    while len(data) < n_bytes:
        piece = sock.recv(n_bytes - len(data))
        if not piece:
            raise ConnectionError("closed")
        data += piece
    return data


def read_frame(sock: socket.socket) -> Frame:
    """The next frame, whatever it is."""
    head = Header.unpack(read_exactly(sock, HEADER.size), allowed=ALL)
    return Frame(head.kind, head.number, read_exactly(sock, head.payload_bytes))


def next_but_beats(sock: socket.socket) -> Frame:
    """The next frame that is no sign of life."""
    while (frame := read_frame(sock)).kind is Kind.BEAT:
        pass
    return frame


class RogueSender:
    """A session of which each byte is up to the test."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.session = secrets.token_bytes(16)
        self._sockets: list[socket.socket] = []

    def connection(self) -> socket.socket:
        """One that has said nothing yet."""
        sock = socket.create_connection(("127.0.0.1", self._port), 10)
        self._sockets.append(sock)
        return sock

    def hello(self, connection: int, **changed: int | bytes) -> socket.socket:
        """A connection that has said hello, with some fields changed."""
        fields: dict[str, int | bytes] = {
            "magic": Hello.MAGIC,
            "session": self.session,
            "generation": 1,
            "connection": connection,
            "parallel": 4,
            "acked": 0,
            "last": 0,
            **changed,
        }
        sock = self.connection()
        sock.sendall(Frame(Kind.HELLO, payload=Hello.LAYOUT.pack(*fields.values())).pack())
        return sock

    def begin(self) -> socket.socket:
        """The control connection of a session, which was welcomed."""
        control = self.hello(0)
        assert read_frame(control).kind is Kind.WELCOME
        return control

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@contextmanager
def rogue_sender(port: int) -> Iterator[RogueSender]:
    """A sender to a receiver on loopback; its connections end with the block."""
    sender = RogueSender(port)
    try:
        yield sender
    finally:
        sender.close()


@contextmanager
def rogue_receiver(control: Callable[[socket.socket], None], *, reads: bool = True) -> Iterator[int]:
    """A port where `control` answers each control connection after its HELLO; data is read, or is not."""
    server = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = []

    def serve(sock: socket.socket) -> None:
        with suppress(OSError, struct.error):
            if Hello.unpack(read_frame(sock).payload).connection == 0:
                control(sock)
                sock.close()
            while reads and sock.recv(1 << 20):
                pass

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = server.accept()
                opened.append(sock)
                threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        for sock in (server, *opened):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def welcome(sock: socket.socket, wanted: int = 1, acked: int = 0, window_bytes: int = 64 << 20) -> None:
    """Says it, true or not."""
    payload = Welcome.LAYOUT.pack(wanted, acked, window_bytes)
    sock.sendall(Frame(Kind.WELCOME, payload=payload).pack())
