"""The control connection of a session: small frames both ways, and signs of life."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable

from streams.connection import CONTROL_KINDS, Connection, LinkLost, Timing
from streams.wire import HEADER, Frame, Header, Kind

_RECEIVE_BYTES = 16 << 10


class Control:
    """Runs in one thread, `run`; others `post` frames, of which only the newest of each kind is sent."""

    def __init__(self, connection: Connection, timing: Timing) -> None:
        self._connection = connection
        self._timing = timing
        self._lock = threading.Lock()
        self._due: dict[Kind, Frame] = {}
        self._is_finishing = False
        self._is_running = True
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def post(self, kind: Kind, number: int = 0, payload: bytes = b"", *, last: bool = False) -> None:
        """Has a frame sent, if the connection still runs; `last`: and `run` return after it."""
        with self._lock:
            self._due[kind] = Frame(kind, number, payload)
            self._is_finishing |= last
            if self._is_running:
                os.eventfd_write(self._wake_fd, 1)

    def cut(self) -> None:
        """Ends `run` with LinkLost."""
        self._connection.cut()

    def run(self, take: Callable[[Frame], bool]) -> None:
        """Gives `take` each frame that comes, until the last one is sent or `take` says that no more are to come.

        Then it closes the connection. Raises LinkLost, StreamCorrupt, and what `take` raises.
        """
        try:
            self._connection.set_blocking(False)
            self._run(take)
        finally:
            with self._lock:
                self._is_running = False
                os.close(self._wake_fd)
            self._connection.close()

    def _run(self, take: Callable[[Frame], bool]) -> None:
        inbox, outbox = bytearray(), b""
        heard_s = sent_s = time.monotonic()
        while True:
            received = self._connection.receive_some(_RECEIVE_BYTES)  # before select, which does not see what TLS holds
            if received:
                heard_s = time.monotonic()
                inbox += received
                if not _take_frames(inbox, take):
                    return
            if not outbox:
                outbox, is_last = self._next(beat=time.monotonic() - sent_s >= self._timing.beat_s)
                if is_last and not outbox:
                    return
            if outbox:
                n_bytes = self._connection.send_some(outbox)
                if n_bytes:
                    sent_s = time.monotonic()
                outbox = outbox[n_bytes:]
                if n_bytes:
                    continue
            if time.monotonic() - heard_s > self._timing.silence_s:
                raise LinkLost(f"nothing was heard for {self._timing.silence_s:.3g} s")
            if not received:
                self._wait(bool(outbox), sent_s + self._timing.beat_s)

    def _next(self, *, beat: bool) -> tuple[bytes, bool]:
        """The bytes to be sent now, and whether nothing more is to come after them."""
        with self._lock:
            frames, self._due = list(self._due.values()), {}
            if not frames and beat:
                frames = [Frame(Kind.BEAT)]
            return b"".join(frame.pack() for frame in frames), self._is_finishing

    def _wait(self, wants_write: bool, beat_at_s: float) -> None:
        poll = select.poll()
        poll.register(self._connection, select.POLLIN | (select.POLLOUT if wants_write else 0))
        poll.register(self._wake_fd, select.POLLIN)
        poll.poll(max(beat_at_s - time.monotonic(), 0.0) * 1000 if not wants_write else self._timing.beat_s * 1000)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)


def _take_frames(inbox: bytearray, take: Callable[[Frame], bool]) -> bool:
    """Takes the frames that are complete out of what was received; whether more are to come."""
    while len(inbox) >= HEADER.size:
        head = Header.unpack(inbox[: HEADER.size], allowed=CONTROL_KINDS)
        end = HEADER.size + head.payload_bytes
        if len(inbox) < end:
            break
        payload = bytes(inbox[HEADER.size : end])
        del inbox[:end]
        if not take(Frame(head.kind, head.number, payload)):
            return False
    return True
