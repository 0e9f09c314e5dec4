"""TCP connections: made again by the kernel's repair mode (net/ipv4/tcp.c, include/uapi/linux/tcp.h), or reset.

A connection stays in repair mode, and says nothing to its peer, until it is released. Until then its address need not
be one of this host's: it may still be on its way here. Where a dump on this host keeps the connection
(`heldconnections`), that is gone on with: between its end and a new one, the peer could get a reset.

Repair mode makes established connections only. One whose peer has ended its stream (close-wait) comes back as one that
is shut for reading, which is the same to the program and to the peer. One that had ended its own stream (fin-wait) ends
it once more: the peer that has seen that already acknowledges it again.
"""

import errno
import ipaddress
import select
import socket
import struct
from contextlib import closing, suppress

from dumper.errors import PermissionDenied
from dumper.kernel import tcp
from formats.openfiles import Socket, TcpConnection
from restorer.errors import RestoreFailed
from restorer.files.heldconnections import take_over

SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_BUF_LOCK = 32, 33, 72
IP_TRANSPARENT = 19
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS = 19, 20, 21, 22
TCP_TIMESTAMP, TCP_REPAIR_WINDOW = 24, 29
RECEIVE_QUEUE, SEND_QUEUE = 1, 2
OPTION_MSS, OPTION_WINDOW, OPTION_SACK, OPTION_TIMESTAMP = 2, 3, 4, 8
SHUT_READ, SHUT_WRITE = 1, 2
PIECE_BYTES = 1 << 16
BUFFER_MAX_BYTES = (1 << 30) - 1
BUFFER_LOCKS = 3  # SOCK_SNDBUF_LOCK, SOCK_RCVBUF_LOCK
TRUESIZE = 4  # memory that the kernel counts for a queued byte, at most
RESET_SHOWS_MS = 5000
IN_USE = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)

Address = tuple[str, int] | tuple[str, int, int, int]


def connect_socket(record: Socket) -> int:
    """A connected socket in repair mode, for `release`; its descriptor is close-on-exec.

    Raises PermissionDenied without CAP_NET_ADMIN; RestoreFailed if somebody has a connection between these two
    addresses, there is no way to the peer, or the record holds none; OSError.
    """
    connection = record.connection
    if connection is None:
        raise RestoreFailed(
            f"the TCP connection {record.local} -> {record.peer} is not in the image",
            hint="Dump with --tcp-established and --kill, or restore with --tcp close.",
        )
    made = socket.socket(record.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP)
    try:
        return _connect(made, record, connection)
    except BaseException:
        made.close()  # in repair mode, if it came so far: nobody hears of it
        raise


def _connect(made: socket.socket, record: Socket, connection: TcpConnection) -> int:
    try:
        _set_tcp(made, TCP_REPAIR, 1)
    except PermissionError:
        raise PermissionDenied(
            f"the TCP connection {record.local} -> {record.peer} cannot be made again without CAP_NET_ADMIN",
            hint="Restore as root, or with --tcp close: the program then finds its connections reset.",
        ) from None
    made.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, _room_for(connection.sent))
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _room_for(connection.received))
    for queue, end, n_bytes in (
        (SEND_QUEUE, connection.send_sequence, len(connection.sent)),
        (RECEIVE_QUEUE, connection.receive_sequence, len(connection.received)),
    ):
        _set_tcp(made, TCP_REPAIR_QUEUE, queue)
        made.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("=I", (end - n_bytes) % (1 << 32)))
    made.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    try:
        made.bind(_address(record.local_sockaddr))
        made.connect(_address(record.peer_sockaddr))
    except OSError as error:
        if error.errno in IN_USE and (fd := take_over(record, made)) >= 0:
            made.close()
            return fd
        raise RestoreFailed(
            f"the TCP connection {record.local} -> {record.peer} cannot be made here: {error.strerror}",
            hint="End what has it, or restore with --tcp close.",
        ) from None
    made.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, bool(record.options.get("ip_transparent", 0)))
    with suppress(OSError):  # a kernel without that one sends in another one's way
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, record.congestion_control.encode("ascii", "replace"))
    _go_on_with(made, connection)
    return made.detach()


def _go_on_with(made: socket.socket, connection: TcpConnection) -> None:
    """What both ends agreed upon, and what lies in the queues."""
    made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_OPTIONS, _options(connection))
    if connection.timestamp is not None:
        made.setsockopt(socket.IPPROTO_TCP, TCP_TIMESTAMP, struct.pack("=I", connection.timestamp))
    _fill(made, RECEIVE_QUEUE, connection.received)
    _fill(made, SEND_QUEUE, connection.sent[: len(connection.sent) - connection.unsent_bytes])
    made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, struct.pack("=5I", *connection.window))


