"""Messages through a pipe, and what either side makes of another one that does not keep to the protocol."""

from __future__ import annotations

import json
import os
import pty
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from formats.errors import UsageError
from streams.errors import StreamBroken, StreamCorrupt, StreamRefused
from streams.pipe import (
    ACKNOWLEDGED,
    ANSWER,
    END,
    ITEM,
    MAGIC,
    MAX_REFUSAL_BYTES,
    MESSAGE,
    PREAMBLE,
    REFUSED,
    VERSION,
    CommandOutgoing,
    PipeIncoming,
    PipeOutgoing,
)
from streams.transport import MAX_MESSAGE_BYTES

WAIT_S = 20.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a socket, each with a way to and from the other."""
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def incoming_of(end: socket.socket) -> PipeIncoming:
    return PipeIncoming(end.fileno(), end.fileno(), name="test")


def outgoing_of(end: socket.socket) -> PipeOutgoing:
    return PipeOutgoing(end.fileno(), end.fileno(), name="test")


def send_on_and_on(outgoing: PipeOutgoing) -> None:
    while True:
        outgoing.send([bytes(1 << 20)])


def test_messages_arrive_in_order_and_are_acknowledged(pair: tuple[socket.socket, socket.socket]) -> None:
    messages = [b"", b"1", bytes(1 << 20), os.urandom(100)]

    def receive() -> None:
        incoming = incoming_of(pair[1])
        while (message := incoming.receive()) is not None:
            got.append(bytes(message))
            incoming.acknowledge(len(got))

    got: list[bytes] = []
    receiver = threading.Thread(target=receive)
    receiver.start()
    with closing(outgoing_of(pair[0])) as outgoing:
        assert outgoing.acknowledges
        for number, message in enumerate(messages, start=1):
            assert outgoing.send([message[:10], b"", message[10:]]) == number
        outgoing.wait_for(len(messages))
    receiver.join(WAIT_S)
    assert got == messages


def test_a_pipe_without_a_way_back_waits_for_nothing() -> None:
    reader, writer = os.pipe()
    try:
        with closing(PipeOutgoing(writer)) as outgoing:
            assert not outgoing.acknowledges
            outgoing.wait_for(outgoing.send([b"message"]))
        incoming = PipeIncoming(reader, -1)
        assert incoming.receive() == b"message"
        incoming.acknowledge(1)
        assert incoming.receive() is None
    finally:
        os.close(reader)
        os.close(writer)


def test_the_end_is_not_said_of_a_stream_that_was_given_up() -> None:
    reader, writer = os.pipe()
    outgoing = PipeOutgoing(writer)
    outgoing.send([b"message"])
    outgoing.give_up()
    outgoing.close()
    os.close(writer)
    try:
        incoming = PipeIncoming(reader, -1)
        assert incoming.receive() == b"message"
        with pytest.raises(StreamBroken):
            incoming.receive()
    finally:
        os.close(reader)


def test_whoever_waits_to_write_is_woken(pair: tuple[socket.socket, socket.socket]) -> None:
    """Nobody reads: it waits until it is told to give up."""
    for end in (os.pipe(), None):
        outgoing = outgoing_of(pair[0]) if end is None else PipeOutgoing(end[1])
        threading.Timer(0.2, outgoing.give_up).start()
        with pytest.raises(StreamBroken):
            send_on_and_on(outgoing)
        with pytest.raises(StreamBroken):
            outgoing.send([b"more"])
        outgoing.close()
        for fd in end or ():
            os.close(fd)


def test_whoever_waits_for_an_answer_is_woken(pair: tuple[socket.socket, socket.socket]) -> None:
    with closing(outgoing_of(pair[0])) as outgoing:
        number = outgoing.send([b"message"])
        threading.Timer(0.2, outgoing.give_up).start()
        with pytest.raises(StreamBroken):
            outgoing.wait_for(number)


def test_a_refusal_reaches_who_waits_to_write(pair: tuple[socket.socket, socket.socket]) -> None:
    """The receiver takes nothing more, and stays."""

    def refuse() -> None:
        incoming = incoming_of(pair[1])
        incoming.receive()
        incoming.refuse("the disk is full", "Free some space", 1)

    thread = threading.Thread(target=refuse)
    thread.start()
    with closing(outgoing_of(pair[0])) as outgoing, pytest.raises(StreamRefused, match="the disk is full") as caught:
        send_on_and_on(outgoing)
    assert caught.value.hint == "Free some space"
    assert caught.value.fields["receiver_exit_code"] == 1
    thread.join(WAIT_S)


ANSWERS: dict[str, tuple[bytes, type[Exception]]] = {
    "of a message that was not sent": (ANSWER.pack(ACKNOWLEDGED, 0, 9), StreamCorrupt),
    "of no message": (ANSWER.pack(ACKNOWLEDGED, 0, 0), StreamCorrupt),
    "with bytes": (ANSWER.pack(ACKNOWLEDGED, 5, 1), StreamCorrupt),
    "of no known kind": (ANSWER.pack(7, 0, 1), StreamCorrupt),
    "of more than is read": (ANSWER.pack(REFUSED, MAX_REFUSAL_BYTES + 1, 1), StreamCorrupt),
    "without a reason": (ANSWER.pack(REFUSED, 0, 0), StreamRefused),
    "with a reason that is none": (ANSWER.pack(REFUSED, 2, 0) + b"[]", StreamRefused),
    "with a number for a reason": (ANSWER.pack(REFUSED, 4, 0) + b"1e99", StreamRefused),
    "cut off": (ANSWER.pack(ACKNOWLEDGED, 0, 1)[:5], StreamBroken),
    "nothing": (b"", StreamBroken),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_that_make_no_sense(answer: str, pair: tuple[socket.socket, socket.socket]) -> None:
    data, expected = ANSWERS[answer]
    with closing(outgoing_of(pair[0])) as outgoing:
        outgoing.send([b"message"])
        pair[1].sendall(data)
        pair[1].shutdown(socket.SHUT_WR)
        with pytest.raises(expected) as caught:
            outgoing.wait_for(1)
        assert caught.type is expected


BEGIN = PREAMBLE.pack(MAGIC, VERSION, 0)
ITEMS: dict[str, tuple[bytes, type[Exception]]] = {
    "another magic": (PREAMBLE.pack(b"PREDUMP>", VERSION, 0), StreamCorrupt),
    "another version": (PREAMBLE.pack(MAGIC, 2, 0), StreamCorrupt),
    "another flag": (PREAMBLE.pack(MAGIC, VERSION, 2), StreamCorrupt),
    "an unknown kind": (BEGIN + ITEM.pack(3, 0), StreamCorrupt),
    "an end with bytes": (BEGIN + ITEM.pack(END, 1), StreamCorrupt),
    "a message that is too long": (BEGIN + ITEM.pack(MESSAGE, MAX_MESSAGE_BYTES + 1), StreamCorrupt),
    "the end within a message": (BEGIN + ITEM.pack(MESSAGE, 9) + b"8 bytes.", StreamBroken),
    "the end within an item": (BEGIN + b"1", StreamBroken),
    "the end before the end": (BEGIN, StreamBroken),
    "the end at once": (b"", StreamBroken),
}


@pytest.mark.parametrize("item", ITEMS)
def test_items_that_make_no_sense(item: str, pair: tuple[socket.socket, socket.socket]) -> None:
    data, expected = ITEMS[item]
    pair[0].sendall(data)
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(expected) as caught:
        incoming_of(pair[1]).receive()
    assert caught.type is expected


def test_a_sender_that_is_gone_is_told_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(PREAMBLE.pack(MAGIC, VERSION, 1) + ITEM.pack(MESSAGE, 0))
    incoming = incoming_of(pair[1])
    assert incoming.receive() == b""
    pair[0].close()
    incoming.refuse("no", "no", 1)
    incoming.acknowledge(1)


def test_a_command_that_ends_early_is_a_stream_that_breaks() -> None:
    outgoing = CommandOutgoing(["true"])
    with closing(outgoing), pytest.raises(StreamBroken):
        outgoing.wait_for(1)


@pytest.mark.parametrize("make", [PipeOutgoing, lambda fd: PipeIncoming(fd, -1)])
def test_a_terminal_is_no_pipe(make: Callable[[int], object]) -> None:
    one, other = pty.openpty()
    try:
        with pytest.raises(UsageError, match="is a terminal"):
            make(other)
    finally:
        os.close(one)
        os.close(other)


def test_refusals_are_bounded_whatever_they_say(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(PREAMBLE.pack(MAGIC, VERSION, 1) + ITEM.pack(MESSAGE, 0))
    incoming = incoming_of(pair[1])
    incoming.receive()
    incoming.refuse("\x00" * 100_000, "\U0001f600" * 100_000, 20)
    _, n_bytes, _ = ANSWER.unpack(pair[0].recv(ANSWER.size, socket.MSG_WAITALL))
    assert n_bytes <= MAX_REFUSAL_BYTES
    assert set(json.loads(pair[0].recv(n_bytes, socket.MSG_WAITALL))) == {"message", "hint", "exit_code"}
