"""Links as the command line makes them: who is refused and how, and a checkpoint that survives a cable pulled out."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.keys import Authority, Period
from streams.link import Credentials
from tests.harness import REPO, Event, Target, is_untouched, poll_until, predump
from tests.link.peers import good_credentials, write_credentials
from tests.link.test_hosts import is_connected, received_bytes
from tests.netns import Host, Link

Sides = tuple[Credentials, Credentials]
pytestmark = pytest.mark.usefixtures("targets")


class Listening:
    """A `predump receive --listen`; `port` is what it says that it listens at."""

    def __init__(self, directory: Path, place: str, *words: str, host: Host | None = None) -> None:
        command = [sys.executable, "-m", "cli", "receive", "-D", str(directory), "--listen", place, "--json", *words]
        self.process = subprocess.Popen(
            host.words(*command) if host else command,
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = json.loads(self.process.stdout.readline())["port"]

    def events(self, exit_code: int = 0) -> list[Event]:
        """All that it said until its end."""
        out, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == exit_code, out + errors
        return [json.loads(line) for line in out.splitlines()]


@contextmanager
def listening(directory: Path, place: str, *words: str, host: Host | None = None) -> Iterator[Listening]:
    receiver = Listening(directory, place, *words, host=host)
    try:
        yield receiver
    finally:
        receiver.process.kill()
        receiver.process.communicate()


def words_of(credentials: Credentials) -> tuple[str, ...]:
    """As options."""
    return "--cert", str(credentials.cert), "--key", str(credentials.key), "--ca", str(credentials.ca)


def test_a_checkpoint_goes_over_tls_after_others_were_refused(
    tmp_path: Path, checkpoint: Path, sides: Sides, ca: Authority
) -> None:
    stranger = write_credentials(tmp_path, "stranger", Authority(Period.from_now()).issue("sender", []), ca)
    with Target.spawn("idle", 1, 8, 0) as target, listening(checkpoint, "0", *words_of(sides[1])) as receiver:
        to = ("dump", "-p", target.pid, "--to", f"tls://127.0.0.1:{receiver.port}")
        refused = predump(*to, *words_of(stranger), expect=11)
        assert "does not vouch for the certificate of this side" in refused.stderr
        plain = predump(*to[:-1], f"tcp://127.0.0.1:{receiver.port}", expect=1)
        assert "Cannot connect" in plain.stderr
        assert is_untouched(target.pid)
        predump(*to, "--parallel", 3, "--kill", *words_of(sides[0]))
        assert target.wait() == -9
        events = receiver.events()
    told = [event["message"] for event in events if event["type"] == "notice"]
    assert any("certificate" in str(message) for message in told)
    assert events[-1]["rounds"] == 3  # one of them right before the freeze
    predump("verify", checkpoint)


@pytest.mark.parametrize("to", ["tcp://10.1.2.3:7077", "tcp://example.org:7077", "tls://127.0.0.1:7077"])
def test_no_plain_text_beyond_loopback_and_no_tls_without_certificates(to: str) -> None:
    with Target.spawn("idle", 1, 8, 0) as target:
        predump("dump", "-p", target.pid, "--to", to, expect=2)
        assert is_untouched(target.pid)


@pytest.mark.parametrize("words", [["--listen", "0.0.0.0:0"], ["--listen", "0", "--cert", "x"], ["--listen", "x"]])
def test_wrong_ways_to_listen(checkpoint: Path, words: list[str]) -> None:
    predump("receive", "-D", checkpoint, *words, expect=2)


def test_an_address_that_is_taken(checkpoint: Path, tmp_path: Path) -> None:
    with listening(checkpoint, "0") as receiver:
        again = predump("receive", "-D", tmp_path / "other", "--listen", receiver.port, expect=2)
        assert "already in use" in again.stderr


def test_a_run_goes_on_when_the_cable_is_back(
    hosts: Link, tmp_path: Path, checkpoint: Path, ca: Authority, rng: random.Random
) -> None:
    sender, receiver = good_credentials(tmp_path, ca)
    hosts.limit_rate(100_000_000)
    content = tmp_path / "content"
    content.write_bytes(os.urandom(24 << 20))
    hold = f"data = open({str(content)!r}, 'rb').read(); print('ready', flush=True); input()"
    python = Target.spawn(sys.executable, "-c", hold)
    with python as target, listening(checkpoint, "0", *words_of(receiver), host=hosts.right) as listener:
        to = f"tls://{hosts.right.address}:{listener.port}"
        command = [sys.executable, "-m", "cli", "run", "-p", target.pid, "--to", to, "--json", *words_of(sender)]
        run = subprocess.Popen(hosts.left.words(*command), cwd=REPO, stdout=subprocess.PIPE, text=True)
        try:
            due_bytes = received_bytes(hosts) + rng.randrange(1 << 20, 12 << 20)
            poll_until(lambda: received_bytes(hosts) >= due_bytes, 30, "a part of the round to arrive")
            rng.choice(hosts.hosts).set_link(up=False)
            poll_until(lambda: not is_connected(hosts.right), 30, "the connections to be given up")
            assert is_untouched(target.pid)
            hosts.mend()
            out, _ = run.communicate(timeout=60)
        finally:
            run.kill()
            run.communicate()
        assert run.returncode == 0, out
        events = [json.loads(line) for line in out.splitlines()]
        told = [event["subject"] for event in events if event["type"] == "notice"]
        assert told.count("reconnecting") == told.count("reconnected") == 1
        full = [event["round"] for event in events if event["type"] == "round-start" and event["full"]]
        assert full == [1]  # and no other, for all that happened to the link
        assert listener.events()[-1]["rounds"] == events[-1]["round"]
    predump("verify", checkpoint)


def test_a_receiver_says_what_it_has_when_its_sender_is_gone(checkpoint: Path) -> None:
    with Target.spawn("idle", 1, 8, 0) as target:
        with listening(checkpoint, "0", "--reconnect-timeout", "1s") as receiver:
            to = f"tcp://127.0.0.1:{receiver.port}"
            command = [sys.executable, "-m", "cli", "run", "-p", target.pid, "--to", to, "--interval", "60s"]
            run = subprocess.Popen(list(map(str, command)), cwd=REPO, stderr=subprocess.DEVNULL)
            try:
                poll_until((checkpoint / "0001" / "manifest.json").exists, 30, "the first round to be committed")
            finally:
                run.kill()
                run.wait()
            error = receiver.events(exit_code=1)[-1]
        assert "The sender was away for 1 s" in str(error["message"])
        assert "1 round was completed in" in str(error["hint"])
        assert error["rounds"] == 1
        assert is_untouched(target.pid)
    predump("verify", checkpoint)
