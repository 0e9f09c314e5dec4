"""What a target still does while rounds of it are taken, beside what it does alone."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from benchmarks.bench import Bench
from benchmarks.figures import Figure, spread
from benchmarks.measure import Say
from tests.harness import poll_until

LOOP_MIB, HOT_MIB = 256, 64
KEYS, VALUE_BYTES, CLIENTS = 200_000, 256, 8
ALONE_S = 3.0
SLOWER = 0.1  # a share of what it does alone
NEVER = ("--max-freeze", "1us", "--on-no-converge", "cancel")  # rounds, and no dump
READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Worker:
    """A process at work: `count()` tells how much it has done."""

    pid: int
    count: Callable[[], int]


@dataclass(slots=True)
class Rates:
    """What a worker does in a second: alone, while rounds are taken once a second, and one after the other."""

    alone: list[float] = field(default_factory=list)
    at_interval: list[float] = field(default_factory=list)
    at_full_speed: list[float] = field(default_factory=list)


def load(bench: Bench, runs: int, say: Say) -> list[Figure]:
    """By how much two write-heavy workers are slowed down."""
    figures = []
    with _loop(bench) as worker:
        figures.append(_slowed(bench, worker, f"a loop that writes to {HOT_MIB} of {LOOP_MIB} MiB", runs, say))
    if shutil.which("redis-server") and shutil.which("redis-benchmark"):
        with bench.directory() as directory, _redis(directory) as worker:
            figures.append(_slowed(bench, worker, "redis-server under redis-benchmark", runs, say))
    else:
        figures.append(Figure(name="redis-server: slowed by rounds", unit="", skipped="redis is not installed here"))
    return figures


def _slowed(bench: Bench, worker: Worker, what: str, runs: int, say: Say) -> Figure:
    rates = Rates()
    rates.alone.append(_rate(worker, lambda: time.sleep(ALONE_S)))
    for i in range(runs):
        say(f"{what}: {i + 1} of {runs}")
        for words, found in ((("--interval", "1s"), rates.at_interval), ((), rates.at_full_speed)):
            found.append(_rate(worker, lambda words=words: _rounds(bench, worker.pid, *words)))
            rates.alone.append(_rate(worker, lambda: time.sleep(ALONE_S)))
    # Each with what it did before and after.
    before, between = rates.alone[0::2], rates.alone[1::2]
    slowed = [1 - with_ / mean(alone) for with_, *alone in zip(rates.at_interval, before, between, strict=False)]
    at_full_speed = [
        1 - with_ / mean(alone) for with_, *alone in zip(rates.at_full_speed, between, before[1:], strict=False)
    ]
    return Figure(
        name=f"{what}: slowed by rounds at an interval of 1 s",
        unit="",
        measured=slowed,
        limits=[SLOWER] * runs,
        note=f"a share; {spread(at_full_speed)} by rounds without a pause; alone it does {spread(rates.alone)}/s",
        details={"alone": rates.alone, "at_interval": rates.at_interval, "at_full_speed": rates.at_full_speed},
    )


def _rounds(bench: Bench, pid: int, *words: str) -> None:
    with bench.directory() as directory:
        bench.predump("run", "-p", pid, "-D", directory / "checkpoint", *NEVER, *words, "--json", codes=(3,))


def _rate(worker: Worker, meanwhile: Callable[[], None]) -> float:
    """What it does in a second, from begin to end of something else."""
    since_s, before = time.monotonic(), worker.count()
    meanwhile()
    return (worker.count() - before) / (time.monotonic() - since_s)


@contextmanager
def _loop(bench: Bench) -> Iterator[Worker]:
    with bench.loop(LOOP_MIB, HOT_MIB) as target:
        yield Worker(target.pid, lambda: int(target.command("count").split()[1]))


@contextmanager
def _redis(directory: Path) -> Iterator[Worker]:
    """A server, and a client that sets its keys as fast as it can."""
    path = str(directory / "redis.socket")
    server_words = ("--port", "0", "--unixsocket", path, "--save", "", "--dir", str(directory))
    client_words = ("-s", path, "-t", "set", "-r", KEYS, "-d", VALUE_BYTES, "-c", CLIENTS, "-n", 10**9, "-q")
    with _running("redis-server", *server_words) as server:
        poll_until(lambda: os.path.exists(path), READY_S, "redis-server to listen")  # noqa: PTH110 - a socket
        with _running("redis-benchmark", *map(str, client_words)), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            poll_until(lambda: _commands(connection) > 2 * KEYS, READY_S, "redis-server to have most keys")
            yield Worker(server.pid, lambda: _commands(connection))


@contextmanager
def _running(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _commands(connection: socket.socket) -> int:
    """total_commands_processed of INFO."""
    connection.sendall(b"INFO stats\r\n")
    said = b""
    while not said.endswith(b"\r\n") or b"total_commands_processed:" not in said:
        said += connection.recv(1 << 16)
    return int(said.split(b"total_commands_processed:")[1].split()[0])
