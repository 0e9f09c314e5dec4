"""redis-server moves to another host under a load of writes, with its address: no acknowledged write is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from streams.keys import Authority
from tests.harness import REPO, Event, is_alive, poll_until
from tests.link.peers import good_credentials
from tests.link.test_link_commands import listening, words_of
from tests.netns import DEVICE, Host, Link
from tests.redisserver import SERVER, needs_redis

PORT = 7399
FLOATING = "10.231.0.99"
WRITES = 500

# Writes numbers over a connection that it keeps, until its input ends; then it says which was acknowledged last.
WRITER = f"""
import socket, sys, select
number, connection = 0, None
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        if connection is None:
            connection = socket.create_connection(("{FLOATING}", {PORT}), 0.3)
        connection.sendall(b"SET n%d %d\\r\\n" % (number, number))
        if connection.recv(100) == b"+OK\\r\\n":
            number += 1
            if number % 100 == 0:
                print(number, flush=True)
            continue
    except OSError:
        pass
    connection = None
print("last", number, flush=True)
"""


def redis(host: Host, *words: str) -> str:
    return host.run("redis-cli", "-p", PORT, *words).stdout.strip()


@contextmanager
def server(host: Host, directory: Path) -> Iterator[int]:
    """A redis-server at that host; its pid."""
    words = (SERVER, "--port", PORT, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no")
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            host.words(*words, "--dir", directory), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        poll_until(lambda: redis(host, "PING") == "PONG", 20, "redis-server to answer")
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def writer(host: Host) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        host.words(sys.executable, "-c", WRITER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def moved(hosts: Link, pid: int, checkpoint: Path, receiver: tuple[str, ...], sender: tuple[str, ...]) -> Event:
    """The result of the sender, and the receiver agrees."""
    left, right = hosts.hosts
    with listening(checkpoint, "0", *receiver, host=right) as there:
        to = f"tls://{right.address}:{there.port}"
        words = (sys.executable, "-m", "cli", "run", "-t", pid, "--to", to, "--kill", "--json", *sender)
        run = subprocess.run(left.words(*words), cwd=REPO, capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        result: Event = json.loads(run.stdout.splitlines()[-1])
        pids = result["handover"]["pids"]  # type: ignore[index]
        assert there.events()[-1]["pids"] == pids
        return result


@needs_redis
def test_no_acknowledged_write_is_lost(hosts: Link, tmp_path: Path, ca: Authority) -> None:
    left, right = hosts.hosts
    sender, receiver = good_credentials(tmp_path, ca)
    left.run("ip", "address", "add", f"{FLOATING}/32", "dev", DEVICE)
    left.run("ip", "route", "add", f"{FLOATING}/32", "dev", DEVICE, "metric", "500")
    moves = (
        f"ip -n {left.namespace} address del {FLOATING}/32 dev {DEVICE} && "
        f"ip -n {right.namespace} address add {FLOATING}/32 dev {DEVICE}"
    )
    restores = ("--restore", "--pid", "new", "--tcp", "close", "--exec-before-resume", moves, *words_of(receiver))
    copies: list[int] = []
    with server(left, tmp_path) as pid, writer(left) as writes:
        try:
            assert writes.stdout
            assert writes.stdin
            assert writes.stdout.readline() == "100\n"
            result = moved(hosts, pid, tmp_path / "ck", restores, words_of(sender))
            copies = result["handover"]["pids"]  # type: ignore[index]
            poll_until(lambda: not is_alive(pid), 5, "the original to end")
            before = writes.stdout.readline()
            while int(writes.stdout.readline()) < int(before) + WRITES:
                pass  # it goes on at the other host
            writes.stdin.close()
            last = int(writes.stdout.read().split()[-1])
            assert redis(right, "DBSIZE") in {str(last), str(last + 1)}
            assert redis(right, "GET", f"n{last - 1}") == str(last - 1)
        finally:
            for one in copies:
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
