"""A way between both sides that cuts connections where it likes: in the middle of a record, one of several, or all."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes connections on to a port of loopback. What it does to them may be changed at any time."""

    def __init__(self, upstream_port: int, rng: random.Random) -> None:
        self.upstream_port = upstream_port
        self.max_delay_s = 0.0
        """Each piece takes up to so long, each new connection up to ten times: they do not arrive in order."""
        self.budget_bytes: tuple[int, int] | None = None
        """How much passes before a connection is cut: at random, between these."""
        self.is_silent = False
        """Nothing passes any more, but nothing ends either."""
        self.is_down = False
        """New connections are refused."""
        self.corrupt_at: int | None = None
        """A byte of the next pieces that is flipped."""
        self.n_connections = 0
        self.n_cut = 0
        self._rng = rng
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends all connections, some with a reset."""
        with self._lock:
            victims, self._open = self._open, []
        for sock in victims:
            self._end(sock)

    def close(self) -> None:
        """Ends everything."""
        self._server.close()
        self.cut()

    def _end(self, sock: socket.socket) -> None:
        with suppress(OSError):
            if self._rng.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.is_down:
                client.close()
                continue
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        time.sleep(self._rng.random() * self.max_delay_s * 10)
        try:
            upstream = socket.create_connection(("127.0.0.1", self.upstream_port), 5)
        except OSError:
            client.close()
            return
        upstream.settimeout(None)
        self.n_connections += 1
        budget = [self._rng.randint(*self.budget_bytes) if self.budget_bytes else 1 << 62]
        with self._lock:
            self._open += [client, upstream]
        pumps = [
            threading.Thread(target=self._pump, args=(a, b, budget), daemon=True)
            for a, b in ((client, upstream), (upstream, client))
        ]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        for sock in (client, upstream):
            sock.close()

    def _pump(self, source: socket.socket, sink: socket.socket, budget: list[int]) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self.max_delay_s:
                    time.sleep(self._rng.random() * self.max_delay_s)
                while self.is_silent:
                    time.sleep(0.01)
                if self.corrupt_at is not None and len(data) > self.corrupt_at:
                    data = bytes(byte ^ 1 if index == self.corrupt_at else byte for index, byte in enumerate(data))
                    self.corrupt_at = None
                sink.sendall(data[: max(budget[0], 0)])
                budget[0] -= len(data)
                if budget[0] <= 0:
                    self.n_cut += 1
                    break
        for sock in (source, sink):
            self._end(sock)


@contextmanager
def proxied(upstream_port: int, rng: random.Random) -> Iterator[Proxy]:
    """A proxy before a port of loopback."""
    proxy = Proxy(upstream_port, rng)
    try:
        yield proxy
    finally:
        proxy.is_silent = False
        proxy.close()
