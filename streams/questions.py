"""What a sender asks while it hands a process over, and what the receiver answers: the bodies of streams.messages.Ask.

    Offer   first: the process itself is to go over with its dump       Offered   whether it will run there
    Files   before the freeze: what the process has mapped or open      Found     which of them are not there
    Copy    behind the content of such a file: it is complete           Copied
    Build   behind the dump, with the process frozen                    Built     it stands there, and runs at a word
    Go      the original will not run again unless this is refused      Running   it runs

A receiver that cannot do what it is asked refuses, as it refuses anything else: then nothing runs there, nor will it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from formats.errors import ImageCorrupt
from formats.records import decode_record, encode_record
from streams.messages import Ask, Topic, corrupt
from streams.transport import Buffer

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Answer = TypeVar("Answer", bound=DataclassInstance)
else:
    Answer = TypeVar("Answer")

MAX_FILES = 10_000
"""Files that are asked for at once (inclusive)."""
MAX_PROBLEMS = 200
"""Files in one answer (inclusive): who lacks more does not need to name them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The process is to be killed once it runs at the receiver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """`restores`: whether the receiver brings processes back."""

    restores: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFile:
    """A file that the process needs: as MappedFile of a manifest; 0 and "" where nothing is known."""

    path: str
    size_bytes: int = 0
    mtime_ns: int = 0
    build_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Files that the process has mapped or open."""

    files: list[WantedFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with file number `file` of those asked for. `is_missing`: there is nothing of that name."""

    file: int
    what: str
    is_missing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Files that are not there as they should be; the first ones, if there are very many."""

    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """All bytes of a missing file have come: it gets its name if they have that digest, and what else is its own."""

    file: int
    size_bytes: int
    sha256: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """It is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The dump was the round before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The processes stand still. `build_ns`: how long the rest took that could not be done before."""

    build_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """They are to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """They run, unless `is_known` is false: a receiver before was to let them go, was killed, and they are not there.

    pids: as the receiver sees them; hook_ns, resume_ns: what the command before, and letting them go, took.
    """

    pids: list[int]
    hook_ns: int
    resume_ns: int
    is_known: bool = True


Question = Offer | Files | Copy | Build | Go
_TYPES: dict[Topic, type[Question]] = {
    Topic.OFFER: Offer,
    Topic.FILES: Files,
    Topic.COPY: Copy,
    Topic.BUILD: Build,
    Topic.GO: Go,
}


def question_message(question: Question) -> Ask:
    """The message that asks it."""
    topic = next(topic for topic, kind in _TYPES.items() if isinstance(question, kind))
    return Ask(topic, json.dumps(encode_record(question)).encode())


def decode_question(message: Ask) -> Question:
    """What a message asks. Raises StreamCorrupt."""
    return _decoded(_TYPES[message.topic], message.body)


def encode_answer(answer: DataclassInstance) -> bytes:
    """Its bytes."""
    return json.dumps(encode_record(answer)).encode()


def decode_answer(answer_type: type[Answer], content: Buffer) -> Answer:
    """From its bytes. Raises StreamCorrupt."""
    return _decoded(answer_type, content)


def _decoded(record_type: type[Answer], content: Buffer) -> Answer:
    try:
        return decode_record(record_type, json.loads(bytes(content)), record_type.__name__)
    except ImageCorrupt as error:
        raise corrupt(error.message.rstrip(".")) from error
    except (ValueError, RecursionError):
        raise corrupt(f"a {record_type.__name__} is no JSON") from None
