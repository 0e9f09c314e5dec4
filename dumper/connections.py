"""The TCP connections of the processes of one dump: locked and read in the freeze, and closed without a word after it.

Both are for a dump that ends with the death of its processes: only one can go on with a connection.

hold, take    in the freeze: from then on the connections take no segment, so that what was read stays true; what the
              peers send meanwhile they send again
check         before the dump is committed: whether what was read is true, and nobody else has these connections
doom          once it is on disk: their end is not told to the peers, whatever becomes of predump
close         without `doom`, they go on as they were; with it, the guard keeps them for a restore on this host

A guard (`dumper.connectionguard`) has them, too, and does what is left to do should predump be killed; predump does it
should the guard be.
"""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dumper import connectionguard as guard
from dumper.connectionguard import HeldConnections
from dumper.errors import PermissionDenied
from dumper.kernel import tcp
from dumper.proc import GONE_ERRORS
from dumper.state.tcp import connection_record, problem_of
from formats import faults
from formats.closing import Closing
from formats.errors import PredumpError
from formats.faults import Point, reached
from formats.openfiles import TcpConnection

ANSWER_S = 60.0
END_S = guard.END_S + 5.0


class ConnectionsChanged(PredumpError):
    """A connection cannot be taken from its processes; everything goes on."""


class Connections(Closing):
    """Those of one dump. Make it before the freeze."""

    def __init__(self, hold_s: float) -> None:
        """Starts the guard, which keeps connections of the dead for so long. It takes some tenths of a second."""
        self._held = HeldConnections()
        self._fds: dict[int, int] = {}  # by inode
        self._answers: dict[int, tuple[bytes, bytes] | int] = {}  # or errno
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(ANSWER_S)
        with theirs:
            self._guard = subprocess.Popen(
                [sys.executable, "-E", "-m", "dumper.connectionguard", str(hold_s)],
                cwd=Path(__file__).parent.parent,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name != faults.VARIABLE},  # it outlives us
            )
        self._is_open = True

    @property
    def guard_pid(self) -> int:
        """The process."""
        return self._guard.pid

    def wait_ready(self) -> None:
        """Waits until no signal to our session can reach the guard. Raises ConnectionsChanged."""
        with _guarded():
            _receive(self._channel, len(guard.READY))

    # ---- in the freeze -----------------------------------------------------------------------------------------

    def hold(self, inode: int, copy_fd: int) -> None:
        """One of them, by a descriptor that stays the caller's. Raises OSError.

        One that has a filter, or is in repair mode, is another's to lock.
        """
        if tcp.is_locked(copy_fd) or tcp.is_silent(copy_fd):
            self._answers[inode] = errno.EBUSY
            return
        self._fds[inode] = os.dup(copy_fd)
        self._held.add([self._fds[inode]])

    def take(self) -> None:
        """Locks and reads those that are held. Raises PermissionDenied, ConnectionsChanged."""
        if not self._fds:
            return
        with _guarded():
            self._send(guard.CONNECTIONS, self._held.fds)
            reached(Point.CONNECTIONS_HELD)
            self._channel.sendall(guard.REQUEST.pack(guard.TAKE, 0))
            for inode in self._fds:
                result, n_bytes = guard.ANSWER.unpack(_receive(self._channel, guard.ANSWER.size))
                if result < 0:
                    self._answers[inode] = -result
                    continue
                numbers = _receive(self._channel, tcp.STATUS.size)
                self._answers[inode] = numbers, _receive(self._channel, n_bytes)
        reached(Point.CONNECTIONS_TAKEN)
        for inode, fd in list(self._fds.items()):
            if not isinstance(self.record(inode), TcpConnection):
                self._held.drop(fd)
                del self._fds[inode]
        if errno.EPERM in self._answers.values():
            raise PermissionDenied(
                "TCP connections cannot be captured without CAP_NET_ADMIN over their network namespace",
                hint="Everything goes on untouched. Dump as root, or without --tcp-established.",
            )

    def check(self, pids: Collection[int]) -> None:
        """Whether the connections are as they were read, and open in processes `pids` only. Raises ConnectionsChanged.

        Must be called while these stand still.
        """
        for inode, fd in self._fds.items():
            answer = self._answers[inode]
            assert isinstance(answer, tuple)
            if tcp.received_ever(fd) != tcp.parse_connection(answer[0]).received_ever_bytes:
                raise ConnectionsChanged(
                    "a TCP connection took a segment that was on its way when it was locked",
                    hint="Everything goes on untouched: try again.",
                )
        others = _users({f"socket:[{inode}]" for inode in self._fds}, {*pids, os.getpid(), self._guard.pid})
        for pid in others:
            raise ConnectionsChanged(
                f"process {pid} has a TCP connection open that is to be taken from the dumped processes",
                hint="Everything goes on untouched. Dump it, too (-t), or leave --tcp-established out.",
                pid=pid,
            )

    def doom(self, pidfds: Sequence[int]) -> None:
        """These processes are to be killed now, whatever becomes of us."""
        if not self._fds:
            return
        self._held.pidfds += [os.dup(pidfd) for pidfd in pidfds]
        with suppress(OSError):  # without the guard, it is up to us alone
            self._send(guard.PROCESSES, self._held.pidfds)
            self._channel.sendall(guard.REQUEST.pack(guard.DOOM, 0))
            _receive(self._channel, len(guard.DOOM))
        self._held.doomed = True
        reached(Point.CONNECTIONS_DOOMED)

    def _send(self, what: bytes, fds: Sequence[int]) -> None:
        for start in range(0, len(fds), guard.FDS_AT_ONCE):
            some = fds[start : start + guard.FDS_AT_ONCE]
            socket.send_fds(self._channel, [guard.REQUEST.pack(what, len(some))], some)

    @contextmanager
    def until_doomed(self) -> Iterator[None]:
        """Has everything go on as it was at the end of the block, if the processes are not to be killed by then."""
        try:
            yield
        finally:
            if not self._held.doomed:
                self.close()

    # ---- after it ----------------------------------------------------------------------------------------------

    def record(self, inode: int) -> TcpConnection | str:
        """What was read of one, or why it was not."""
        answer = self._answers.get(inode, 0)
        if isinstance(answer, int):
            return f"it could not be captured: {os.strerror(answer)}" if answer else ""
        raw = tcp.parse_connection(answer[0])
        return problem_of(raw) or connection_record(raw, answer[1])

    def close(self) -> None:
        """Ends the guard, and what it is there for."""
        if not self._is_open:
            return
        self._is_open = False
        is_finished = False
        with self._channel, suppress(OSError):
            self._channel.settimeout(END_S)
            self._channel.shutdown(socket.SHUT_WR)
            is_finished = _receive_last(self._channel) == guard.FINISHED
        if not is_finished:
            self._guard.kill()
            self._held.finish()
        if not (is_finished and self._held.doomed):
            self._guard.wait()
        self._held.close()


