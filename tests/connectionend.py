"""One end of a TCP connection, as a process that does what it is told: `python -m tests.connectionend HOW`.

HOW is `listen ADDRESS`, `connect ADDRESS PORT`, or `restore FILE` with the JSON of a Socket record. Both ends send the
same endless stream and check what they get against it. A line on standard input is a command, one on standard output
its answer; what went through the connection before it was restored is told with `at SENT RECEIVED`.
"""

from __future__ import annotations

import json
import random
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from formats.openfiles import Socket
from formats.records import decode_record, encode_record
from restorer.files.tcp import connect_socket, release
from tests.harness import COMMAND_S, REPO

STREAM_BYTES = 1_000_003  # a prime: no piece of it is in the place of another one unseen
STREAM = random.Random(1).randbytes(STREAM_BYTES) * 2
PIECE_BYTES = 50_000
SETTLED_S = 0.3


class ConnectionEnd:
    """The process, as seen by a test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.sent = self.received = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_line(self) -> str:
        """Its next answer."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], COMMAND_S)
        assert ready, "the end of a connection does not answer"
        return self.process.stdout.readline().strip()

    def ask(self, *words: object) -> str:
        """The answer to a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.read_line()

    def fill(self) -> None:
        """Sends until nothing goes any more."""
        self.sent += int(self.ask("fill"))

    def send(self, n_bytes: int) -> None:
        assert self.ask("send", n_bytes) == "sent"
        self.sent += n_bytes

    def receive(self, n_bytes: int) -> None:
        """AssertionError if other bytes come than were sent."""
        assert self.ask("receive", n_bytes) == "right"
        self.received += n_bytes

    def go_on_as(self, other: ConnectionEnd) -> None:
        """Another process has its connection."""
        self.process = other.process
        assert self.ask("at", self.sent, self.received) == "there"


@contextmanager
def connection_end(*how: object, words: Sequence[str] = ()) -> Iterator[ConnectionEnd]:
    """A process, killed in the end. `words`: what runs it, such as ip-netns(8)."""
    with subprocess.Popen(
        [*words, sys.executable, "-m", "tests.connectionend", *map(str, how)],
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            yield ConnectionEnd(process)
        finally:
            process.kill()


def write_record(record: Socket, path: Path) -> Path:
    """For `restore`."""
    path.write_text(json.dumps(encode_record(record)))
    return path


class _End:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sent = self._received = 0

    def at(self, sent: str, received: str) -> str:
        self._sent, self._received = int(sent), int(received)
        return "there"

    def fill(self) -> str:
        """A kernel that sends some of it makes room for more."""
        start = self._sent
        while select.select([], [self._connection], [], SETTLED_S)[1]:
            with suppress(BlockingIOError):
                self._sent += self._connection.send(_stream(self._sent, PIECE_BYTES), socket.MSG_DONTWAIT)
        return str(self._sent - start)

    def send(self, n_bytes: str) -> str:
        end = self._sent + int(n_bytes)
        while self._sent < end:
            self._sent += self._connection.send(_stream(self._sent, min(PIECE_BYTES, end - self._sent)))
        return "sent"

    def receive(self, n_bytes: str) -> str:
        end = self._received + int(n_bytes)
        while self._received < end:
            piece = self._connection.recv(min(PIECE_BYTES, end - self._received))
            if not piece:
                return f"the stream ends {end - self._received} bytes too soon"
            if piece != _stream(self._received, len(piece)):
                return f"other bytes at {self._received}"
            self._received += len(piece)
        return "right"

    def next(self) -> str:
        """What recv(2) gets, of one byte."""
        try:
            return str(len(self._connection.recv(1)))
        except OSError as error:
            return type(error).__name__

    def shut(self) -> str:
        self._connection.shutdown(socket.SHUT_WR)
        return "shut"

    def close(self) -> str:
        self._connection.close()
        return "closed"


def _stream(start: int, n_bytes: int) -> bytes:
    return STREAM[start % STREAM_BYTES :][:n_bytes]


def _say(line: object) -> None:
    print(line, flush=True)


def _connection(how: str, *words: str) -> socket.socket:
    match how:
        case "listen":
            family = socket.AF_INET6 if ":" in words[0] else socket.AF_INET
            with socket.create_server((words[0], 0), family=family) as server:
                _say(server.getsockname()[1])
                accepted, _ = server.accept()
                return accepted
        case "connect":
            return socket.create_connection((words[0], int(words[1])), timeout=COMMAND_S)
        case _:
            record = decode_record(Socket, json.loads(Path(words[0]).read_text()), words[0])
            fd = connect_socket(record)
            _say("made")
            sys.stdin.readline()
            release(fd, record)
            return socket.socket(fileno=fd)


def main() -> None:
    """Entry point of the process."""
    connection = _connection(*sys.argv[1:])
    connection.settimeout(COMMAND_S)
    _say("connected")
    end = _End(connection)
    for line in sys.stdin:
        name, *words = line.split()
        _say(getattr(end, name)(*words))


if __name__ == "__main__":
    main()
