"""What goes wrong on the way."""

from __future__ import annotations

from formats.errors import PredumpError


class StreamBroken(PredumpError):
    """The stream ended, or stayed away for too long, before it was complete."""


class StreamRefused(PredumpError):
    """The other side does not want what it was sent, and said why.

    `fields["receiver_exit_code"]` is what the receiver ended with.
    """


class StreamCorrupt(PredumpError):
    """The other side does not keep to the protocol, or something on the way changes bytes."""

    exit_code = 20


class StreamUntrusted(PredumpError):
    """One side does not accept the other's certificate."""

    exit_code = 11
