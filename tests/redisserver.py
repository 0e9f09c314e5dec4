"""redis-server as a target, and its clients."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness import poll_until

SERVER, BENCHMARK = shutil.which("redis-server"), shutil.which("redis-benchmark")
VALUE_BYTES = 1 << 20

needs_redis = pytest.mark.skipif(
    SERVER is None or BENCHMARK is None, reason="redis-server and redis-benchmark are not installed"
)


@contextmanager
def running(*words: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed by its own pid and reaped in the end."""
    with (
        log.open("wb") as output,
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def redis_server(directory: Path, n_values: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A redis-server with so many values of 1 MiB (big0, big1, ...), and its port."""
    port = free_port()
    options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(directory))
    with running(str(SERVER), "--port", str(port), *options, log=directory / "server.log") as process:
        poll_until(lambda: answers(port), 30, "redis-server to answer")
        value = bytes(range(256)) * (VALUE_BYTES // 256)
        for key in range(n_values):
            assert ask(port, b"SET", b"big%d" % key, value) == b"+OK"
        yield process, port


@contextmanager
def load(port: int, *options: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A redis-benchmark that sets and gets small values without end; it exits at the first error that a client gets."""
    words = (str(BENCHMARK), "-p", str(port), "-t", "set,get", "-n", "100000000", "-q", "-r", "10000", "-d", "200")
    with running(*words, *options, log=log) as benchmark:
        start = commands_done(port)
        poll_until(lambda: commands_done(port) > start + 10000, 30, "the benchmark to be at work")
        yield benchmark


@contextmanager
def client(port: int) -> Iterator[None]:
    """A client that sets small values, some hundred a second."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:

        def write() -> None:
            with suppress(OSError):  # the server has ended, or the test
                for number in itertools.count():
                    connection.sendall(b"SET small%d %0200d\r\n" % (number % 5000, number))
                    if not connection.recv(100):
                        return
                    time.sleep(0.002)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


def ask(port: int, *words: bytes) -> bytes:
    """One command in redis's protocol, and the first line of the answer."""
    request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            return answer.readline().strip()


def answers(port: int) -> bool:
    try:
        return ask(port, b"PING") == b"+PONG"
    except OSError:
        return False


def info(port: int, section: str) -> str:
    """What INFO says in a section."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"INFO %s\r\n" % section.encode())
        with connection.makefile("rb") as answer:
            size = int(answer.readline()[1:])
            return answer.read(size).decode()


def commands_done(port: int) -> int:
    return int(info(port, "stats").split("total_commands_processed:")[1].split()[0])
