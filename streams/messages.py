"""What a stream consists of: each message as bytes and back, with every limit; docs/stream.md explains them.

    Hello                                       what the rounds build on
    Begin, { File | Frames | Remove }, Part...  a round; the last part of its manifest commits it
    Begin, ...                                  the next one
    Ask, Content                                between rounds: a process that is handed over (streams.questions)

A file has no name here: what it holds and of whom makes the name. Its seek table does not travel, since its frames
say it all. Decoding checks what one message can tell by itself; order and sums are up to streams.roundreceiver.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from formats.layout import (
    FRAME_CHECKSUM_BYTES,
    IMAGE_NAME,
    MANIFEST_MAX_BYTES,
    PAGE_BYTES,
    PAGEMAP_FRAME_BYTES,
    PAGES_FRAME_BYTES,
    RUN,
    max_stored_bytes,
    object_pagemap_name,
    object_pages_name,
    pagemap_name,
    pages_name,
)
from streams.errors import StreamCorrupt
from streams.transport import MAX_MESSAGE_BYTES, Buffer

PROTOCOL_VERSION = 2

MAX_ROUND = 999_999_999
MAX_NUMBER = (1 << 31) - 1
"""Largest pid and largest id of a memory object."""
MAX_CONTENT_BYTES = 8 << 20
"""Most content of the frames of one message: what it takes to check it is bounded, however well it is compressed."""
PART_BYTES = 4 << 20
"""Of a manifest in one message; the last part may be shorter."""

_KIND = struct.Struct("<I")
_HELLO = struct.Struct("<III16sI32s")
_BEGIN = struct.Struct("<II")
_FILE = struct.Struct("<IIIII")
_REMOVE = struct.Struct("<II")
_FRAMES = struct.Struct("<IIQI")
_PART = struct.Struct("<III")
_ASK = struct.Struct("<II")
_CONTENT = struct.Struct("<IIQ")

_FRAME_SIZES_BYTES = 8  # of one frame: stored, content
MAX_FRAMES_PER_MESSAGE = MAX_CONTENT_BYTES // RUN.size
MAX_FRAMES_BYTES = MAX_MESSAGE_BYTES - _FRAMES.size
MAX_QUESTION_BYTES = 4 << 20
CONTENT_BYTES = 1 << 20
"""Of a file in one message (inclusive)."""
MAX_FILE_BYTES = 1 << 50


class Kind(IntEnum):
    """The first number of a message."""

    HELLO = 1
    BEGIN = 2
    FILE = 3
    REMOVE = 4
    FRAMES = 5
    PART = 6
    ASK = 7
    CONTENT = 8


class Topic(IntEnum):
    """What is asked; streams.questions has what goes with it, and the answers."""

    OFFER = 1
    FILES = 2
    COPY = 3
    BUILD = 4
    GO = 5


class Holds(IntEnum):
    """What a file holds, and whose."""

    PAGES = 0
    PAGEMAP = 1
    OBJECT_PAGES = 2
    OBJECT_PAGEMAP = 3

    @property
    def max_frame_bytes(self) -> int:
        """Most content of one frame."""
        return PAGES_FRAME_BYTES if self in {Holds.PAGES, Holds.OBJECT_PAGES} else PAGEMAP_FRAME_BYTES

    @property
    def content_unit_bytes(self) -> int:
        """The content of each frame is a multiple of this."""
        return PAGE_BYTES if self in {Holds.PAGES, Holds.OBJECT_PAGES} else RUN.size


_NAMES: dict[Holds, Callable[[int], str]] = {
    Holds.PAGES: pages_name,
    Holds.PAGEMAP: pagemap_name,
    Holds.OBJECT_PAGES: object_pages_name,
    Holds.OBJECT_PAGEMAP: object_pagemap_name,
}


def holds_and_number(name: str) -> tuple[Holds, int]:
    """What a file of that name holds, and of which process or memory object; it is the name of an image file."""
    match = IMAGE_NAME.fullmatch(name)
    assert match is not None
    number = int(match["number"])
    return next(holds for holds, name_of in _NAMES.items() if name_of(number) == name), number


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message: the round that the first one of the stream comes after, as checkpoint, number and digest.

    A checkpoint that the receiver has nothing of has zeros, but for the number. The schema is that of the images.
    """

    version: int
    schema: int
    checkpoint_id: bytes
    round: int
    sha256: bytes

    def encode(self) -> list[Buffer]:
        """The parts of the message."""
        return [_HELLO.pack(Kind.HELLO, self.version, self.schema, self.checkpoint_id, self.round, self.sha256)]


