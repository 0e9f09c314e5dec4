"""Sockets of the Internet families and of netlink: those that listen, that have no peer, and datagrams.

Established TCP connections are another matter: restorer.files.tcp.
"""

from __future__ import annotations

import os
import socket

from formats.openfiles import OpenFile, Socket
from restorer.files import tcp
from restorer.files.choices import TcpChoice
from restorer.files.records import ESTABLISHED, LISTEN, UNCONNECTED
from restorer.files.sockets import Address, address_of, finish_flags, is_taken, make_socket, record_of, set_options
from restorer.files.workshop import Workshop

INET = (socket.AF_INET, socket.AF_INET6)
SET_WHEN_RELEASED = ("so_sndbuf", "so_rcvbuf", "so_buf_lock", "so_reuseaddr")
AGREED_UPON = ("tcp_maxseg",)  # with the peer
IPPROTO_MPTCP = 262


def is_tcp_connection(told: Socket) -> bool:
    """Whether it has a state that only the peer shares."""
    return (
        told.family in INET
        and told.type == socket.SOCK_STREAM
        and told.protocol in (socket.IPPROTO_TCP, IPPROTO_MPTCP)
        and told.state not in (LISTEN, UNCONNECTED)
    )


def open_inet(shop: Workshop, one: OpenFile) -> int:
    """Raises RestoreFailed, OSError."""
    told = record_of(shop, one)
    if is_tcp_connection(told):
        return _open_connection(shop, one, told)
    made = make_socket(shop, one)
    try:
        local, peer = address_of(told.local_sockaddr), address_of(told.peer_sockaddr)
    except ValueError as error:
        shop.refuse(one, f"it has {error}")
    if local is not None and has_port(told, local):
        _bind(shop, one, made, local)
    if told.state == LISTEN:
        made.listen(told.backlog)
    elif peer is not None and told.state == ESTABLISHED:
        made.connect(peer)
        if told.shutdown:
            made.shutdown(told.shutdown - 1)  # SHUT_RD, SHUT_WR, SHUT_RDWR
    finish_flags(one, made)
    return made.fileno()


def _open_connection(shop: Workshop, one: OpenFile, told: Socket) -> int:
    """Raises RestoreFailed, PermissionDenied, OSError."""
    if shop.choices.tcp is TcpChoice.CLOSE:
        fd = shop.own(tcp.reset_socket(told))
    else:
        fd = shop.hold_back(tcp.connect_socket(told), one)
    with socket.socket(fileno=os.dup(fd)) as made:
        set_options(shop, one, made, SET_WHEN_RELEASED + AGREED_UPON)
        finish_flags(one, made)
    return fd


def release_connections(shop: Workshop) -> None:
    """They go on. Raises OSError."""
    for one in shop.held_back:
        tcp.release(shop.made[one.id], record_of(shop, one))


def has_port(told: Socket, local: Address) -> bool:
    """Whether it is bound: a new one has the address of any host and no port."""
    if told.family == socket.AF_NETLINK:
        return any(local)
    return bool(local[1]) or told.type == socket.SOCK_RAW


def _bind(shop: Workshop, one: OpenFile, made: socket.socket, local: Address) -> None:
    """Connections of before that are not over yet (TIME_WAIT) do not stand in the way."""
    told = record_of(shop, one)
    is_stream = told.family in INET and told.type == socket.SOCK_STREAM
    if is_stream:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(local)
        if is_stream and told.state == LISTEN:
            made.listen(told.backlog)
    except OSError as error:
        hint = "End the process that has the address, and try again." if is_taken(error) else ""
        shop.refuse(one, f"the address {told.local} could not be had: {error.strerror}", hint)
    if is_stream:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, told.options.get("so_reuseaddr", 0))
