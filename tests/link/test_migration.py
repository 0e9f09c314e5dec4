"""The memory of a service under load goes from one host to another, whatever happens to the link and the receiver."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.keys import Authority
from tests.harness import REPO, Event, is_stopped, is_untouched, number, poll_until, predump
from tests.link.peers import good_credentials
from tests.link.test_hosts import received_bytes
from tests.link.test_link_commands import listening, words_of
from tests.netns import Link
from tests.oracle import compare
from tests.redisserver import VALUE_BYTES, ask, client, needs_redis, redis_server

VALUES = 24  # of 1 MiB
LINK_BITS_PER_S = 200_000_000
CUTS = 3
END_S = 90


@contextmanager
def busy_redis(directory: Path) -> Iterator[tuple[int, int]]:
    """The pid and the port of a redis-server with values that do not compress, and a client that writes."""
    with redis_server(directory, 1) as (server, port), client(port):
        for key in range(VALUES):
            assert ask(port, b"SET", b"random%d" % key, os.urandom(VALUE_BYTES)) == b"+OK"
        yield server.pid, port


def start_run(hosts: Link, pid: int, port: int, credentials: tuple[str, ...], *options: str) -> subprocess.Popen[str]:
    to = f"tls://{hosts.right.address}:{port}"
    words = (sys.executable, "-m", "cli", "run", "-t", pid, "--to", to, "--json", *credentials, *options)
    return subprocess.Popen(hosts.left.words(*words), cwd=REPO, stdout=subprocess.PIPE, text=True)


def events_of(run: subprocess.Popen[str]) -> list[Event]:
    out, _ = run.communicate(timeout=END_S)
    assert run.returncode == 0, out
    return [json.loads(line) for line in out.splitlines()]


def wait_for_bytes(hosts: Link, n_bytes: int) -> None:
    due_bytes = received_bytes(hosts) + n_bytes
    poll_until(lambda: received_bytes(hosts) >= due_bytes, END_S, "more to arrive")


def assert_received(pid: int, checkpoint: Path) -> None:
    """What arrived is whole, and the memory of the stopped original, page by page."""
    predump("verify", checkpoint)
    assert is_stopped(pid)
    found = compare(pid, checkpoint)
    assert not found.mismatches, str(found)
    assert found.pages_compared > VALUES * 256, str(found)


@needs_redis
def test_redis_over_a_link_that_is_cut_and_slow(
    hosts: Link, tmp_path: Path, checkpoint: Path, ca: Authority, rng: random.Random
) -> None:
    sender, receiver = good_credentials(tmp_path, ca)
    hosts.limit_rate(LINK_BITS_PER_S)
    with (
        busy_redis(tmp_path) as (pid, port),
        listening(checkpoint, "0", *words_of(receiver), host=hosts.right) as listener,
    ):
        run = start_run(hosts, pid, listener.port, words_of(sender), "--leave-stopped", "--max-freeze", "1s")
        try:
            for _ in range(CUTS):
                wait_for_bytes(hosts, rng.randrange(1 << 18, 2 << 20))
                rng.choice(hosts.hosts).set_link(up=False)
                assert ask(port, b"SET", b"while-it-is-cut", b"1") == b"+OK"
                assert is_untouched(pid)
                hosts.mend()
                hosts.limit_rate(rng.choice((LINK_BITS_PER_S, LINK_BITS_PER_S // 4)))
            events = events_of(run)
        finally:
            run.kill()
            run.communicate()
        assert [event["round"] for event in events if event["type"] == "round-start" and event["full"]] == [1]
        assert listener.events()[-1]["rounds"] == number(events[-1], "round")
        assert_received(pid, checkpoint)
        os.kill(pid, signal.SIGCONT)
        assert ask(port, b"PING") == b"+PONG"


@needs_redis
def test_redis_to_a_receiver_that_is_killed_and_started_again(
    hosts: Link, tmp_path: Path, checkpoint: Path, ca: Authority, rng: random.Random
) -> None:
    sender, receiver = good_credentials(tmp_path, ca)
    hosts.limit_rate(LINK_BITS_PER_S)
    with busy_redis(tmp_path) as (pid, port):
        with listening(checkpoint, "0", *words_of(receiver), host=hosts.right) as first:
            options = ("--leave-stopped", "--max-freeze", "1s", "--interval", "200ms")
            run = start_run(hosts, pid, first.port, words_of(sender), *options)
            wait_for_bytes(hosts, rng.randrange(1 << 18, 4 << 20))
        try:
            assert ask(port, b"PING") == b"+PONG"
            with listening(checkpoint, str(first.port), *words_of(receiver), host=hosts.right) as again:
                events = events_of(run)
                assert again.events()[-1]["type"] == "result"
        finally:
            run.kill()
            run.communicate()
        assert [event["round"] for event in events if event["type"] == "round-start" and event["full"]] == [1]
        assert_received(pid, checkpoint)
