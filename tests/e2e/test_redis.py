"""A database under load: no client sees an error while it is dumped."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import is_untouched, poll_until, predump

SERVER, BENCHMARK = shutil.which("redis-server"), shutil.which("redis-benchmark")

pytestmark = pytest.mark.skipif(
    SERVER is None or BENCHMARK is None, reason="redis-server and redis-benchmark are not installed"
)

VALUES = 50
VALUE_BYTES = 1 << 20


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


def commands_done(port: int) -> int:
    request = b"*2\r\n$4\r\nINFO\r\n$5\r\nstats\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            size = int(answer.readline()[1:])
            text = answer.read(size).decode()
    return int(text.split("total_commands_processed:")[1].split()[0])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """(pid, port) of a redis-server with 50 MiB of data."""
    port = free_port()
    options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(tmp_path))
    with running(str(SERVER), "--port", str(port), *options, log=tmp_path / "server.log") as process:
        poll_until(lambda: answers(port), 30, "redis-server to answer")
        value = bytes(range(256)) * (VALUE_BYTES // 256)
        for key in range(VALUES):
            assert ask(port, b"SET", b"big%d" % key, value) == b"+OK"
        yield process.pid, port
        assert process.poll() is None, "redis-server has ended"


def test_run_under_load(server: tuple[int, int], tmp_path: Path) -> None:
    pid, port = server
    # Without end for the time of the test; it exits at the first error that a client gets.
    load = (str(BENCHMARK), "-p", str(port), "-t", "set,get", "-n", "100000000", "-q")
    options = ("-r", "10000", "-d", "200", "-c", "20")
    log = tmp_path / "benchmark.log"
    with running(*load, *options, log=log) as benchmark:
        start = commands_done(port)
        poll_until(lambda: commands_done(port) > start + 10000, 30, "the benchmark to be at work")

        done = predump("run", "-p", pid, "-D", tmp_path / "checkpoint", "--json", check=False)

        assert done.returncode in (0, 3), str(done)  # 3: complete, though the freeze was long
        assert done.result["type"] == "result"
        after = commands_done(port)
        poll_until(lambda: commands_done(port) > after + 10000, 30, "the benchmark to go on")
        assert benchmark.poll() is None, log.read_text(errors="replace")
    assert "rror" not in log.read_text(errors="replace")
    assert is_untouched(pid)
    assert ask(port, b"STRLEN", b"big0") == b":%d" % VALUE_BYTES
    predump("verify", tmp_path / "checkpoint")
    predump("detach", "-p", pid)
