"""What sockets of all families need: addresses, options, status flags."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection

from dumper.state.socketoptions import option_value
from formats.openfiles import OpenFile, Socket
from restorer.files.workshop import Workshop, set_status

SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # with CAP_NET_ADMIN, beyond the limits of the host: socket(7)
_FORCED = {"so_sndbuf": SO_SNDBUFFORCE, "so_rcvbuf": SO_RCVBUFFORCE}
_NOT_SET = ("so_peercred_pid", "so_peercred_uid", "so_peercred_gid")
_FAMILY_BYTES = 2
_CONGESTION_BYTES = 16  # TCP_CA_NAME_MAX

Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, int] | bytes


def record_of(shop: Workshop, one: OpenFile) -> Socket:
    """Raises RestoreFailed if the image does not have it."""
    if one.socket is None:
        shop.refuse(one, "the image does not have its state")
    return one.socket


def make_socket(shop: Workshop, one: OpenFile) -> socket.socket:
    """A new one with its options, close-on-exec; the workshop owns it. Raises RestoreFailed, OSError."""
    told = record_of(shop, one)
    made = socket.socket(told.family, told.type | socket.SOCK_CLOEXEC, told.protocol)
    adopt(shop, made)
    set_options(shop, one, made)
    return made


def adopt(shop: Workshop, made: socket.socket) -> socket.socket:
    """It stays open as long as the descriptors of the workshop."""
    made.setblocking(False)
    shop.own_closing(made)
    return made


def set_options(shop: Workshop, one: OpenFile, made: socket.socket, but: Collection[str] = ()) -> None:
    """Those that differ from what it has, `but` for some. Raises RestoreFailed."""
    told = record_of(shop, one)
    if told.congestion_control:
        _set_congestion_control(shop, one, made, told.congestion_control.encode())
    for name, number in told.options.items():
        if name in _NOT_SET or name in but:
            continue
        try:
            (level, option), value = option_value(name, number)
            now = made.getsockopt(level, option, len(value))
            if now == value[: len(now)]:
                continue
            if name in _FORCED:
                _set_buffer(made, name, number)
            else:
                made.setsockopt(level, option, value)
        except KeyError:
            shop.refuse(one, f"its option {name} is not known")
        except OSError as error:
            shop.refuse(one, f"its option {name} could not be set: {error.strerror}")


def _set_congestion_control(shop: Workshop, one: OpenFile, made: socket.socket, name: bytes) -> None:
    """Raises RestoreFailed."""
    now = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_BYTES)
    if now.rstrip(b"\0") == name:
        return
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
    except OSError as error:
        shop.refuse(one, f"its congestion control {name.decode()} could not be set: {error.strerror}")


def _set_buffer(made: socket.socket, name: str, n_bytes: int) -> None:
    """The kernel doubles what it is told. Raises OSError."""
    (level, option), value = option_value(name, n_bytes // 2)
    try:
        made.setsockopt(level, _FORCED[name], value)
    except PermissionError:
        made.setsockopt(level, option, value)  # as much as the host allows


def finish_flags(one: OpenFile, made: socket.socket) -> None:
    """Status flags as they were. Raises OSError."""
    set_status(made.fileno(), one.flags)


def address_of(sockaddr: bytes) -> Address | None:
    """As Python has addresses; None for a socket without a name. Raises ValueError."""
    if len(sockaddr) <= _FAMILY_BYTES:
        return None
    try:
        (family,) = struct.unpack_from("=H", sockaddr)
        if family == socket.AF_UNIX:
            path = sockaddr[_FAMILY_BYTES:]
            return path if path.startswith(b"\0") else path.split(b"\0", 1)[0]
        (port,) = struct.unpack_from("!H", sockaddr, 2)
        if family == socket.AF_INET:
            return socket.inet_ntop(family, sockaddr[4:8]), port
        if family == socket.AF_INET6:
            (flow,) = struct.unpack_from("!I", sockaddr, 4)
            (scope,) = struct.unpack_from("=I", sockaddr, 24)
            return socket.inet_ntop(family, sockaddr[8:24]), port, flow, scope
        if family == socket.AF_NETLINK:
            return struct.unpack_from("=II", sockaddr, 4)
    except struct.error as error:
        raise ValueError("an address is cut short") from error
    raise ValueError(f"an address of family {family}")


def is_taken(error: OSError) -> bool:
    """Whether somebody else has the address."""
    return error.errno == errno.EADDRINUSE
