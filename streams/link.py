"""Links: sessions of numbered messages over TCP with TLS that outlive connections; see docs/stream.md."""

from __future__ import annotations

from dataclasses import dataclass, field

from formats.errors import UsageError
from streams.address import destination, is_address, place_to_listen
from streams.connection import Timing
from streams.incoming import LinkIncoming
from streams.listener import Listener
from streams.news import Tell
from streams.outgoing import LinkOutgoing
from streams.tls import Credentials, receiver_context, sender_context
from streams.transport import MAX_MESSAGE_BYTES, Resume
from streams.wire import MAX_PARALLEL, cost

__all__ = [
    "MAX_PARALLEL",
    "MIN_WINDOW_BYTES",
    "Credentials",
    "LinkIncoming",
    "LinkOptions",
    "LinkOutgoing",
    "Listener",
    "Timing",
    "connect",
    "is_address",
    "listen",
]

MIN_WINDOW_BYTES = cost(MAX_MESSAGE_BYTES)


def _tell_nobody(_subject: str, _message: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """How a link is made. `parallel` is the number of data connections; the receiver takes what comes."""

    credentials: Credentials | None = None
    """None is without TLS, which is for loopback only."""
    window_bytes: int = 64 << 20
    """What the sender holds unacknowledged, and the receiver in memory."""
    parallel: int = 1
    timing: Timing = field(default_factory=Timing)
    tell: Tell = _tell_nobody
    """Called in a thread of its own."""

    def __post_init__(self) -> None:
        if self.window_bytes < MIN_WINDOW_BYTES:
            raise UsageError(f"A window of {self.window_bytes} bytes is too small.", hint="Use 16M or more.")


def connect(text: str, options: LinkOptions) -> LinkOutgoing:
    """A session with the receiver at tls://HOST:PORT or tcp://LOOPBACK:PORT.

    Raises UsageError, StorageError, StreamBroken, StreamRefused, StreamUntrusted, StreamCorrupt.
    """
    address, is_secured = destination(text)
    context = sender_context(_needed(options)) if is_secured else None
    return LinkOutgoing(
        address,
        context,
        window_bytes=options.window_bytes,
        parallel=options.parallel,
        timing=options.timing,
        tell=options.tell,
    )


def listen(text: str, options: LinkOptions, resume: Resume) -> Listener:
    """Listens at [HOST:]PORT; without credentials at loopback only. Raises UsageError, StorageError."""
    place = place_to_listen(text, secured=options.credentials is not None)
    context = None if options.credentials is None else receiver_context(options.credentials)
    return Listener(place, context, resume, window_bytes=options.window_bytes, timing=options.timing, tell=options.tell)


def _needed(options: LinkOptions) -> Credentials:
    if options.credentials is None:
        raise UsageError(
            "TLS needs a certificate, its key and a CA.",
            hint="Give --cert, --key and --ca; 'predump keys' makes a set for tests.",
        )
    return options.credentials
