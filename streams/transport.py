"""What messages travel by: in order, each exactly once, whatever becomes of the connection in between.

    sender                                         receiver
    Outgoing.send(parts)     ----->  message n     Incoming.receive()
    Outgoing.wait_for(n)     <-----  n             Incoming.acknowledge(n): everything up to n is in its place
    Outgoing.answer_to(n)    <-----  bytes         Incoming.answer(n, bytes): what message n asked for

Messages count from 1 in a session, which has an id of 16 random bytes. What a message means is none of a transport's
business (streams.messages). A sender keeps what is not acknowledged, and sends it again over a new connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from formats.files import Buffer

__all__ = ["MAX_ANSWER_BYTES", "MAX_MESSAGE_BYTES", "Buffer", "Incoming", "Outgoing", "Resume"]

MAX_ANSWER_BYTES = 256 << 10
"""Bytes of an answer to one message (inclusive)."""
MAX_MESSAGE_BYTES = 8 << 20
"""Bytes of one message (inclusive): what a receiver has to have room for before it knows anything of the sender."""

Resume = Callable[[bytes], int]
"""Given the id of a session, the number of its last message that is in its place; 0 if nothing is known of it."""


class Outgoing(Protocol):
    """The sending side. `send` is called by one thread at a time."""

    @property
    def acknowledges(self) -> bool:
        """Whether there is a way back: without one, `wait_for` only sees to it that everything is written."""

    def send(self, parts: Sequence[Buffer]) -> int:
        """Sends one message made of all parts, which are the transport's own from now on; returns its number.

        Waits while too much is on its way. Raises StreamBroken (no connection within the time for it, or the receiver
        does not know the session any more), StreamRefused (the receiver said why).
        """

    def wait_for(self, number: int) -> None:
        """Waits until the receiver has acknowledged that message. Raises as `send`."""

    def answer_to(self, number: int, timeout_s: float) -> bytes | None:
        """Waits for the answer to the message that was sent last; None if there is none in time. Raises as `send`."""

    def give_up(self) -> None:
        """Nothing waits any more: who waits in `send` or `wait_for`, and who comes later, gets StreamBroken.

        For any thread.
        """

    def close(self) -> None:
        """Ends the session: in order if everything was acknowledged, else as it is."""


class Incoming(Protocol):
    """The receiving side: one thread calls `receive`, while another one acknowledges and refuses."""

    def receive(self) -> Buffer | None:
        """The next message, None at the end that the sender meant. Raises StreamBroken if it ends before."""

    def acknowledge(self, number: int) -> None:
        """Says that all messages up to that one are in their place. The sender forgets them."""

    def answer(self, number: int, content: bytes) -> None:
        """Answers message `number`, before the next one is received. It is said again over each new connection."""

    def refuse(self, message: str, hint: str, exit_code: int) -> None:
        """Tells the sender why nothing more is taken, as far as it still listens."""

    def close(self) -> None:
        """Lets go of the connection."""
