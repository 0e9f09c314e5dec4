"""Connections break, stall and come late, receivers die and come back: each message arrives once and in order, or the
session ends with a word on why.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace

import pytest

from streams import outgoing as outgoing_module
from streams.errors import StreamBroken, StreamRefused
from streams.link import Credentials, LinkOptions, LinkOutgoing, Timing, connect, listen
from tests.harness import poll_until
from tests.link.peers import HASTY, Digest, News, Receiver, digest_of, message
from tests.link.proxy import Proxy, proxied

Sides = tuple[Credentials, Credentials]
MESSAGES = 300


def never_heard_of(_session: bytes) -> int:
    return 0


def through(
    proxy: Proxy, sides: Sides | None, timing: Timing = HASTY, parallel: int = 1, news: News | None = None
) -> LinkOutgoing:
    options = LinkOptions(
        credentials=sides and sides[0], timing=timing, parallel=parallel, tell=news or News(), window_bytes=16 << 20
    )
    return connect(f"{'tls' if sides else 'tcp'}://127.0.0.1:{proxy.port}", options)


def send_all(outgoing: LinkOutgoing, begin: int = 1, end: int = MESSAGES) -> None:
    for number in range(begin, end + 1):
        assert outgoing.send([message(number)]) == number


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("tls", [True, False])
def test_connections_cut_at_random_points_lose_and_repeat_nothing(
    sides: Sides, rng: random.Random, tls: bool, parallel: int
) -> None:
    receiver_options = LinkOptions(credentials=sides[1] if tls else None, timing=HASTY, window_bytes=16 << 20)
    with (
        listen("127.0.0.1:0", receiver_options, never_heard_of) as listener,
        proxied(listener.address.port, rng) as proxy,
    ):
        news = News()
        outgoing = through(proxy, sides if tls else None, parallel=parallel, news=news)
        with listener.accept() as incoming:
            receiver = Receiver(incoming, acknowledge_every=rng.choice((1, 5, 20)))
            proxy.budget_bytes = 10_000, 600_000
            proxy.max_delay_s = 0.002
            proxy.cut()
            send_all(outgoing)
            poll_until(lambda: proxy.n_cut >= 5 or receiver.digest.n_messages == MESSAGES, 30, "connections to be cut")
            proxy.budget_bytes = None
            outgoing.wait_for(MESSAGES)
            outgoing.close()
            assert receiver.join().error is None
        assert receiver.digest.text == digest_of(MESSAGES)
        assert proxy.n_cut > 2
        assert "reconnecting" in news.subjects
        assert "reconnected" in news.subjects


def test_a_silent_link_is_noticed_and_a_slow_one_is_left_alone(sides: Sides, rng: random.Random) -> None:
    news = News()
    options = LinkOptions(credentials=sides[1], timing=HASTY)
    with listen("127.0.0.1:0", options, never_heard_of) as listener, proxied(listener.address.port, rng) as proxy:
        outgoing = through(proxy, sides, news=news)
        with listener.accept() as incoming:
            receiver = Receiver(incoming)
            proxy.max_delay_s = 0.2
            begin_s = time.monotonic()
            outgoing.wait_for(outgoing.send([bytes(2 << 20)]))
            assert time.monotonic() - begin_s > HASTY.silence_s  # longer than a silent one would be given
            assert news.subjects == []
            proxy.max_delay_s = 0.0
            proxy.is_silent = True
            number = outgoing.send([b"lost on the way"])
            threading.Timer(HASTY.silence_s * 1.3, lambda: setattr(proxy, "is_silent", False)).start()
            outgoing.wait_for(number)
            assert "nothing was heard for 1.5 s" in news.of("reconnecting")
            outgoing.close()
            assert receiver.join().error is None
            assert receiver.digest.n_messages == 2


def test_changed_bytes_break_the_connection_and_not_the_session(sides: Sides, rng: random.Random) -> None:
    news = News()
    options = LinkOptions(credentials=sides[1], timing=HASTY)
    with listen("127.0.0.1:0", options, never_heard_of) as listener, proxied(listener.address.port, rng) as proxy:
        outgoing = through(proxy, sides, news=news)
        with listener.accept() as incoming:
            receiver = Receiver(incoming)
            proxy.corrupt_at = 1000
            send_all(outgoing)
            outgoing.wait_for(MESSAGES)
            outgoing.close()
            assert receiver.join().error is None
        assert proxy.corrupt_at is None
        assert receiver.digest.text == digest_of(MESSAGES)
        assert "reconnected" in news.subjects


def test_an_outage_that_lasts_ends_the_session_on_both_sides(rng: random.Random) -> None:
    timing = replace(HASTY, reconnect_s=1.0)
    with (
        listen("127.0.0.1:0", LinkOptions(timing=timing), never_heard_of) as listener,
        proxied(listener.address.port, rng) as proxy,
    ):
        outgoing = through(proxy, None, timing)
        with listener.accept() as incoming:
            outgoing.send([b"before"])
            assert incoming.receive() == b"before"
            proxy.is_down = True
            proxy.cut()
            with pytest.raises(StreamBroken, match=r"There was no connection to 127.0.0.1:\d+ for 1 s") as caught:
                outgoing.wait_for(1)
            assert "--reconnect-timeout" in caught.value.hint
            with pytest.raises(StreamBroken, match="The sender was away for 1 s"):
                incoming.receive()
        outgoing.close()


def test_whoever_waits_in_an_outage_is_let_go_by_give_up(rng: random.Random) -> None:
    with (
        listen("127.0.0.1:0", LinkOptions(timing=HASTY), never_heard_of) as listener,
        proxied(listener.address.port, rng) as proxy,
    ):
        outgoing = through(proxy, None)
        with listener.accept():
            number = outgoing.send([b"x"])
            proxy.is_down = True
            proxy.cut()
            threading.Timer(0.3, outgoing.give_up).start()
            with pytest.raises(StreamBroken, match="given up"):
                outgoing.wait_for(number)
            begin_s = time.monotonic()
            outgoing.close()
            assert time.monotonic() - begin_s < HASTY.close_s


def test_a_receiver_that_died_goes_on_where_its_successor_says(sides: Sides, rng: random.Random) -> None:
    options = LinkOptions(credentials=sides[1], timing=HASTY)
    digest, number = Digest(), 0
    first = listen("127.0.0.1:0", options, never_heard_of)
    with proxied(first.address.port, rng) as proxy:
        outgoing = through(proxy, sides, parallel=2)
        session = first.accept()
        sender = threading.Thread(target=send_all, args=(outgoing,), daemon=True)
        sender.start()
        for _ in range(3):
            for _ in range(rng.randrange(1, 40)):
                item = session.receive()
                assert item is not None
                digest.update(item)  # in its place,
                number += 1
                if rng.random() < 0.5:
                    session.acknowledge(number)  # and known to be, or not
            proxy.is_down = True
            proxy.cut()
            first.close()
            session.close()
            known = {session.session: number}
            first = listen("127.0.0.1:0", options, lambda id_, known=known: known.get(id_, 0))  # type: ignore[misc]
            proxy.upstream_port = first.address.port
            proxy.is_down = False
            session = first.accept()
            assert session.session in known
            assert session.resumed == number
        receiver = Receiver(session, digest=digest)
        sender.join(30)
        outgoing.wait_for(MESSAGES)
        outgoing.close()
        assert receiver.join().error is None
        assert digest.text == digest_of(MESSAGES)
        session.close()
        first.close()


@pytest.mark.parametrize(("known", "words"), [(0, "knows nothing of this session"), (1, "only messages up to 1")])
def test_a_receiver_that_forgot_the_session_says_so(rng: random.Random, known: int, words: str) -> None:
    news = News()
    first = listen("127.0.0.1:0", LinkOptions(timing=HASTY), never_heard_of)
    with proxied(first.address.port, rng) as proxy:
        outgoing = through(proxy, None)
        with first.accept() as incoming:
            for number in (1, 2):
                outgoing.send([b"x"])
                incoming.receive()
                incoming.acknowledge(number)
            outgoing.wait_for(2)
            outgoing.send([b"not acknowledged"])
            first.close()
        with listen("127.0.0.1:0", LinkOptions(timing=HASTY, tell=news), lambda _: known) as second:
            proxy.upstream_port = second.address.port
            proxy.cut()
            with pytest.raises(StreamRefused, match=words):
                outgoing.wait_for(3)
            assert second.is_idle
            outgoing.close()


def test_an_acknowledgement_that_got_lost_is_said_again(rng: random.Random) -> None:
    with (
        listen("127.0.0.1:0", LinkOptions(timing=HASTY), never_heard_of) as listener,
        proxied(listener.address.port, rng) as proxy,
    ):
        outgoing = through(proxy, None)
        with listener.accept() as incoming:
            number = outgoing.send([b"x"])
            assert incoming.receive() == b"x"
            proxy.is_silent = True
            incoming.acknowledge(1)
            time.sleep(0.2)  # the time it would take if it could pass
            proxy.cut()
            proxy.is_silent = False
            outgoing.wait_for(number)
            outgoing.close()
            assert incoming.receive() is None


def test_the_end_is_confirmed_over_a_new_connection(rng: random.Random) -> None:
    with (
        listen("127.0.0.1:0", LinkOptions(timing=HASTY), never_heard_of) as listener,
        proxied(listener.address.port, rng) as proxy,
    ):
        outgoing = through(proxy, None)
        with listener.accept() as incoming:
            proxy.cut()
            outgoing.close()
            assert incoming.receive() is None


def test_nothing_is_left_of_a_session(sides: Sides) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    with listen("127.0.0.1:0", LinkOptions(credentials=sides[1], timing=HASTY), never_heard_of) as listener:
        options = LinkOptions(credentials=sides[0], timing=HASTY, parallel=3)
        outgoing = connect(f"tls://{listener.address}", options)
        with listener.accept() as incoming:
            receiver = Receiver(incoming)
            outgoing.wait_for(outgoing.send([b"x"]))
            outgoing.close()
            receiver.join()
    poll_until(lambda: {t.ident for t in threading.enumerate()} <= before, 5, "all threads to end")


def test_connections_are_made_anew_before_a_key_is_used_up(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing_module, "MAX_CARRIED_BYTES", 500_000)
    news = News()
    with listen("127.0.0.1:0", LinkOptions(credentials=sides[1], timing=HASTY), never_heard_of) as listener:
        options = LinkOptions(credentials=sides[0], timing=HASTY, tell=news)
        outgoing = connect(f"tls://{listener.address}", options)
        with listener.accept() as incoming:
            receiver = Receiver(incoming)
            send_all(outgoing)
            outgoing.wait_for(MESSAGES)
            outgoing.close()
            assert receiver.join().digest.text == digest_of(MESSAGES)
    assert "carried enough for one key" in news.of("reconnecting")


def test_a_sender_is_not_held_up_by_whoever_listens_to_its_news(rng: random.Random) -> None:
    released = threading.Event()
    with (
        listen("127.0.0.1:0", LinkOptions(timing=HASTY), never_heard_of) as listener,
        proxied(listener.address.port, rng) as proxy,
    ):
        options = LinkOptions(timing=HASTY, tell=lambda *_: released.wait(30) and None)
        outgoing = connect(f"tcp://127.0.0.1:{proxy.port}", options)
        with listener.accept() as incoming:
            receiver = Receiver(incoming)
            for _ in range(3):
                proxy.cut()
                outgoing.wait_for(outgoing.send([b"x"]))
            outgoing.close()
            assert receiver.join().digest.n_messages == 3
        released.set()
