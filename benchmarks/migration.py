"""A service moves from one host to another under load: what its client sees of it, and what the time is made of.

The client is at the first host and has its address; the service has one that moves along.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks import links
from benchmarks.bench import MIB, Bench
from benchmarks.figures import Figure, spread
from benchmarks.measure import Say, ms
from tests.harness import Event, Target, number, poll_until
from tests.netns import DEVICE, Link, two_hosts
from tests.redisserver import SERVER, running

BITS_PER_S = 10_000_000_000
WRITES_PER_S = 5_000
VALUE_BYTES = 1024
MAX_GAP_MS = 60
FLOATING, PORT = "10.231.0.99", "7398"
READY_S, FILL_S = 30.0, 300.0
ALONE_S = 2.0


def migrations(bench: Bench, mib: int, size: str, runs: int, say: Say) -> list[Figure]:
    """The longest time without an answer, of a client that connects again at once, while redis-server moves."""
    title = f"redis-server, {size} of data, {WRITES_PER_S} writes/s, to another host over 10 Gbit/s"
    if SERVER is None:
        return [Figure(name=title, unit="", skipped="redis is not installed here")]
    moves = []
    try:
        with two_hosts() as link:
            link.limit_rate(BITS_PER_S)
            for i in range(runs):
                say(f"migration of redis-server {i + 1} of {runs}")
                moves.append(_move(bench, link, mib))
    except pytest.skip.Exception as reason:
        return [Figure(name=title, unit="", skipped=str(reason))]
    parts = {name: [move[name] for move in moves] for name in moves[0]}
    gaps_ms = parts.pop("gap")
    return [
        Figure(
            name=f"{title}: the longest time without an answer",
            unit="ms",
            measured=gaps_ms,
            limits=[MAX_GAP_MS] * runs,
            note="in ms: "
            + ", ".join(f"{name} {spread(values)}" for name, values in parts.items())
            + "; no acknowledged write was lost",
            details=parts,
        )
    ]


def _move(bench: Bench, link: Link, mib: int) -> Mapping[str, float]:
    """One migration: times in ms. Raises RuntimeError if an acknowledged write was lost."""
    with (
        bench.directory() as directory,
        _floating(link) as moves,
        _server(link, directory) as pid,
        _client(bench, link, mib) as client,
    ):
        client.command("fill", FILL_S)
        client.command(f"rate {WRITES_PER_S}")
        alone_ms = _work_on(client, ALONE_S)
        route = links.Route(directory / "keys", *link.hosts)
        route.make_keys(bench)
        receives = ("--restore", "--pid", "new", "--tcp", "close", "--exec-before-resume", moves)
        _gap_ms(client)
        done = links.transfer(route, directory / "checkpoint", "run", "-t", pid, "--kill", receives=receives)
        try:
            gap_ms = max(_gap_ms(client), _work_on(client, ALONE_S))
            client.command("rate 0")
            lost = int(client.command("check", FILL_S).split()[1])
        finally:
            for one in _pids(done.result):
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
    if lost:
        raise RuntimeError(f"{lost} acknowledged writes were lost when redis-server moved")
    return {"gap": gap_ms, "alone": alone_ms} | _parts(done.result)


def _work_on(client: Target, for_s: float) -> float:
    """The longest time without an answer, in ms, within so much more work."""

    def answers() -> int:
        return int(client.command("count").split()[1])

    due = answers() + WRITES_PER_S * for_s
    _gap_ms(client)
    poll_until(lambda: answers() > due, READY_S, "writes to be answered")
    return _gap_ms(client)


def _gap_ms(client: Target) -> float:
    """The longest time without an answer since this was asked last."""
    return ms(int(client.command("gap").split()[1]))


def _parts(result: Event) -> dict[str, float]:
    """Of the downtime as the sender tells it; what is left of it are messages on their way."""
    told = result["handover"]
    assert isinstance(told, dict)
    names = {"downtime": "downtime_ns", "restore": "build_ns", "hook": "hook_ns", "resume": "resume_ns"}
    parts = {name: ms(number(told, field)) for name, field in names.items()}
    parts["freeze and last bytes"] = ms(number(told, "downtime_ns") - number(told, "handover_ns"))
    parts["messages"] = ms(number(told, "handover_ns")) - parts["restore"] - parts["hook"] - parts["resume"]
    return parts


def _pids(result: Event) -> list[int]:
    told = result.get("handover")
    assert isinstance(told, dict)
    return [int(pid) for pid in told["pids"]]


@contextmanager
def _floating(link: Link) -> Iterator[str]:
    """An address of the first host, which knows where to ask for it once it has moved; the command that moves it."""
    place = (f"{FLOATING}/32", "dev", DEVICE)
    link.left.run("ip", "address", "add", *place)
    link.left.run("ip", "route", "add", *place, "metric", "500")
    left, right = (" ".join(("ip", "-n", host.namespace, "address")) for host in link.hosts)
    try:
        # In this order: who asks for it in between, and gets no answer, asks again after a second only.
        yield f"{right} add {' '.join(place)} && {left} del {' '.join(place)}"
    finally:
        for host in link.hosts:
            host.run("ip", "address", "del", *place)
        link.left.run("ip", "route", "del", *place, "metric", "500")


@contextmanager
def _server(link: Link, directory: Path) -> Iterator[int]:
    """An empty redis-server at the first host; its pid."""
    options = ("--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no")
    words = link.left.words(SERVER, "--port", PORT, *options, "--dir", directory)
    with running(*words, log=directory / "log") as process:
        poll_until(
            lambda: link.left.run("redis-cli", "-p", PORT, "PING").stdout.strip() == "PONG",
            READY_S,
            "redis-server to answer",
        )
        yield process.pid


@contextmanager
def _client(bench: Bench, link: Link, mib: int) -> Iterator[Target]:
    values = mib * MIB // VALUE_BYTES
    words = link.left.words(bench.program("redisload"), link.left.address, FLOATING, PORT, values, VALUE_BYTES)
    with Target.spawn("/usr/bin/env", *words) as client:
        yield client
