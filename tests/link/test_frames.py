"""The transport's own frames, what a sender holds and what a receiver puts in order: for any input."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.assembly import Assembly
from streams.backlog import Backlog
from streams.errors import StreamBroken, StreamCorrupt
from streams.link import MIN_WINDOW_BYTES
from streams.transport import MAX_MESSAGE_BYTES
from streams.wire import (
    HEADER,
    MAX_NUMBER,
    MAX_PARALLEL,
    MAX_PAYLOAD_BYTES,
    Frame,
    Header,
    Hello,
    Kind,
    Refusal,
    Welcome,
    cost,
)

ALL = frozenset(Kind)
numbers = st.integers(0, MAX_NUMBER)


@st.composite
def hellos(draw: st.DrawFn) -> Hello:
    acked, last = sorted((draw(numbers), draw(numbers)))
    parallel = draw(st.integers(1, MAX_PARALLEL))
    session = draw(st.binary(min_size=16, max_size=16))
    generation = draw(st.integers(1, (1 << 32) - 1))
    return Hello(Hello.MAGIC, session, generation, draw(st.integers(0, parallel)), parallel, acked, last)


@given(hellos())
def test_a_hello_comes_back(hello: Hello) -> None:
    assert Hello.unpack(hello.pack()) == hello


@given(st.integers(0, MAX_NUMBER - 1), st.integers(1, 1 << 20), st.integers(MIN_WINDOW_BYTES, 1 << 62))
def test_a_welcome_comes_back(acked: int, more: int, window_bytes: int) -> None:
    welcome = Welcome(min(acked + more, MAX_NUMBER), acked, window_bytes)
    assert Welcome.unpack(welcome.pack()) == welcome


@given(st.text(), st.text(), st.integers(0, 255))
def test_a_refusal_comes_back_harmless_and_fits_its_frame(message: str, hint: str, exit_code: int) -> None:
    packed = Refusal(message, hint, exit_code).pack()
    assert len(packed) <= MAX_PAYLOAD_BYTES[Kind.REFUSE]
    refusal = Refusal.unpack(packed)
    assert refusal.exit_code == exit_code
    assert refusal.message.isprintable()
    if message.isprintable() and len(message) <= 500:
        assert refusal.message == message


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_corrupt(data: bytes) -> None:
    for unpack in (Hello.unpack, Welcome.unpack, Refusal.unpack):
        with suppress(StreamCorrupt):  # and no other error
            unpack(data)
    try:
        head = Header.unpack(data[: HEADER.size].ljust(HEADER.size, b"\0"), allowed=ALL)
    except StreamCorrupt:
        return
    assert head.payload_bytes <= MAX_PAYLOAD_BYTES.get(head.kind, 0)
    assert head.number <= MAX_NUMBER


@given(hellos(), st.data())
def test_a_changed_hello_is_corrupt_or_another_one_that_makes_sense(hello: Hello, data: st.DataObject) -> None:
    packed = bytearray(hello.pack())
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = Hello.unpack(packed)
    except StreamCorrupt:
        return
    assert 0 < read.parallel <= MAX_PARALLEL
    assert read.connection <= read.parallel
    assert read.acked <= read.last <= MAX_NUMBER


@pytest.mark.parametrize(
    ("kind", "payload_bytes", "number", "allowed", "words"),
    [
        (99, 0, 0, ALL, "no frames of kind 99"),
        (Kind.MESSAGE, MAX_MESSAGE_BYTES + 1, 1, ALL, "too large"),
        (Kind.BEAT, 1, 0, ALL, "too large"),
        (Kind.ACK, 0, MAX_NUMBER + 1, ALL, "has the number"),
        (Kind.HELLO, 0, 0, ALL - {Kind.HELLO}, "no place here"),
    ],
)
def test_headers_that_nobody_means(
    kind: int, payload_bytes: int, number: int, allowed: frozenset[Kind], words: str
) -> None:
    with pytest.raises(StreamCorrupt, match=words):
        Header.unpack(HEADER.pack(kind, payload_bytes, number), allowed=allowed)


def test_a_frame_has_its_size_in_its_header() -> None:
    packed = Frame(Kind.REFUSE, 7, b"why").pack()
    assert Header.unpack(packed[: HEADER.size], allowed=ALL) == Header(Kind.REFUSE, 3, 7)
    assert packed[HEADER.size :] == b"why"


@given(st.data())
def test_a_backlog_and_an_assembly_agree_whatever_breaks_in_between(data: st.DataObject) -> None:
    """A whole link without a network: messages fly, arrive in any order or not at all, generations come and go."""
    window_bytes = 4000
    backlog, assembly = Backlog(), Assembly(1, window_bytes)
    taken: list[bytes] = []
    flying: dict[int, bytes] = {}
    acked = 0
    backlog.begin(Welcome(1, 0, window_bytes))
    for step in data.draw(st.lists(st.sampled_from(STEPS), max_size=80)):
        if step == "append":
            backlog.append([str(backlog.last + 1).encode(), bytes(data.draw(st.integers(0, 1500)))])
        elif step == "send" and (message := backlog.take()) is not None:
            flying[message[0]] = b"".join(message[1])
        elif step == "arrive" and flying:
            number = data.draw(st.sampled_from(sorted(flying)))
            assembly.expect(number, len(flying[number]))  # never more than the window, whatever the order
            assembly.put(number, flying.pop(number))
            while (item := assembly.take()) is not None:
                taken.append(bytes(item))
        elif step == "ack":
            acked = data.draw(st.integers(acked, len(taken)))
            backlog.acknowledge(acked)
        elif step == "break":
            flying.clear()
            assembly.begin()
            backlog.begin(Welcome(assembly.wanted, acked, window_bytes))
    for number, item in enumerate(taken, 1):
        assert item.startswith(str(number).encode())
    assert backlog.acked == acked
    assert backlog.held_bytes >= 0


STEPS = ("append", "append", "send", "send", "arrive", "ack", "break")


def test_a_receiver_wants_what_is_held_and_was_sent() -> None:
    backlog = Backlog()
    backlog.begin(Welcome(1, 0, MIN_WINDOW_BYTES))
    for _ in range(5):
        backlog.append([b"x"])
    with pytest.raises(StreamCorrupt, match="0 was the last one sent"):
        backlog.begin(Welcome(2, 0, MIN_WINDOW_BYTES))
    assert [backlog.take() for _ in range(3)] == [(number, [b"x"]) for number in (1, 2, 3)]
    with pytest.raises(StreamCorrupt, match="acknowledges message 4, but 3"):
        backlog.acknowledge(4)
    backlog.acknowledge(2)
    backlog.acknowledge(1)  # said again over a new connection
    with pytest.raises(StreamBroken, match="wants message 2, but had acknowledged all up to 2"):
        backlog.begin(Welcome(2, 0, MIN_WINDOW_BYTES))
    backlog.begin(Welcome(3, 2, MIN_WINDOW_BYTES))
    assert backlog.take() == (3, [b"x"])


def test_what_a_receiver_holds_is_limited_in_bytes_and_in_messages() -> None:
    assembly = Assembly(1, cost(100) + cost(0))
    assembly.expect(5, 100)
    with pytest.raises(StreamCorrupt, match="more was sent than the window takes"):
        assembly.expect(6, 1)
    assembly.expect(6, 0)
    with pytest.raises(StreamCorrupt, match="more was sent"):
        assembly.expect(7, 0)
    with pytest.raises(StreamCorrupt, match="came twice"):
        assembly.expect(5, 0)
    assembly.begin()
    assembly.expect(1, 0)
    assembly.put(1, b"")
    with pytest.raises(StreamCorrupt, match="came twice"):
        assembly.expect(1, 0)
    assert assembly.take() == b""
    assert assembly.take() is None