@dataclass(frozen=True, slots=True)
class Begin:
    """A round begins."""

    round: int

    def encode(self) -> list[Buffer]:
        """The parts of the message."""
        return [_BEGIN.pack(Kind.BEGIN, self.round)]


@dataclass(frozen=True, slots=True)
class File:
    """A file of the round begins. `file` counts from 0 in a round; `number` is a pid or the id of a memory object."""

    file: int
    holds: Holds
    number: int

    @property
    def name(self) -> str:
        """Its name in the round's directory."""
        return _NAMES[self.holds](self.number)

    def encode(self) -> list[Buffer]:
        """The parts of the message."""
        return [_FILE.pack(Kind.FILE, self.file, self.holds, self.number, 0)]


@dataclass(frozen=True, slots=True)
class Remove:
    """A file is not part of the round after all."""

    file: int

    def encode(self) -> list[Buffer]:
        """The parts of the message."""
        return [_REMOVE.pack(Kind.REMOVE, self.file)]


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of a file, which come at `offset_bytes` of it, with the content size of each."""

    file: int
    offset_bytes: int
    frames: Sequence[Buffer]
    contents_bytes: Sequence[int]

    @property
    def stored_bytes(self) -> int:
        """Sum of the frames' sizes."""
        return sum(map(len, self.frames))

    def head(self) -> bytes:
        """The message without the frames themselves."""
        sizes = array("I")
        for frame, content_bytes in zip(self.frames, self.contents_bytes, strict=True):
            sizes.append(len(frame))
            sizes.append(content_bytes)
        return _FRAMES.pack(Kind.FRAMES, self.file, self.offset_bytes, len(self.frames)) + sizes.tobytes()

    def encode(self) -> list[Buffer]:
        """The parts of the message."""
        return [self.head(), *self.frames]


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of the manifest file, which has `total_bytes`; they come in order."""

    total_bytes: int
    offset_bytes: int
    content: Buffer

    def encode(self) -> list[Buffer]:
        """The parts of the message."""
        return [_PART.pack(Kind.PART, self.total_bytes, self.offset_bytes), self.content]


@dataclass(frozen=True, slots=True)
class Ask:
    """A question, which the receiver answers before it takes the next message; `body` is JSON."""

    topic: Topic
    body: Buffer

    def encode(self) -> list[Buffer]:
        """The parts of the message."""
        return [_ASK.pack(Kind.ASK, self.topic), self.body]


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of a file that the receiver lacked, by its number among those asked for."""

    file: int
    offset_bytes: int
    content: Buffer

    def encode(self) -> list[Buffer]:
        """The parts of the message."""
        return [_CONTENT.pack(Kind.CONTENT, self.file, self.offset_bytes), self.content]


Message = Hello | Begin | File | Remove | Frames | Part | Ask | Content


def head_of(message: Message) -> bytes:
    """The message, without frames or the content of a file."""
    if isinstance(message, Content):
        return bytes(message.encode()[0])
    return message.head() if isinstance(message, Frames) else b"".join(message.encode())


def place_of_frames(head: bytes) -> tuple[int, int, int] | None:
    """The file, the first byte and the number of bytes of the frames whose `head` this is; None if it is of no frames.

    The head was checked when it came.
    """
    if _KIND.unpack_from(head)[0] != Kind.FRAMES:
        return None
    _, file, offset_bytes, _ = _FRAMES.unpack_from(head)
    return file, offset_bytes, sum(array("I", head[_FRAMES.size :])[0::2])


def expects_answer(data: Buffer) -> bool:
    """Whether that message, which was encoded here, is a question."""
    return bool(_KIND.unpack_from(data)[0] == Kind.ASK)


def split_frames(file: int, offset_bytes: int, frames: Sequence[Buffer], contents: Sequence[int]) -> list[Frames]:
    """As few messages as the limits allow."""
    messages: list[Frames] = []
    first, message_bytes, content_bytes = 0, 0, 0
    for index, (frame, content) in enumerate(zip(frames, contents, strict=True)):
        frame_bytes = len(frame) + _FRAME_SIZES_BYTES
        if message_bytes + frame_bytes > MAX_FRAMES_BYTES or content_bytes + content > MAX_CONTENT_BYTES:
            messages.append(Frames(file, offset_bytes, frames[first:index], contents[first:index]))
            offset_bytes += messages[-1].stored_bytes
            first, message_bytes, content_bytes = index, 0, 0
        message_bytes += frame_bytes
        content_bytes += content
    if first < len(frames):
        messages.append(Frames(file, offset_bytes, frames[first:], contents[first:]))
    return messages


def split_manifest(data: bytes) -> list[Part]:
    """Its parts, in order."""
    view = memoryview(data)
    starts = range(0, len(data), PART_BYTES)
    return [Part(len(data), start, view[start : start + PART_BYTES]) for start in starts]


