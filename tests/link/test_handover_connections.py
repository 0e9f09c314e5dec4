"""A process moves to another host with its TCP connections and its address: no byte of them is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from formats.faults import VARIABLE, Point
from streams.keys import Authority
from tests.filesystems import ran
from tests.harness import REPO, is_alive, is_stopped, is_untouched, poll_until
from tests.link.peers import good_credentials
from tests.link.test_link_commands import listening, words_of
from tests.netns import Host, Link

FLOATING, CLIENT, PORT = "10.231.7.9", "10.231.8.1", 7398
WINDOWS_BYTES = (1 << 24, 3000)  # what a client has on the way: more than all buffers take, or little
UNDECIDED = 14

# Gives back what it gets.
SERVER = f"""
import socket, threading
def serve(connection):
    while piece := connection.recv(1 << 16):
        connection.sendall(piece)
    connection.close()
with socket.create_server(("0.0.0.0", {PORT})) as server:
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""

# Sends an endless stream, and checks what comes back of it; says how much that was, at times. Its input's end ends it.
STREAMER = f"""
import random, select, socket, sys
stream = random.Random(1).randbytes(1_000_003) * 2
sent = got = told = 0
is_over = False
connection = socket.create_connection(("{FLOATING}", {PORT}), 20)
while True:
    if not is_over and select.select([sys.stdin], [], [], 0)[0]:
        is_over = True
        connection.shutdown(socket.SHUT_WR)
    has_room = not is_over and sent - got < int(sys.argv[1])
    readable, writable, _ = select.select([connection], [connection] if has_room else [], [], 0.05)
    if writable:
        sent += connection.send(stream[sent % 1_000_003:][:50_000], socket.MSG_DONTWAIT)
    if readable:
        piece = connection.recv(1 << 16)
        if not piece:
            break
        assert piece == stream[got % 1_000_003:][:len(piece)], f"other bytes at {{got}}"
        got += len(piece)
        if got - told > 100_000:
            told = got
            print(got, flush=True)
print("end", sent, got, flush=True)
"""


@dataclass(frozen=True)
class Hosts:
    """The two between which the process moves, and a third one with its clients."""

    link: Link
    client: Host

    def moves(self) -> str:
        """The shell command that takes the address of the server from the left host to the right one."""
        left, right = self.link.hosts
        return (
            f"ip -n {left.namespace} address del {FLOATING}/32 dev client && "
            f"ip -n {right.namespace} address add {FLOATING}/32 dev client && "
            f"ip -n {self.client.namespace} route replace {FLOATING}/32 dev right src {CLIENT}"
        )


@pytest.fixture
def three(hosts: Link) -> Iterator[Hosts]:
    """The address is at the left host."""
    client = replace(hosts.left, namespace=f"{hosts.left.namespace}-client", address=CLIENT)
    ran("ip", "netns", "add", client.namespace)
    try:
        for name, host in zip(("left", "right"), hosts.hosts, strict=True):
            peer = ("type", "veth", "peer", "name", "client", "netns", host.namespace)
            ran("ip", "link", "add", "name", name, "netns", client.namespace, *peer)
            ran("ip", "-n", client.namespace, "link", "set", name, "up")
            ran("ip", "-n", host.namespace, "link", "set", "client", "up")
            ran("ip", "-n", host.namespace, "route", "add", f"{CLIENT}/32", "dev", "client")
        ran("ip", "-n", client.namespace, "link", "set", "lo", "up")
        ran("ip", "-n", client.namespace, "address", "add", f"{CLIENT}/32", "dev", "lo")
        ran("ip", "-n", client.namespace, "route", "add", f"{FLOATING}/32", "dev", "left", "src", CLIENT)
        ran("ip", "-n", hosts.left.namespace, "address", "add", f"{FLOATING}/32", "dev", "client")
        yield Hosts(hosts, client)
    finally:
        ran("ip", "netns", "del", client.namespace)


class Streamer:
    """A client that counts what comes back."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def got(self) -> int:
        """Of how many bytes it says that they came back right, next."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"a client has ended with {self._process.wait()}"
        return int(line)

    def go_on(self, n_bytes: int) -> None:
        """Until so many more have come back."""
        end = self.got() + n_bytes
        while self.got() < end:
            pass

    def end(self) -> None:
        """It has all back that it sent."""
        out, _ = self._process.communicate(timeout=60)
        word, sent, got = out.split("\n")[-2].split()
        assert (word, sent) == ("end", got)


