"""Peers that lie, flood, stall or say nothing: bounded in memory and time, and told from those that mean well."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from streams.errors import StreamBroken, StreamCorrupt, StreamRefused
from streams.link import LinkIncoming, LinkOptions, LinkOutgoing, connect, listen
from streams.transport import MAX_MESSAGE_BYTES
from streams.wire import HEADER, Frame, Kind, Refusal, message_header
from tests.harness import REPO
from tests.link.peers import HASTY, News, Receiver
from tests.link.rogues import RogueSender, next_but_beats, rogue_receiver, rogue_sender, welcome

QUICK = replace(HASTY, handshake_s=1, reconnect_s=1.5, stall_s=1.5)


def hello_that_is_none(sender: RogueSender) -> None:
    sender.connection().sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))


def hello_too_large(sender: RogueSender) -> None:
    sender.connection().sendall(HEADER.pack(Kind.HELLO, 1 << 31, 0))


def data_without_a_session(sender: RogueSender) -> None:
    sender.hello(1)


@pytest.mark.parametrize("attack", [hello_that_is_none, hello_too_large, data_without_a_session])
def test_strangers_are_refused_and_the_next_sender_is_let_in(attack: Callable[[RogueSender], None]) -> None:
    news = News()
    with (
        listen("0", LinkOptions(timing=QUICK, tell=news), lambda _: 0) as listener,
        rogue_sender(listener.address.port) as sender,
    ):
        attack(sender)
        outgoing = connect(f"tcp://{listener.address}", LinkOptions(timing=QUICK))
        with listener.accept() as incoming:
            receiver = Receiver(incoming)
            outgoing.wait_for(outgoing.send([b"x"]))
            outgoing.close()
            receiver.join()
        assert "was refused" in news.of("connection-refused")


def two_sessions(sender: RogueSender) -> None:
    sender.hello(0, session=bytes(16))


def data_of_another_generation(sender: RogueSender) -> None:
    sender.hello(1, generation=2)


def data_connection_again(sender: RogueSender) -> None:
    for _ in range(2):
        sender.hello(1)


def control_again(sender: RogueSender) -> None:
    sender.hello(0)


def lost_count(sender: RogueSender) -> None:
    sender.hello(0, generation=2, acked=7, last=7)


@pytest.mark.parametrize(
    "attack", [two_sessions, data_of_another_generation, data_connection_again, control_again, lost_count]
)
def test_connections_that_do_not_belong_to_a_session_leave_it_alone(attack: Callable[[RogueSender], None]) -> None:
    with (
        listen("0", LinkOptions(timing=QUICK), lambda _: 0) as listener,
        rogue_sender(listener.address.port) as sender,
    ):
        sender.begin()
        with listener.accept() as incoming:
            attack(sender)
            sender.hello(2).sendall(message_header(1, 5) + b"hello")
            assert incoming.receive() == b"hello"


MESSAGES: list[tuple[str, bytes, str]] = [
    ("too large", message_header(1, MAX_MESSAGE_BYTES + 1), "too large"),
    ("twice", (message_header(1, 1) + b"x") * 2, "came twice"),
    ("number", message_header(1 << 63, 1), "has the number"),
    ("kind", HEADER.pack(77, 0, 1), "no frames of kind 77"),
    ("beat", Frame(Kind.BEAT).pack(), "A BEAT has no place here"),
]


def receive_all(incoming: LinkIncoming) -> None:
    while incoming.receive() is not None:
        pass


@pytest.mark.parametrize(("sent", "words"), [case[1:] for case in MESSAGES], ids=[case[0] for case in MESSAGES])
def test_data_that_nobody_means_ends_the_session_with_a_word_to_the_sender(sent: bytes, words: str) -> None:
    with (
        listen("0", LinkOptions(timing=QUICK), lambda _: 0) as listener,
        rogue_sender(listener.address.port) as sender,
    ):
        control = sender.begin()
        with listener.accept() as incoming:
            sender.hello(1).sendall(sent)
            with pytest.raises(StreamCorrupt, match=words):
                receive_all(incoming)
            refused = next_but_beats(control)
            assert refused.kind is Kind.REFUSE
            assert words in Refusal.unpack(refused.payload).message


@pytest.mark.parametrize(
    "frame",
    [Frame(Kind.END, 5), Frame(Kind.ACK, 1), Frame(Kind.WELCOME), Frame(Kind.HELLO), Frame(Kind.END, 0, b"x")],
)
def test_control_that_nobody_means_ends_the_session(frame: Frame) -> None:
    with (
        listen("0", LinkOptions(timing=QUICK), lambda _: 0) as listener,
        rogue_sender(listener.address.port) as sender,
    ):
        control = sender.begin()
        with listener.accept() as incoming:
            control.sendall(frame.pack())
            with pytest.raises(StreamCorrupt):
                incoming.receive()


def test_a_sender_that_ignores_the_window_fills_no_memory() -> None:
    window_mib = 32
    receiver = subprocess.Popen(
        [sys.executable, "-m", "tests.link.overrun", str(window_mib)],
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert receiver.stdin is not None
    assert receiver.stdout is not None
    try:
        with rogue_sender(int(receiver.stdout.readline())) as sender:
            control = sender.begin()
            threads = [
                threading.Thread(target=flood, args=(sender.hello(index), index), daemon=True) for index in range(1, 5)
            ]
            for thread in threads:
                thread.start()
            assert next_but_beats(control).kind is Kind.REFUSE
            receiver.stdin.write("go on\n")
            receiver.stdin.flush()
            grown_bytes, taken, why = receiver.stdout.readline().split(maxsplit=2)
            assert "more was sent than the window takes" in why
            assert int(taken) <= window_mib
            assert int(grown_bytes) < (window_mib + 16) << 20
    finally:
        receiver.kill()
        receiver.wait()
        receiver.stdin.close()
        receiver.stdout.close()


def flood(sock: socket.socket, index: int) -> None:
    """Messages of 1 MiB, as many as go in."""
    try:
        for number in range(index, 1000, 4):
            sock.sendall(message_header(number, 1 << 20))
            sock.sendall(bytes(1 << 20))
    except OSError:
        pass


def test_connections_that_say_nothing_hold_up_nobody() -> None:
    news = News()
    with (
        listen("0", LinkOptions(timing=QUICK, tell=news), lambda _: 0) as listener,
        rogue_sender(listener.address.port) as sender,
    ):
        silent = [sender.connection() for _ in range(60)]
        slow = sender.connection()
        begin_s = time.monotonic()

        def trickle() -> None:
            try:
                while True:
                    slow.sendall(b"\x01")
                    time.sleep(0.1)
            except OSError:
                pass

        threading.Thread(target=trickle, daemon=True).start()
        outgoing = connect(f"tcp://{listener.address}", LinkOptions(timing=QUICK))
        with listener.accept() as incoming:
            receiver = Receiver(incoming)
            outgoing.wait_for(outgoing.send([b"x"]))
            for sock in silent:
                assert sock.recv(1) == b""
            while slow.recv(1 << 16):  # it is told why
                pass
            assert time.monotonic() - begin_s < 30
            outgoing.close()
            assert receiver.join().error is None


# ---- receivers ----


def send_for_ever(outgoing: LinkOutgoing) -> None:
    while True:
        outgoing.send([bytes(1 << 20)])


def says(*frames: Frame) -> Callable[[socket.socket], None]:
    """A receiver that welcomes and then says this."""

    def control(sock: socket.socket) -> None:
        welcome(sock)
        for frame in frames:
            sock.sendall(frame.pack())
        while sock.recv(1 << 16):
            pass

    return control


@pytest.mark.parametrize(
    "frame",
    [
        Frame(Kind.ACK, 99),
        Frame(Kind.BYE),
        Frame(Kind.END),
        Frame(Kind.MESSAGE, 1, b"x"),
        Frame(Kind.REFUSE, 0, b"no zero bytes"),
        Frame(Kind.REFUSE, 0, bytes(5000)),
        Frame(Kind.BEAT, 0, b"x"),
    ],
)
def test_a_receiver_that_says_what_makes_no_sense(frame: Frame) -> None:
    with rogue_receiver(says(frame)) as port:
        outgoing = connect(f"tcp://127.0.0.1:{port}", LinkOptions(timing=QUICK))
        with pytest.raises(StreamCorrupt):
            outgoing.wait_for(outgoing.send([b"x"]))
        outgoing.close()


@pytest.mark.parametrize(
    ("wanted", "acked", "window_bytes"), [(0, 0, 1 << 30), (5, 0, 1 << 30), (1, 0, 100), (3, 3, 1 << 30)]
)
def test_a_welcome_that_makes_no_sense(wanted: int, acked: int, window_bytes: int) -> None:
    with (
        rogue_receiver(lambda sock: welcome(sock, wanted, acked, window_bytes)) as port,
        pytest.raises(StreamCorrupt),
    ):
        connect(f"tcp://127.0.0.1:{port}", LinkOptions(timing=QUICK))


def test_a_receiver_that_answers_nothing() -> None:
    with (
        rogue_receiver(lambda sock: sock.recv(1) and None) as port,
        pytest.raises(StreamBroken, match="it took too long"),
    ):
        connect(f"tcp://127.0.0.1:{port}", LinkOptions(timing=QUICK))


@pytest.mark.parametrize("reads", [True, False])
def test_a_receiver_that_lives_but_takes_nothing(reads: bool) -> None:
    def control(sock: socket.socket) -> None:
        welcome(sock, window_bytes=1 << 40)
        while True:
            sock.sendall(Frame(Kind.BEAT).pack())
            time.sleep(0.1)

    with rogue_receiver(control, reads=reads) as port:
        outgoing = connect(f"tcp://127.0.0.1:{port}", LinkOptions(timing=QUICK, window_bytes=16 << 20))
        with pytest.raises(StreamBroken, match=r"alive but took nothing for 1\.5 s"):
            send_for_ever(outgoing)
        outgoing.close()


def test_a_receiver_that_drops_each_connection() -> None:
    def control(sock: socket.socket) -> None:
        welcome(sock)

    with rogue_receiver(control) as port:
        outgoing = connect(f"tcp://127.0.0.1:{port}", LinkOptions(timing=QUICK))
        with pytest.raises(StreamBroken, match="no connection"):
            outgoing.wait_for(outgoing.send([b"x"]))
        outgoing.close()


def test_a_receiver_that_floods_with_signs_of_life_is_borne() -> None:
    def control(sock: socket.socket) -> None:
        welcome(sock)
        beats = Frame(Kind.BEAT).pack() * 1000
        for _ in range(30):
            sock.sendall(beats)
        refusal = Refusal("That was all.", "", 1)
        sock.sendall(Frame(Kind.REFUSE, payload=refusal.pack()).pack())
        time.sleep(1)

    with rogue_receiver(control) as port:
        outgoing = connect(f"tcp://127.0.0.1:{port}", LinkOptions(timing=HASTY))
        with pytest.raises(StreamRefused, match="That was all"):
            outgoing.wait_for(outgoing.send([b"x"]))
        outgoing.close()