def decode(data: Buffer) -> Message:
    """What a message says. Raises StreamCorrupt."""
    view = memoryview(data)
    if len(view) < _KIND.size or len(view) > MAX_MESSAGE_BYTES:
        raise corrupt(f"a message has {len(view)} bytes")
    (kind,) = _KIND.unpack_from(view)
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise corrupt(f"a message is of the unknown kind {kind}")
    try:
        return decoder(view)
    except struct.error:
        raise corrupt(f"a message of kind {Kind(kind).name} is cut off or too long") from None


def _hello(view: memoryview) -> Hello:
    _, version, schema, checkpoint_id, round_, sha256 = _HELLO.unpack(view)
    if round_ >= MAX_ROUND:
        raise corrupt(f"{round_} is not the number of a round that another one follows")
    return Hello(version, schema, checkpoint_id, round_, sha256)


def _begin(view: memoryview) -> Begin:
    _, round_ = _BEGIN.unpack(view)
    if not 1 <= round_ <= MAX_ROUND:
        raise corrupt(f"{round_} is not the number of a round")
    return Begin(round_)


def _file(view: memoryview) -> File:
    _, file, holds, number, reserved = _FILE.unpack(view)
    if holds not in set(Holds) or reserved:
        raise corrupt(f"file {file} is of an unknown kind")
    if number > MAX_NUMBER:
        raise corrupt(f"{number} is neither a pid nor the id of a memory object")
    return File(file, Holds(holds), number)


def _remove(view: memoryview) -> Remove:
    return Remove(_REMOVE.unpack(view)[1])


def _frames(view: memoryview) -> Frames:
    _, file, offset_bytes, n_frames = _FRAMES.unpack_from(view)
    position = _FRAMES.size + n_frames * _FRAME_SIZES_BYTES
    if not 1 <= n_frames <= MAX_FRAMES_PER_MESSAGE or position > len(view):
        raise corrupt(f"a message has {n_frames} frames in {len(view)} bytes")
    sizes = array("I", bytes(view[_FRAMES.size : position]))
    stored, contents = sizes[0::2], sizes[1::2]
    if sum(stored) != len(view) - position or sum(contents) > MAX_CONTENT_BYTES:
        raise corrupt("the frames of a message do not add up")
    if min(stored) <= FRAME_CHECKSUM_BYTES or max(stored) > max_stored_bytes(PAGES_FRAME_BYTES) or min(contents) == 0:
        raise corrupt("a frame has an impossible size")
    frames: list[Buffer] = []
    for n_bytes in stored:
        frames.append(view[position : position + n_bytes])
        position += n_bytes
    return Frames(file, offset_bytes, frames, contents)


def _part(view: memoryview) -> Part:
    _, total_bytes, offset_bytes = _PART.unpack_from(view)
    content = view[_PART.size :]
    if total_bytes > MANIFEST_MAX_BYTES:
        raise corrupt(f"{total_bytes} bytes are too many for a manifest")
    if offset_bytes % PART_BYTES or len(content) != min(PART_BYTES, total_bytes - offset_bytes) or not content:
        raise corrupt("a part of the manifest is not where it belongs")
    return Part(total_bytes, offset_bytes, content)


def _ask(view: memoryview) -> Ask:
    _, topic = _ASK.unpack_from(view)
    body = bytes(view[_ASK.size :])
    if topic not in set(Topic) or len(body) > MAX_QUESTION_BYTES:
        raise corrupt(f"a question of topic {topic} has {len(body)} bytes")
    return Ask(Topic(topic), body)


def _content(view: memoryview) -> Content:
    _, file, offset_bytes = _CONTENT.unpack_from(view)
    content = view[_CONTENT.size :]
    if len(content) > CONTENT_BYTES or offset_bytes > MAX_FILE_BYTES:
        raise corrupt(f"{len(content)} bytes of a file come for byte {offset_bytes}")
    return Content(file, offset_bytes, content)


_DECODERS: dict[int, Callable[[memoryview], Message]] = {
    Kind.HELLO: _hello,
    Kind.BEGIN: _begin,
    Kind.FILE: _file,
    Kind.REMOVE: _remove,
    Kind.FRAMES: _frames,
    Kind.PART: _part,
    Kind.ASK: _ask,
    Kind.CONTENT: _content,
}


def corrupt(problem: str) -> StreamCorrupt:
    """The error for a sender that does not keep to the protocol; the problem is one sentence without its end."""
    return StreamCorrupt(
        f"The stream is damaged, or its sender is not to be trusted: {problem}.",
        hint="The rounds that were complete before are whole; send the rest anew.",
    )
