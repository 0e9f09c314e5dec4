"""Receive queues of Unix sockets, looked at without taking anything out: unix(7), MSG_PEEK of recv(2)."""

import os
import select
import socket
from dataclasses import dataclass, field
from functools import cache

from dumper.kernel.files import MSG_CTRUNC, OptionReader, RawSocket, SocketReader, option_values
from dumper.state import socketoptions as options
from dumper.state.notes import Notes
from dumper.state.unixdiag import WMEM_ALLOC, UnixSocket

SO_MEMINFO = 55
UNNAMED_BYTES = 2  # a sockaddr_un with nothing in it
WITH_MORE = "descriptors or other things sent along with messages are not captured"


@dataclass(slots=True)
class Peeked:
    """The messages that were seen; problem: what else there is; is_first_of_some: there may be others behind it."""

    messages: list[bytes] = field(default_factory=list)
    problem: str = ""
    is_first_of_some: bool = False


class QueueReader:
    """Reads queues through copies of descriptors."""

    def __init__(self, reader: SocketReader) -> None:
        self._reader = reader
        self._options = OptionReader([options.PEEK_OFFSET, options.PASS_CREDENTIALS])

    def read(self, raw: RawSocket, copy_fd: int) -> Peeked:
        """In the freeze: what waits in the queue of a socket, as far as it can be seen."""
        values = option_values(self._options.read(copy_fd))
        peek_offset, pass_credentials = (
            int.from_bytes(values.get(option, b""), "little", signed=True)
            for option in (options.PEEK_OFFSET, options.PASS_CREDENTIALS)
        )
        if peek_offset >= 0 and options.PEEK_OFFSET in values:
            return Peeked(problem="the socket has SO_PEEK_OFF, which to look at them would move")
        room_bytes = max(1, raw.in_bytes)
        try:
            seen, whole_bytes, flags = self._reader.peek(copy_fd, room_bytes, credentials=bool(pass_credentials))
        except BlockingIOError:
            return Peeked()
        except OSError as error:
            return Peeked(problem=f"could not be read: {os.strerror(error.errno or 0)}")
        if raw.type == socket.SOCK_STREAM:
            return _of_stream(raw, seen, flags)
        return _of_messages(raw, seen, whole_bytes, flags)

    def note(self, queue: Peeked, raw: RawSocket, peer: UnixSocket | None, local: bytes, notes: Notes) -> None:
        """After the freeze: notes what there is beside the messages that were seen."""
        problem = queue.problem
        if queue.is_first_of_some and not problem:
            problem = _problem_of_others(len(queue.messages[0]), raw, peer, local)
        if problem:
            notes.add("queued messages of {}", problem)


def _of_stream(raw: RawSocket, seen: bytes, flags: int) -> Peeked:
    peeked = Peeked([seen] if seen else [])
    if flags & MSG_CTRUNC:
        peeked.problem = WITH_MORE
    elif len(seen) != max(0, raw.in_bytes):
        # Peeking ends where the sender changes, at urgent data, and in front of passed descriptors.
        peeked.problem = f"only the first {len(seen)} of {raw.in_bytes} bytes can be seen without being taken out"
    return peeked


def _of_messages(raw: RawSocket, seen: bytes, whole_bytes: int, flags: int) -> Peeked:
    if not whole_bytes and raw.events & select.POLLRDHUP:
        return Peeked()  # the end of a connection reads as an empty message
    peeked = Peeked([seen], is_first_of_some=True)
    if len(seen) < whole_bytes:
        peeked.problem = f"the first has {whole_bytes} bytes, of which {len(seen)} were read"
    elif flags & MSG_CTRUNC:
        peeked.problem = WITH_MORE
    elif whole_bytes < raw.in_bytes:
        peeked.problem = "only the first can be seen without being taken out"
    return peeked


def _problem_of_others(n_bytes: int, raw: RawSocket, peer: UnixSocket | None, local: bytes) -> str:
    """Why there may be more messages than the first, of `n_bytes`; "" if it is certain that there are none.

    Only the peer can have sent any, where there is one and no name to send to. If what all of its messages take in
    memory is what one takes, it is this one.
    """
    if raw.type == socket.SOCK_DGRAM and len(local) > UNNAMED_BYTES:
        return "there may be more than the first, which alone can be seen: anybody may have sent some"
    if peer is None:
        return "there may be more than the first, which alone can be seen: its peer is gone"
    if peer.sent_bytes != _memory_of_one(raw.type, n_bytes):
        return "only the first can be seen without being taken out"
    return ""


@cache
def _memory_of_one(kind: int, n_bytes: int) -> int:
    """What a message of so many bytes takes in memory, as this kernel counts it; -1 if it cannot be found out."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, kind)
    with sender, receiver:
        sender.setblocking(False)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * n_bytes)
        try:
            sender.send(bytes(n_bytes))
            numbers = sender.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (WMEM_ALLOC + 1))
        except OSError:
            return -1
    return int.from_bytes(numbers[-4:], "little")
