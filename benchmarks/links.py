"""A checkpoint sent by `run` and taken by `receive` over TLS: on loopback, or from one host to the other."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import MIB, REPO, Bench, Command, run, wait
from benchmarks.figures import Figure
from benchmarks.measure import OWN_MEMORY_MIB, STAGING_MIB
from tests.harness import Event, number, parse_events, poll_until
from tests.netns import Host

LISTENING_S = 30.0
WINDOW_MIB = 64  # predump's default


@dataclass(frozen=True, slots=True)
class Transfer:
    """Both commands, which ended well."""

    run: Command
    receive: Command

    @property
    def result(self) -> Event:
        """That of `run`."""
        return parse_events(self.run.stdout)[-1]

    @property
    def received(self) -> Event:
        """That of `receive`."""
        return parse_events(self.receive.stdout)[-1]

    @property
    def stored_bytes(self) -> int:
        """Of all rounds, as they were received."""
        return number(self.received, "stored_bytes")


@dataclass(frozen=True, slots=True)
class Route:
    """From where to where: None is this host, by loopback."""

    keys: Path
    sender: Host | None = None
    receiver: Host | None = None

    @property
    def address(self) -> str:
        """Where the receiver is reached."""
        return self.receiver.address if self.receiver else "127.0.0.1"

    def make_keys(self, bench: Bench) -> None:
        """Certificates for both sides."""
        bench.predump("keys", "-o", self.keys, "--host", self.address)

    def words(self, host: Host | None, role: str, *args: object) -> Sequence[str]:
        """The command line of a side."""
        files = ("--cert", self.keys / f"{role}.pem", "--key", self.keys / f"{role}.key", "--ca", self.keys / "ca.pem")
        command = [str(word) for word in (sys.executable, "-m", "cli", *args, *files, "--json")]
        return host.words(*command) if host else command


def transfer(route: Route, directory: Path, *args: object, receives: Sequence[object] = ()) -> Transfer:
    """`predump run ARGS` into `directory`, which must not exist, at the other end of the route.

    `receives` are further words for the receiver. It may not converge. Raises RuntimeError if one of the two fails.
    """
    listen = ("receive", "-D", directory, "--listen", f"{route.address}:0", *receives)
    with tempfile.TemporaryFile("w+") as out:
        words = route.words(route.receiver, "receiver", *listen)
        receiver = subprocess.Popen(words, cwd=REPO, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            poll_until(
                lambda: receiver.poll() is not None or b"listening" in _so_far(out.fileno()),
                LISTENING_S,
                "it to listen",
            )
            port = _port(_so_far(out.fileno()))
            since_ns = time.monotonic_ns()
            sent = run(
                *route.words(route.sender, "sender", *args, "--to", f"tls://{route.address}:{port}"), codes=(0, 3)
            )
            code, max_rss_kib = wait(receiver)
            wall_ns = time.monotonic_ns() - since_ns
        except BaseException:
            receiver.kill()
            receiver.wait()
            raise
        said = _so_far(out.fileno()).decode()
    if code != 0:
        raise RuntimeError(f"{' '.join(words)}: exit code {code}\n{said}")
    return Transfer(sent, Command(said, wall_ns, max_rss_kib * 1024))


def own_memory(size: str, transfers: Sequence[Transfer]) -> list[Figure]:
    """What both sides take beside the staging memory."""
    sides = (
        ("run --to", [one.run.max_rss_bytes / MIB - STAGING_MIB for one in transfers], "without the staging memory"),
        ("receive", [one.receive.max_rss_bytes / MIB for one in transfers], ""),
    )
    return [
        Figure(
            name=f"{size}: own memory of {side}",
            unit="MiB",
            measured=measured,
            limits=[OWN_MEMORY_MIB + WINDOW_MIB] * len(measured),
            note=f"VmHWM {what}".strip() + f", of which {WINDOW_MIB} MiB may be on their way",
        )
        for side, measured, what in sides
    ]


def _so_far(fd: int) -> bytes:
    return os.pread(fd, MIB, 0)


def _port(said: bytes) -> int:
    """Of the first event. Raises RuntimeError if it is another than that it listens."""
    try:
        return int(json.loads(said.splitlines()[0])["port"])
    except (ValueError, LookupError):
        raise RuntimeError(f"predump receive does not listen\n{said.decode()}") from None