@contextmanager
def served(three: Hosts) -> Iterator[tuple[int, list[Streamer]]]:
    """The pid of a server at the left host, and its clients."""
    with ExitStack() as stack:
        server = stack.enter_context(
            subprocess.Popen(
                three.link.left.words(sys.executable, "-c", SERVER),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )
        stack.callback(server.kill)
        poll_until(lambda: f":{PORT}" in three.link.left.run("ss", "-ltn").stdout, 30, "the server to listen")
        streamers = []
        for window_bytes in WINDOWS_BYTES:
            words = three.client.words(sys.executable, "-c", STREAMER, window_bytes)
            process = stack.enter_context(
                subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            streamers.append(Streamer(process))
            streamers[-1].go_on(0)
        yield server.pid, streamers


@dataclass(frozen=True)
class Deadly(Host):
    """A host whose commands die."""

    die_at: str

    def words(self, *command: object) -> list[str]:
        return ["env", f"{VARIABLE}={self.die_at}", *super().words(*command)]


@dataclass(frozen=True)
class Moved:
    """What came of it: the exit code of the sender, and processes at the right host."""

    exit_code: int
    pids: list[int]


@contextmanager
def moved(three: Hosts, pid: int, checkpoint: Path, ca: Authority, hook: str, die_at: str = "") -> Iterator[Moved]:
    """The server goes to the right host, or not; its copies are gone in the end. `die_at`: where the receiver dies."""
    sender, receiver = good_credentials(checkpoint.parent, ca)
    left, right = three.link.hosts
    there_host = Deadly(right.namespace, right.address, die_at) if die_at else right
    restores = ("--restore", "--pid", "new", "--tcp", "restore", "--exec-before-resume", hook, *words_of(receiver))
    pids: list[int] = []
    try:
        with listening(checkpoint, "0", *restores, host=there_host) as there:
            to = ("--to", f"tls://{right.address}:{there.port}", *words_of(sender))
            ends = ("--kill", "--tcp-established", "--tcp-hold", "1s")
            patience = ("--reconnect-timeout", "1s", "--handover-timeout", "20s")
            words = left.words(sys.executable, "-m", "cli", "run", "-t", pid, "--json", *ends, *patience, *to)
            run = subprocess.run(words, cwd=REPO, capture_output=True, text=True, timeout=90, check=False)
            there.process.wait(30)
        record = checkpoint / "receive.handover"
        if record.exists():
            pids = [int(one.split()[0]) for one in json.loads(record.read_text())["processes"]]
        yield Moved(run.returncode, [one for one in pids if is_alive(one)])
    finally:
        for one in pids:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)


def test_connections_go_on_at_the_other_host(three: Hosts, tmp_path: Path, ca: Authority) -> None:
    with served(three) as (pid, streamers), moved(three, pid, tmp_path / "ck", ca, three.moves()) as what:
        assert what.exit_code == 0
        assert len(what.pids) == 1
        poll_until(lambda: not is_alive(pid), 5, "the original to end")
        for streamer in streamers:
            streamer.go_on(500_000)
            streamer.end()


def test_connections_go_on_here_if_it_cannot_run_there(three: Hosts, tmp_path: Path, ca: Authority) -> None:
    with served(three) as (pid, streamers), moved(three, pid, tmp_path / "ck", ca, "false") as what:
        assert (what.exit_code, what.pids) == (1, [])
        assert is_untouched(pid)
        for streamer in streamers:
            streamer.go_on(500_000)
            streamer.end()


def test_the_end_of_an_original_that_nobody_could_decide_on_is_not_told_to_its_peers(
    three: Hosts, tmp_path: Path, ca: Authority
) -> None:
    death = Point.TAKEOVER_RUNS
    with served(three) as (pid, streamers), moved(three, pid, tmp_path / "ck", ca, three.moves(), death) as what:
        assert what.exit_code == UNDECIDED
        assert len(what.pids) == 1
        poll_until(lambda: is_stopped(pid), 5, "the original to stand still")
        os.kill(pid, signal.SIGKILL)
        for streamer in streamers:
            streamer.go_on(500_000)
            streamer.end()
