"""The keeper: a small process that owns a target's userfaultfd between two commands, with the state of the chain.

Both live only in its memory, so they can only be lost together: without the keeper nothing is armed, and nobody
believes that it is. It holds nothing in the target and ends with it.

    command                               keeper
    begin                 ---->           the round is open from now on: in doubt
            <---- state, in doubt?, userfaultfd
    commit(state)         ---->           the round is on disk: no longer in doubt
            <---- ok
    release               ---->           ends
            <---- ok

One connection is one command's lease; a second one is told that the keeper is busy. A connection that closes after
`begin` without `commit` leaves the chain in doubt: pages were reset that no round holds.

It runs as `python -m dumper.keeper PID LISTENER_FD USERFAULTFD PIDFD` and needs the standard library only.
"""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path

MAX_MESSAGE_BYTES = 65536
UCRED = struct.Struct("3i")  # unix(7), SO_PEERCRED: pid, uid, gid


def peer_uid(connection: socket.socket) -> int:
    """Who is at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
    return int(UCRED.unpack(credentials)[1])


class Keeper:
    """Answers one command at a time."""

    def __init__(self, listener: socket.socket, uffd: int, pidfd: int) -> None:
        self._listener = listener
        self._uffd = uffd
        self._pidfd = pidfd
        self._state: object = None
        self._in_doubt = True
        self._client: socket.socket | None = None
        self._released = False

    def run(self) -> None:
        """Serves until the target ends or a command releases it."""
        while not self._released:
            waiting = [self._listener.fileno(), self._pidfd]
            if self._client:
                waiting.append(self._client.fileno())
            ready = select.select(waiting, [], [])[0]
            if self._pidfd in ready:
                return
            if self._client and self._client.fileno() in ready:
                self._serve(self._client)
            if self._listener.fileno() in ready:
                self._accept()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        with contextlib.suppress(OSError):
            if peer_uid(connection) not in (0, os.geteuid()):
                connection.close()
            elif self._client:
                connection.send(json.dumps({"ok": False, "busy": True}).encode())
                connection.close()
            else:
                self._client = connection

    def _serve(self, client: socket.socket) -> None:
        try:
            message = client.recv(MAX_MESSAGE_BYTES)
            if message:
                self._answer(client, json.loads(message))
                return
        except (OSError, ValueError, KeyError):
            pass
        client.close()
        self._client = None

    def _answer(self, client: socket.socket, request: dict[str, object]) -> None:
        answer: dict[str, object] = {"ok": True}
        fds = []
        if request["op"] == "begin":
            answer |= {"state": self._state, "in_doubt": self._in_doubt}
            fds = [self._uffd]
            self._in_doubt = True
        elif request["op"] == "commit":
            self._state = request["state"]
            self._in_doubt = False
        elif request["op"] == "release":
            os.close(self._uffd)
            self._released = True
        socket.send_fds(client, [json.dumps(answer).encode()], fds)


def main() -> None:
    """Entry point of the process."""
    _, listener_fd, uffd, pidfd = (int(argument) for argument in sys.argv[1:5])
    os.setsid()
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=listener_fd) as listener:
        path = listener.getsockname()
        try:
            Keeper(listener, uffd, pidfd).run()
        finally:
            with contextlib.suppress(OSError):
                Path(path).unlink()


if __name__ == "__main__":
    main()
