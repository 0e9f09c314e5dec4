"""The keeper: a small process that owns userfaultfds between two commands, with the state of the chain.

Both live only in its memory, so they can only be lost together: without the keeper nothing is armed, and nobody
believes that it is. It holds nothing in the targets and ends with the root of their tree.

    command                               keeper
    begin                 ---->           the round is open from now on: in doubt
            <---- state, in doubt?, held processes
            <---- their userfaultfds, a batch a message
    hold(processes)       ---->           one more batch of userfaultfds
            <---- ok
    commit(state)         ---->           the round is on disk: no longer in doubt; processes not in it are let go
            <---- ok
    open                  ---->           the next round is open: in doubt again
            <---- ok
    release               ---->           ends
            <---- ok

A process is known by [pid, start time]. One connection is one command's lease; a second one is told that the keeper is
busy. A connection that closes after `begin` or `open` without `commit` leaves the chain in doubt: pages were reset that
no round holds.

It runs as `python -m dumper.keeper PID LISTENER_FD PIDFD` and needs the standard library only.
"""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from pathlib import Path

from formats.faults import Point, reached

MAX_MESSAGE_BYTES = 192 << 10  # below the default of net.core.wmem_max: some thousand processes
FDS_PER_MESSAGE = 250  # SCM_MAX_FD is 253: unix(7)
UCRED = struct.Struct("3i")  # unix(7), SO_PEERCRED: pid, uid, gid


def peer_uid(connection: socket.socket) -> int:
    """Who is at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
    return int(UCRED.unpack(credentials)[1])


class Keeper:
    """Answers one command at a time."""

    def __init__(self, listener: socket.socket, pidfd: int) -> None:
        self._listener = listener
        self._pidfd = pidfd
        self._uffds: dict[tuple[int, int], int] = {}
        self._state: dict[str, object] | None = None
        self._in_doubt = True
        self._client: socket.socket | None = None
        self._released = False

    def run(self) -> None:
        """Serves until the target ends or a command releases it."""
        while not self._released:
            waiting = select.poll()  # select(2) knows no descriptors above 1023
            for fd in (self._listener.fileno(), self._pidfd, *([self._client.fileno()] if self._client else [])):
                waiting.register(fd, select.POLLIN)
            ready = [fd for fd, _ in waiting.poll()]
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
            message, fds, _, _ = socket.recv_fds(client, MAX_MESSAGE_BYTES, FDS_PER_MESSAGE)
            if message:
                self._answer(client, json.loads(message), fds)
                return
        except (OSError, ValueError, KeyError):
            pass
        client.close()
        self._client = None

    def _answer(self, client: socket.socket, request: dict[str, object], fds: list[int]) -> None:
        answer: dict[str, object] = {"ok": True}
        lent: list[int] = []
        if request["op"] == "begin":
            reached(Point.KEEPER_BEGIN)
            answer |= {"state": self._state, "in_doubt": self._in_doubt, "held": list(self._uffds)}
            lent = list(self._uffds.values())
            self._in_doubt = True
        elif request["op"] == "hold":
            reached(Point.KEEPER_HOLD)
            for key, uffd in zip(_keys(request["held"]), fds, strict=True):
                self._let_go(key)
                self._uffds[key] = uffd
        elif request["op"] == "commit":
            reached(Point.KEEPER_COMMIT)
            self._commit(request["state"])
        elif request["op"] == "open":
            self._in_doubt = True
        elif request["op"] == "release":
            reached(Point.KEEPER_RELEASE)
            for key in list(self._uffds):
                self._let_go(key)
            self._released = True
        client.send(json.dumps(answer).encode())
        for first in range(0, len(lent), FDS_PER_MESSAGE):
            socket.send_fds(client, [b"{}"], lent[first : first + FDS_PER_MESSAGE])
        reached(Point.KEEPER_LENT if lent else Point.KEEPER_ANSWERED)

    def _commit(self, state: object) -> None:
        if not isinstance(state, dict):
            raise ValueError("a state is an object")
        for key in self._uffds.keys() - set(_keys(state["processes"])):
            self._let_go(key)
        self._state = state
        self._in_doubt = False

    def _let_go(self, key: tuple[int, int]) -> None:
        uffd = self._uffds.pop(key, None)
        if uffd is not None:
            os.close(uffd)


def _keys(entries: object) -> list[tuple[int, int]]:
    """The processes in a message: each entry begins with pid and start time."""
    if not isinstance(entries, list):
        raise ValueError("processes are a list")
    return [(int(entry[0]), int(entry[1])) for entry in entries]


def main() -> None:
    """Entry point of the process."""
    _, listener_fd, pidfd = (int(argument) for argument in sys.argv[1:4])
    os.setsid()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=listener_fd) as listener:
        path = listener.getsockname()
        try:
            Keeper(listener, pidfd).run()
        finally:
            with contextlib.suppress(OSError):
                Path(path).unlink()


if __name__ == "__main__":
    main()
