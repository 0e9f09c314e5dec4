"""Links that nobody disturbs: all messages arrive, once and in order; ends, refusals and limits of what is held."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from formats.errors import UsageError
from streams.errors import StreamBroken, StreamRefused
from streams.link import MIN_WINDOW_BYTES, Credentials, LinkOptions, connect, listen
from streams.transport import MAX_MESSAGE_BYTES
from tests.harness import poll_until
from tests.link.peers import HASTY, News, Receiver, digest_of, linked, message

Sides = tuple[Credentials, Credentials]


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("tls", [True, False])
def test_all_messages_arrive_in_order(sides: Sides, tls: bool, parallel: int) -> None:
    with linked(sides if tls else None, parallel=parallel) as (outgoing, incoming):
        receiver = Receiver(incoming, acknowledge_every=7)
        for number in range(1, 701):
            whole = message(number)
            assert outgoing.send([whole[:10], memoryview(whole)[10:], b""]) == number
        outgoing.wait_for(700)
        outgoing.close()
        assert receiver.join().error is None
        assert receiver.digest.text == digest_of(700)


def test_the_largest_message_passes_and_a_larger_one_is_not_sent() -> None:
    with linked(window_bytes=MIN_WINDOW_BYTES) as (outgoing, incoming):
        receiver = Receiver(incoming)
        largest = bytes(MAX_MESSAGE_BYTES)
        for _ in range(3):
            outgoing.wait_for(outgoing.send([largest]))
        with pytest.raises(ValueError, match="8388609"):
            outgoing.send([largest, b"x"])
        outgoing.close()
        receiver.join()
        assert receiver.digest.n_messages == 3


def test_an_end_before_all_is_acknowledged_is_none() -> None:
    with linked() as (outgoing, incoming):
        outgoing.send([b"first"])
        assert incoming.receive() == b"first"
        outgoing.close()
        with pytest.raises(StreamBroken, match="gave up"):
            incoming.receive()


def test_a_refusal_reaches_the_sender_wherever_it_waits() -> None:
    with linked() as (outgoing, incoming):
        number = outgoing.send([b"first"])
        incoming.receive()
        incoming.refuse("The disk\x1b[2J is full.", "Make room.", 1)
        with pytest.raises(StreamRefused, match=r"The disk\?\[2J is full") as caught:
            outgoing.wait_for(number)
        assert caught.value.hint == "Make room."
        assert caught.value.fields["receiver_exit_code"] == 1
        with pytest.raises(StreamRefused):
            outgoing.wait_for(number)


def test_send_waits_for_acknowledgements_and_the_receiver_holds_no_more_than_the_window() -> None:
    window_bytes = 16 << 20
    with linked(window_bytes=window_bytes, parallel=2) as (outgoing, incoming):
        numbers: list[int] = []

        def send() -> None:
            for _ in range(40):
                numbers.append(outgoing.send([bytes(1 << 20)]))

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        poll_until(lambda: len(numbers) == 15, 10, "the window to be filled")  # each costs a little more than its bytes
        taken = [incoming.receive() for _ in range(15)]
        assert len(numbers) == 15  # received is not acknowledged
        incoming.acknowledge(len(taken))
        Receiver(incoming, taken=len(taken))
        sender.join(20)
        outgoing.wait_for(40)


def test_others_are_refused_while_a_session_lives_and_taken_after_it() -> None:
    news = News()
    with listen("0", LinkOptions(timing=HASTY, tell=news), lambda _: 0) as listener:
        to = f"tcp://127.0.0.1:{listener.address.port}"
        first = connect(to, LinkOptions(timing=HASTY))
        with listener.accept() as incoming:
            with pytest.raises(StreamRefused, match="busy"):
                connect(to, LinkOptions(timing=HASTY))
            first.send([b"x"])
            assert incoming.receive() == b"x"
            poll_until(lambda: "busy" in news.of("connection-refused"), 10, "the refusal to be told")
            incoming.acknowledge(1)
            first.wait_for(1)
            first.close()
            assert incoming.receive() is None
        poll_until(lambda: listener.is_idle, 10, "the session to be forgotten")
        second = connect(to, LinkOptions(timing=HASTY))
        with listener.accept():
            second.close()


@pytest.mark.parametrize("to", ["tcp://127.0.0.1:1", "tcp://[::1]:1"])
def test_nobody_listens(to: str) -> None:
    with pytest.raises(StreamBroken, match=r"Cannot connect to .*refused"):
        connect(to, LinkOptions(timing=HASTY))


@pytest.mark.parametrize("to", ["tcp://10.1.2.3:7000", "tcp://example.org:7000", "tcp://localhost:7000"])
def test_without_tls_nothing_leaves_the_host(to: str) -> None:
    with pytest.raises(UsageError, match="Without TLS"):
        connect(to, LinkOptions())


@pytest.mark.parametrize("place", ["0.0.0.0:0", "[::]:0", "10.1.2.3:0", "localhost:0"])
def test_without_tls_nobody_beyond_the_host_is_listened_to(place: str) -> None:
    with pytest.raises(UsageError, match="Without TLS"):
        listen(place, LinkOptions(), lambda _: 0)


def test_without_a_host_only_loopback_is_listened_at() -> None:
    with listen("0", LinkOptions(), lambda _: 0) as listener:
        assert listener.address.host == "127.0.0.1"


@pytest.mark.parametrize("text", ["tls://host", "tls://:7000", "tls://host:70000", "tls://::1:7000", "tls://h:-1", "x"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        connect(text, LinkOptions())


def test_tls_needs_credentials() -> None:
    with pytest.raises(UsageError, match="certificate"):
        connect("tls://127.0.0.1:7000", LinkOptions())


def test_a_host_that_nobody_knows(sides: Sides) -> None:
    with pytest.raises(StreamBroken, match=r"Cannot connect to nobody\.invalid:7000: "):
        connect("tls://nobody.invalid:7000", LinkOptions(credentials=sides[0], timing=HASTY))


def test_loopback_of_either_family() -> None:
    try:
        listener = listen("[::1]:0", LinkOptions(timing=HASTY), lambda _: 0)
    except UsageError as error:
        pytest.skip(f"this host has no IPv6: {error}")
    with listener:
        assert str(listener.address).startswith("[::1]:")
        outgoing = connect(f"tcp://{listener.address}", LinkOptions(timing=HASTY))
        with listener.accept() as incoming:
            receiver = Receiver(incoming)
            outgoing.wait_for(outgoing.send([b"x"]))
            outgoing.close()
            assert receiver.join().error is None


def test_a_sender_keeps_to_the_window_of_its_receiver() -> None:
    small = LinkOptions(timing=HASTY, window_bytes=MIN_WINDOW_BYTES)
    with listen("0", small, lambda _: 0) as listener:
        outgoing = connect(f"tcp://{listener.address}", LinkOptions(timing=HASTY, window_bytes=64 << 20))
        with listener.accept() as incoming:
            for _ in range(40):
                outgoing.send([bytes(1 << 20)])  # held there, and sent as it is acknowledged
            receiver = Receiver(incoming)
            outgoing.wait_for(40)
            outgoing.close()
            assert receiver.join().error is None


def test_a_sender_is_left_to_the_next_receiver_by_one_that_ends() -> None:
    news = News()
    options = LinkOptions(timing=HASTY)
    with listen("127.0.0.1:0", options, lambda _: 0) as ending:
        outgoing = connect(f"tcp://{ending.address}", replace(options, tell=news))
        incoming = ending.accept()
        ending.retire()
        incoming.close()  # and until the listener is closed, the sender comes again and again
        poll_until(lambda: "reconnecting" in news.subjects, 10, "the sender to notice")
    try:
        with listen(str(ending.address), options, lambda _: 0) as listener:
            poll_until(lambda: not listener.is_idle, 10, "the sender to come here")
            with listener.accept() as again:
                outgoing.send([b"message"])
                assert again.receive() == b"message"
    finally:
        outgoing.close()
