"""What the kernel tells of Unix sockets by their inode: sock_diag(7), linux/unix_diag.h."""

import socket
import struct
import threading
from dataclasses import dataclass

from dumper.kernel import files
from dumper.state.queries import query_fd
from formats.closing import Closing

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP = 0x001, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
SHOW_PEER, SHOW_RQLEN, SHOW_MEMINFO = 0x04, 0x10, 0x20  # UDIAG_SHOW_*
ATTR_PEER, ATTR_RQLEN, ATTR_MEMINFO, ATTR_SHUTDOWN = 2, 4, 5, 6  # UNIX_DIAG_*
NO_COOKIE = 0xFFFFFFFF
WMEM_ALLOC = 2  # SK_MEMINFO_WMEM_ALLOC, linux/sock_diag.h
ALL_STATES = 0xFFFFFFFF
SIOCGSKNS = 0x894C
SO_NETNS_COOKIE = 71
ANSWER_BYTES = 1 << 16

_HEADER = struct.Struct("<IHHII")
_REQUEST = struct.Struct("<BBHIIIII")
_MESSAGE = struct.Struct("<BBBBIII")
_ATTRIBUTE = struct.Struct("<HH")


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """peer_inode: 0 for none; receive_queue and backlog: of a listening socket, connections; sent_bytes: memory of what
    it sent and nobody has read; shutdown: 1 no more reading, 2 no more writing, 3 both.
    """

    inode: int
    peer_inode: int = 0
    receive_queue: int = 0
    backlog: int = 0
    sent_bytes: int = 0
    shutdown: int = 0


def parse_answer(answer: bytes) -> list[UnixSocket]:
    """The sockets in what was received. Raises OSError (what the kernel refused), struct.error."""
    found = []
    start = 0
    while start + _HEADER.size <= len(answer):
        length, kind, _, _, _ = _HEADER.unpack_from(answer, start)
        body, end = start + _HEADER.size, start + max(length, _HEADER.size)
        if kind == NLMSG_ERROR:
            (error,) = struct.unpack_from("<i", answer, body)
            raise OSError(-error, "sock_diag")
        if kind == SOCK_DIAG_BY_FAMILY:
            found.append(_parse_message(answer[body:end]))
        start = end + -end % 4
    return found


def _is_last(answer: bytes) -> bool:
    start = 0
    while start + _HEADER.size <= len(answer):
        length, kind, _, _, _ = _HEADER.unpack_from(answer, start)
        if kind in (NLMSG_DONE, NLMSG_ERROR):
            return True
        start += max(length, _HEADER.size) + -length % 4
    return False


def _parse_message(message: bytes) -> UnixSocket:
    _, _, _, _, inode, _, _ = _MESSAGE.unpack_from(message)
    attributes = {}
    start = _MESSAGE.size
    while start + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, start)
        attributes[kind] = message[start + _ATTRIBUTE.size : start + length]
        start += max(length, _ATTRIBUTE.size) + -length % 4

    def number(kind: int, index: int = 0) -> int:
        value = attributes.get(kind, b"")[4 * index : 4 * index + 4]
        return int.from_bytes(value, "little")

    return UnixSocket(
        inode=inode,
        peer_inode=number(ATTR_PEER),
        receive_queue=number(ATTR_RQLEN),
        backlog=number(ATTR_RQLEN, 1),
        sent_bytes=number(ATTR_MEMINFO, WMEM_ALLOC),
        shutdown=number(ATTR_SHUTDOWN),
    )


def _request(flags: int, inode: int) -> bytes:
    show = SHOW_PEER | SHOW_RQLEN | SHOW_MEMINFO
    body = _REQUEST.pack(socket.AF_UNIX, 0, 0, ALL_STATES, inode, show, NO_COOKIE, NO_COOKIE)
    return _HEADER.pack(_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | flags, 0, 0) + body


class UnixDiag(Closing):
    """Asks about the Unix sockets of one network namespace: the one that the calling thread is in now."""

    def __init__(self) -> None:
        """Raises OSError if the kernel has no NETLINK_SOCK_DIAG."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG)

    @property
    def cookie(self) -> int:
        """Of the namespace; 0 if the kernel does not say (before 5.14)."""
        try:
            return int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
        except OSError:
            return 0

    def ask(self, inode: int) -> bytes:
        """About one socket, for `parse_answer`. Raises OSError."""
        self._socket.sendto(_request(0, inode), (0, 0))
        return self._receive()

    def ask_all(self) -> list[bytes]:
        """About all sockets of the namespace. Raises OSError."""
        self._socket.sendto(_request(NLM_F_DUMP, 0), (0, 0))
        answers = []
        while True:
            answers.append(self._receive())
            if _is_last(answers[-1]):
                return answers

    def _receive(self) -> bytes:
        # The kernel answers before the call that asks returns, or never.
        return self._socket.recv(ANSWER_BYTES, socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def diag_of(socket_fd: int) -> UnixDiag | None:
    """For the namespace of a socket; None if it is out of reach (CAP_NET_ADMIN, CAP_SYS_ADMIN)."""
    made: list[UnixDiag] = []

    def make(namespace_fd: int) -> None:
        try:
            files.join_namespace(namespace_fd)
            made.append(UnixDiag())
        except OSError:
            return

    try:
        with query_fd(socket_fd, SIOCGSKNS) as namespace_fd:
            thread = threading.Thread(target=make, args=(namespace_fd,))  # it ends there: ours stays where it is
            thread.start()
            thread.join()
    except (OSError, RuntimeError):
        return None
    return made[0] if made else None
