"""Frames: what a connection carries. Each has a header of fixed size, and at most so many bytes as its kind may have.

docs/stream.md explains them. Whatever does not fit is StreamCorrupt, before anything is allocated for it.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import ClassVar, Self

from streams.errors import StreamCorrupt
from streams.transport import MAX_ANSWER_BYTES, MAX_MESSAGE_BYTES, Buffer

HEADER = struct.Struct("<IIQ")
"""Kind, bytes of the payload, number."""
MAX_PARALLEL = 16
MAX_NUMBER = 1 << 62
MESSAGE_COST_BYTES = 512
"""What a message takes of the window beside its bytes: many small ones need memory, too."""
_MAX_WORDS = 500
_REFUSAL_BYTES = 4 << 10


class Kind(IntEnum):
    """What a frame is; those of the receiver are marked with (r)."""

    HELLO = 1
    """Begins each connection."""
    WELCOME = 2
    """(r) Answers the HELLO of a control connection."""
    MESSAGE = 3
    """Message `number`. The only one on a data connection after its HELLO."""
    ACK = 4
    """(r) All messages up to `number` are in their place."""
    BEAT = 5
    """Nothing to say, but alive."""
    REFUSE = 6
    """(r) Nothing more is taken, and why."""
    END = 7
    """Message `number` was the last, and all are acknowledged."""
    BYE = 8
    """(r) Answers END."""
    ABORT = 9
    """The sender gives up."""
    ANSWER = 10
    """(r) What message `number` asked for."""


class _Packed:
    """A dataclass whose fields are those of a struct, in this order."""

    LAYOUT: ClassVar[struct.Struct]

    def pack(self) -> bytes:
        """Its bytes."""
        return self.LAYOUT.pack(*astuple(self))  # type: ignore[call-overload]  # subclasses are dataclasses

    @classmethod
    def unpack(cls, payload: Buffer) -> Self:
        """From its bytes; raises StreamCorrupt for values that make no sense."""
        try:
            read = cls(*cls.LAYOUT.unpack(payload))
        except struct.error as error:
            raise StreamCorrupt(f"A {cls.__name__} has {len(payload)} bytes.") from error
        read.check()
        return read

    def check(self) -> None:
        """Raises StreamCorrupt."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Hello(_Packed):
    """What the sender says first on each connection: which session, and what it has.

    `generation` counts the times that a session connected; `connection` is 0 for control and 1 to `parallel` for data.
    Messages up to `acked` are acknowledged and forgotten; `last` is the last one there is.
    """

    magic: bytes
    session: bytes
    generation: int
    connection: int
    parallel: int
    acked: int
    last: int

    LAYOUT = struct.Struct("<8s16sIHHQQ")
    MAGIC: ClassVar[bytes] = b"pdlink\x00\x01"

    def check(self) -> None:
        """Raises StreamCorrupt."""
        if self.magic != self.MAGIC:
            raise StreamCorrupt(
                "The other side does not speak this version of the protocol.", hint="Use one version on both hosts."
            )
        if not (0 < self.parallel <= MAX_PARALLEL and self.connection <= self.parallel and self.generation > 0):
            raise StreamCorrupt("A HELLO has numbers of connections that make no sense.")
        if not self.acked <= self.last <= MAX_NUMBER:
            raise StreamCorrupt("A HELLO has numbers of messages that make no sense.")


@dataclass(frozen=True, slots=True)
class Welcome(_Packed):
    """What the receiver answers: the next message that it wants, the last one in its place, and how much it holds."""

    wanted: int
    acked: int
    window_bytes: int

    LAYOUT = struct.Struct("<QQQ")

    def check(self) -> None:
        """Raises StreamCorrupt."""
        if not self.acked < self.wanted <= MAX_NUMBER:
            raise StreamCorrupt("A WELCOME has numbers of messages that make no sense.")
        if self.window_bytes < MAX_MESSAGE_BYTES + MESSAGE_COST_BYTES:
            raise StreamCorrupt(f"A WELCOME has a window of {self.window_bytes} bytes: less than a message.")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing more is taken, for the user of the other side."""

    message: str
    hint: str
    exit_code: int

    def pack(self) -> bytes:
        """Its bytes."""
        words = (str(self.exit_code), _harmless(self.message), _harmless(self.hint))
        return "\0".join(words).encode()

    @classmethod
    def unpack(cls, payload: Buffer) -> Self:
        """From its bytes, with nothing in it that a terminal takes for a command; raises StreamCorrupt."""
        try:
            exit_code, message, hint = bytes(payload).decode().split("\0")
            if not (exit_code.isascii() and exit_code.isdigit() and len(exit_code) <= 3):
                raise ValueError(exit_code)
        except ValueError as error:
            raise StreamCorrupt("A REFUSE cannot be read.") from error
        return cls(_harmless(message), _harmless(hint), int(exit_code))


MAX_PAYLOAD_BYTES = {
    Kind.HELLO: Hello.LAYOUT.size,
    Kind.WELCOME: Welcome.LAYOUT.size,
    Kind.MESSAGE: MAX_MESSAGE_BYTES,
    Kind.REFUSE: _REFUSAL_BYTES,
    Kind.ANSWER: MAX_ANSWER_BYTES,
}
"""By kind (inclusive); the others have none."""


@dataclass(frozen=True, slots=True)
class Header:
    """The head of a frame."""

    kind: Kind
    payload_bytes: int
    number: int

    @classmethod
    def unpack(cls, data: Buffer, *, allowed: frozenset[Kind]) -> Self:
        """From its bytes; raises StreamCorrupt unless it is one of the allowed kinds with a size that such may have."""
        value, payload_bytes, number = HEADER.unpack(data)
        try:
            kind = Kind(value)
        except ValueError as error:
            raise StreamCorrupt(f"There are no frames of kind {value}.") from error
        if kind not in allowed:
            raise StreamCorrupt(f"A {kind.name} has no place here.")
        if payload_bytes > MAX_PAYLOAD_BYTES.get(kind, 0):
            raise StreamCorrupt(f"A {kind.name} of {payload_bytes} bytes is too large.")
        if number > MAX_NUMBER:
            raise StreamCorrupt(f"A {kind.name} has the number {number}.")
        return cls(kind, payload_bytes, number)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that is no message."""

    kind: Kind
    number: int = 0
    payload: bytes = b""

    def pack(self) -> bytes:
        """Its bytes."""
        return HEADER.pack(self.kind, len(self.payload), self.number) + self.payload


def message_header(number: int, payload_bytes: int) -> bytes:
    """What goes before the bytes of message `number`."""
    return HEADER.pack(Kind.MESSAGE, payload_bytes, number)


def cost(payload_bytes: int) -> int:
    """Bytes of the window that a message takes."""
    return payload_bytes + MESSAGE_COST_BYTES


def _harmless(text: str) -> str:
    """Printable, and not too long."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_WORDS])
