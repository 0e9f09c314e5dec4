"""Links between two hosts: a cable that is pulled out, a slow one, and a long way on which packets get lost."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import pytest

from streams.keys import Authority
from tests.harness import REPO, poll_until
from tests.link.peers import digest_of, good_credentials
from tests.longway import two_distant_hosts
from tests.netns import Host, Link

PORT = 7077


class Ending(TypedDict):
    """What a side says in the end."""

    digest: str
    messages: int
    told: list[tuple[str, str]]


class End:
    """One side, as a process of its host."""

    def __init__(self, host: Host, *words: object) -> None:
        self.process = subprocess.Popen(
            host.words(sys.executable, "-m", "tests.link.ends", *words),
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ending(self) -> Ending:
        out, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        said: Ending = json.loads(out.splitlines()[-1])
        return said


@contextmanager
def ends(link: Link, keys: Path, n_messages: int, parallel: int = 1) -> Iterator[tuple[End, End]]:
    """A sender on the left, a receiver on the right."""
    receiver = End(link.right, "receive", keys, f"{link.right.address}:{PORT}", n_messages, parallel)
    both = [receiver]
    try:
        assert receiver.process.stdout is not None
        assert receiver.process.stdout.readline().startswith("listening")
        both.append(End(link.left, "send", keys, f"tls://{link.right.address}:{PORT}", n_messages, parallel))
        yield both[1], receiver
    finally:
        for end in both:
            end.process.kill()
            end.process.communicate()


@pytest.fixture
def keys(tmp_path: Path, ca: Authority) -> Path:
    """A directory with the credentials of both sides."""
    good_credentials(tmp_path, ca)
    return tmp_path


def received_bytes(link: Link) -> int:
    """What the right host got so far."""
    return int(link.right.run("cat", "/sys/class/net/eth0/statistics/rx_bytes").stdout)


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_cable_pulled_out_at_random_points(hosts: Link, keys: Path, rng: random.Random, parallel: int) -> None:
    n_messages = 700
    hosts.limit_rate(40_000_000)
    with ends(hosts, keys, n_messages, parallel) as (sender, receiver):
        for _ in range(2):
            due_bytes = received_bytes(hosts) + rng.randrange(100_000, 3_000_000)
            poll_until(
                lambda due=due_bytes: received_bytes(hosts) >= due or sender.process.poll() is not None,  # type: ignore[misc]
                30,
                "bytes to arrive",
            )
            host = rng.choice(hosts.hosts)
            host.set_link(up=False)
            if rng.random() < 0.7:  # longer than it takes to notice
                poll_until(lambda: not is_connected(hosts.right), 10, "connections to be given up")
            host.set_link(up=True)
        said = sender.ending()
        assert receiver.ending()["digest"] == digest_of(n_messages)
        subjects = [subject for subject, _ in said["told"]]
        assert subjects.count("reconnected") == subjects.count("reconnecting")


def is_connected(host: Host) -> bool:
    """Whether it has an established TCP connection; proc_net_tcp."""
    tables = host.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout
    return any(line.split()[3] == "01" for line in tables.splitlines())


def test_a_long_way_on_which_packets_get_lost(keys: Path, rng: random.Random) -> None:
    n_messages = 200
    with two_distant_hosts(rng) as (link, way):
        way.delay_s, way.loss = 0.02, 0.01
        with ends(link, keys, n_messages, parallel=2) as (sender, receiver):
            sender.ending()
            assert receiver.ending()["digest"] == digest_of(n_messages)
        assert way.n_lost > 0


def test_delay_and_loss_of_the_kernel(hosts: Link, keys: Path) -> None:
    n_messages = 200
    hosts.impair("delay", "20ms", "5ms", "loss", "1%", "reorder", "5%")
    with ends(hosts, keys, n_messages, parallel=2) as (sender, receiver):
        sender.ending()
        assert receiver.ending()["digest"] == digest_of(n_messages)