@contextmanager
def _guarded() -> Iterator[None]:
    """Of what is asked of the guard. Raises ConnectionsChanged."""
    try:
        yield
    except OSError as error:
        raise ConnectionsChanged(
            f"the process that guards the TCP connections of a dump does not answer: {error}",
            hint="Everything goes on untouched: try again.",
        ) from None


def _receive(channel: socket.socket, n_bytes: int) -> bytes:
    """Raises OSError."""
    content = bytearray(n_bytes)
    view = memoryview(content)
    while view:
        n_got = channel.recv_into(view)
        if n_got == 0:
            raise ConnectionResetError("it has ended")
        view = view[n_got:]
    return bytes(content)


def _receive_last(channel: socket.socket) -> bytes:
    """The last byte before the end of it, whatever was not received before. Raises OSError."""
    last = b""
    while piece := channel.recv(1 << 16):
        last = piece[-1:]
    return last


def _users(links: Collection[str], known_pids: Collection[int]) -> Iterator[int]:
    """Processes beside those known that have one of these files open."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - in a stop
        if not name.isdigit() or int(name) in known_pids:
            continue
        with suppress(*GONE_ERRORS, PermissionError):
            for fd in os.listdir(f"/proc/{name}/fd"):  # noqa: PTH208
                with suppress(*GONE_ERRORS):
                    if os.readlink(f"/proc/{name}/fd/{fd}") in links:  # noqa: PTH115
                        yield int(name)
                        break
