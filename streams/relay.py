"""Messages of a forked child on their way through this process, which has the transport.

    child: Outgoing over a socket pair --> thread: receive, send --> the transport
                                       <-- thread: wait for, acknowledge <--

Neither the threads nor the connections of a transport are there in a child.
"""

from __future__ import annotations

import math
import queue
import socket
import threading
from contextlib import suppress

from formats.closing import Closing
from formats.errors import PredumpError
from streams.messages import expects_answer
from streams.pipe import PipeIncoming, PipeOutgoing
from streams.transport import Buffer, Outgoing


class Relay(Closing):
    """Made before the fork; the child uses `outgoing_of_child` and nothing else of it.

    `failure` is what went wrong with the transport: the child only sees that its stream has ended.
    """

    def __init__(self, outgoing: Outgoing) -> None:
        self.failure: PredumpError | None = None
        self._outgoing = outgoing
        self._ours, self._theirs = socket.socketpair()
        self._incoming = PipeIncoming(self._ours.fileno(), self._ours.fileno(), name="the process that takes the dump")
        self._sent: queue.SimpleQueue[tuple[int, int, bool] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._forward, name="relay", daemon=True),
            threading.Thread(target=self._answer, name="relay-answers", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def outgoing_of_child(self) -> PipeOutgoing:
        """For the child: what is sent there is sent here. It acknowledges as this one's transport does."""
        self._ours.close()
        fd = self._theirs.fileno()
        return PipeOutgoing(fd, fd, name="the process that sends")

    def close(self) -> None:
        """Ends it: the child has ended."""
        self._theirs.close()
        self._cut()
        for thread in self._threads:
            thread.join()
        self._ours.close()

    def _forward(self) -> None:
        number = 0
        try:
            while (message := self._incoming.receive()) is not None:
                number += 1
                is_question = expects_answer(message)
                self._sent.put((number, self._send(message), is_question))
        except PredumpError:
            self._cut()  # the child has ended, or is to see that this has
        finally:
            self._sent.put(None)

    def _send(self, message: Buffer) -> int:
        try:
            return self._outgoing.send([message])
        except PredumpError as error:
            self.failure = self.failure or error
            raise

    def _answer(self) -> None:
        """Waiting for one message after the other is enough: each is acknowledged, or written."""
        try:
            while (sent := self._sent.get()) is not None:
                child_number, number, is_question = sent
                if is_question and (answer := self._outgoing.answer_to(number, math.inf)) is not None:
                    self._incoming.answer(child_number, answer)
                self._outgoing.wait_for(number)
                self._incoming.acknowledge(child_number)
        except PredumpError as error:
            self.failure = self.failure or error
            self._cut()

    def _cut(self) -> None:
        with suppress(OSError):  # the other side is gone
            self._ours.shutdown(socket.SHUT_RDWR)
