"""The guard of TCP connections: a process that locks and reads them, and sees to it that none stays locked.

    predump                              guard
    C n + descriptors        ---->       it has connections, locks none yet
    T                        ---->       locks each, reads it in repair mode for some microseconds
            <---- for each: Answer, numbers, queues
    P n + pidfds             ---->       the processes that have them
    D                        ---->       the dump is on disk, they are to die
            <---- one byte: from now on that will happen
    end of the input         ---->       without D: everything goes on as it was.
                                         With D: kills what lives, and puts the connections into repair mode, so that
                                         their end is not told to the peers. (Also if predump was killed.)
            <---- one byte: that is done

Then it stays for a while with the dead processes' connections, silent and locked: a peer that sends something gets no
answer, where it would get a reset if there was no such connection. A restore on this host takes them over
(`dumper.heldconnections`); which is seen by their having left repair mode.

It runs as `python -m dumper.connectionguard HOLD_S`, in a session of its own, with its end of a socket as standard
input. To read in another process than predump's is the point of it: should predump be killed, its targets go on at
once, and must not find a socket in repair mode, which refuses to send and to receive.
"""

import errno
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from dumper.kernel import tcp
from dumper.state.tcp import problem_of

REQUEST = struct.Struct("=cI")
CONNECTIONS, PROCESSES, TAKE, DOOM = b"C", b"P", b"T", b"D"
ANSWER = struct.Struct("=iQ")  # 0 or -errno, bytes of both queues
FDS_AT_ONCE = 200  # SCM_MAX_FD is 253
READY, FINISHED = b"r", b"f"
HOLD_POLL_S = 0.02
END_S = 30.0
LOOK_AGAIN = 3  # a segment may have been on its way past the lock


@dataclass(slots=True)
class HeldConnections:
    """Descriptors of connections, and pidfds of the stopped processes that have them; `doomed`: they are to die."""

    fds: list[int] = field(default_factory=list)
    reuse: dict[int, bool] = field(default_factory=dict)
    pidfds: list[int] = field(default_factory=list)
    doomed: bool = False

    def add(self, fds: Sequence[int]) -> None:
        """They are ours from now on."""
        for fd in fds:
            self.fds.append(fd)
            self.reuse[fd] = bool(_reuse(fd))

    def drop(self, fd: int) -> None:
        """It goes on as it was, and ends as any other."""
        with suppress(OSError):
            tcp.unlock(fd, reuse=self.reuse[fd])
        self.fds.remove(fd)
        os.close(fd)

    def finish(self) -> None:
        """To be called whatever happened before, here or in another process that has the same connections."""
        if self.doomed:
            self._kill()
        for fd in self.fds:
            with suppress(OSError):  # one cannot be helped; the others can
                if self.doomed:
                    tcp.silence(fd)
                else:
                    tcp.unlock(fd, reuse=self.reuse[fd])

    def _kill(self) -> None:
        """Silence is for connections that no program uses any more."""
        for pidfd in self.pidfds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pidfd in self.pidfds:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            poller.poll(END_S * 1000)

    def hold(self, hold_s: float) -> None:
        """Keeps those that nobody has taken over."""
        deadline = time.monotonic() + hold_s
        while self.fds and time.monotonic() < deadline:
            for fd in [fd for fd in self.fds if not tcp.is_silent(fd)]:
                self.fds.remove(fd)
                os.close(fd)
            time.sleep(HOLD_POLL_S)

    def close(self) -> None:
        """Closes all descriptors."""
        for fds in (self.fds, self.pidfds):
            while fds:
                os.close(fds.pop())


def _reuse(fd: int) -> int:
    copy = socket.socket(fileno=fd)
    try:
        return copy.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    finally:
        copy.detach()


def _read(reader: tcp.ConnectionReader, fd: int, reuse: bool) -> tuple[bytes, bytes]:
    """Raises OSError."""
    tcp.lock(fd)
    for _ in range(LOOK_AGAIN):
        try:
            return reader.read(fd, reuse=reuse)
        except BlockingIOError:
            continue
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _take(held: HeldConnections, reader: tcp.ConnectionReader, channel: socket.socket) -> None:
    """Raises ConnectionError if predump is gone."""
    for fd in list(held.fds):
        if _hung_up(channel):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        try:
            numbers, queues = _read(reader, fd, held.reuse[fd])
        except OSError as error:
            held.drop(fd)
            channel.sendall(ANSWER.pack(-(error.errno or errno.EIO), 0))
            continue
        if problem_of(tcp.parse_connection(numbers)):
            held.drop(fd)
        channel.sendall(ANSWER.pack(0, len(queues)) + numbers + queues)


def _hung_up(channel: socket.socket) -> bool:
    poller = select.poll()
    poller.register(channel, select.POLLRDHUP)
    return bool(poller.poll(0))


def _requests(channel: socket.socket) -> Iterator[tuple[bytes, list[int]]]:
    """Until predump closes its end, or is killed."""
    with suppress(ConnectionError):
        while True:
            text, fds, _, _ = socket.recv_fds(channel, REQUEST.size, FDS_AT_ONCE)
            if len(text) < REQUEST.size:
                return
            what, n_fds = REQUEST.unpack(text)
            if len(fds) < n_fds:
                return  # no room for them: whatever was asked, it cannot be done
            yield what, fds


def main() -> None:
    """Entry point of the process."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    held, reader = HeldConnections(), tcp.ConnectionReader()
    with socket.socket(fileno=0) as channel:
        channel.sendall(READY)
        with suppress(ConnectionError):
            for what, fds in _requests(channel):
                if what == CONNECTIONS:
                    held.add(fds)
                elif what == PROCESSES:
                    held.pidfds += fds
                elif what == TAKE:
                    _take(held, reader, channel)
                elif what == DOOM:
                    held.doomed = True
                    channel.sendall(DOOM)
        held.finish()
        with suppress(ConnectionError):
            channel.sendall(FINISHED)
    if held.doomed:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        held.hold(float(sys.argv[1]))


if __name__ == "__main__":
    main()