def _room_for(content: bytes) -> int:
    return min(max(PIECE_BYTES, TRUESIZE * len(content)), BUFFER_MAX_BYTES)


def _set_tcp(made: socket.socket, option: int, value: int) -> None:
    made.setsockopt(socket.IPPROTO_TCP, option, value)


def _options(connection: TcpConnection) -> bytes:
    """Array of struct tcp_repair_opt."""
    options = [(OPTION_MSS, connection.mss)]
    if connection.send_window_scale >= 0:
        options.append((OPTION_WINDOW, connection.send_window_scale | connection.receive_window_scale << 16))
    if connection.sack:
        options.append((OPTION_SACK, 0))
    if connection.timestamp is not None:
        options.append((OPTION_TIMESTAMP, 0))
    return b"".join(struct.pack("=II", *option) for option in options)


def _fill(made: socket.socket, queue: int, content: bytes) -> None:
    _set_tcp(made, TCP_REPAIR_QUEUE, queue)
    start = 0
    while start < len(content):
        start += made.send(content[start : start + PIECE_BYTES], socket.MSG_DONTWAIT)


def release(fd: int, record: Socket) -> None:
    """The connection goes on: what was never sent is sent, the peer is probed. Raises OSError."""
    if tcp.is_locked(fd):  # it was taken over, and is as it was
        tcp.unlock(fd, reuse=bool(record.options.get("so_reuseaddr", 0)))
        return
    connection = record.connection
    assert connection is not None
    made = socket.socket(fileno=fd)
    try:
        _set_tcp(made, TCP_REPAIR, 0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, bool(record.options.get("so_reuseaddr", 0)))
        start = len(connection.sent) - connection.unsent_bytes
        while start < len(connection.sent):
            start += made.send(connection.sent[start:], socket.MSG_DONTWAIT)
        if record.shutdown & SHUT_READ:
            made.shutdown(socket.SHUT_RD)
        if record.shutdown & SHUT_WRITE:
            made.shutdown(socket.SHUT_WR)
        _set_buffers(made, record)
    finally:
        made.detach()


def _set_buffers(made: socket.socket, record: Socket) -> None:
    """Sizes as they were, which the kernel doubles when they are set; whether it may change them, as it was."""
    for option, name in ((SO_SNDBUFFORCE, "so_sndbuf"), (SO_RCVBUFFORCE, "so_rcvbuf")):
        if name in record.options:
            made.setsockopt(socket.SOL_SOCKET, option, max(0, min(record.options[name] // 2, BUFFER_MAX_BYTES)))
    with suppress(OSError):  # older than 5.16: they stay as they are
        made.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, record.options.get("so_buf_lock", 0) & BUFFER_LOCKS)


def reset_socket(record: Socket) -> int:
    """A socket of that family whose connection was reset: the program gets ECONNRESET. Needs no privilege.

    Raises RestoreFailed where there is no loopback device that is up; OSError.
    """
    loopback = "127.0.0.1"
    made = socket.socket(record.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP)
    try:
        with closing(socket.create_server((loopback, 0))) as server:
            port = server.getsockname()[1]
            made.connect((f"::ffff:{loopback}" if record.family == socket.AF_INET6 else loopback, port))
            peer, _ = server.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()  # by a reset
        poller = select.poll()
        poller.register(made, 0)
        if not poller.poll(RESET_SHOWS_MS):
            raise TimeoutError("it is not reset")
    except OSError as error:
        made.close()
        raise RestoreFailed(
            f"no reset connection could be made in the place of {record.local} -> {record.peer}: {error}",
            hint="The loopback device must be up.",
        ) from None
    return made.detach()


def _address(sockaddr: bytes) -> Address:
    """As Python's socket module takes it."""
    family, port = struct.unpack_from("=H", sockaddr)[0], struct.unpack_from("!H", sockaddr, 2)[0]
    if family == socket.AF_INET:
        return str(ipaddress.IPv4Address(sockaddr[4:8])), port
    (flow_info,) = struct.unpack_from("!I", sockaddr, 4)
    (scope,) = struct.unpack_from("=I", sockaddr, 24)
    return str(ipaddress.IPv6Address(sockaddr[8:24])), port, flow_info, scope
