"""Unix sockets: unix(7). All are made, then they get names, then they are connected, then their queues are filled.

A connected pair is made by socketpair(2), or, where an end has a name, by a listening socket of that name which is
there for a moment: the one that accepted has the name of the one that listened.
"""

from __future__ import annotations

import os
import socket
import struct

from formats.openfiles import OpenFile, Socket
from restorer.files.choices import OUTSIDE, OutsideChoice
from restorer.files.records import ESTABLISHED, LISTEN, SHUT_BOTH, FileRecords
from restorer.files.sockets import address_of, adopt, finish_flags, make_socket, record_of, set_options
from restorer.files.unixnames import UnixNames
from restorer.files.workshop import Workshop

ROOM_BYTES = 1 << 20


def has_peer_outside(one: OpenFile, records: FileRecords) -> bool:
    """Whether it is connected to a process that is not in the image, and not by a name that it can be connected to."""
    told = one.socket
    if told is None or not told.peer_inode or records.peer(one) is not None:
        return False
    return told.type != socket.SOCK_DGRAM or not address_of(told.peer_sockaddr)


class UnixSockets:
    """All of an image, by the id of the open file."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._names = UnixNames(shop)
        self._made: dict[int, socket.socket] = {}
        self._others: dict[int, socket.socket] = {}
        """Our ends of connections whose other end is gone."""

    def open_socket(self, one: OpenFile) -> int:
        """It has neither a name nor its queue yet: `complete`. Raises RestoreFailed, OSError."""
        if one.id not in self._made:
            self._make(one, record_of(self._shop, one))
        return self._made[one.id].fileno()

    def complete(self) -> None:
        """Once all are made. Raises RestoreFailed, OSError."""
        files = [self._shop.records.by_id[number] for number in self._made]
        told = [(one, record_of(self._shop, one)) for one in files]
        for one, record in told:
            if record.state == LISTEN or (record.type == socket.SOCK_DGRAM and one.id not in self._others):
                self._give_name(one, record)
        for one, record in told:
            if self._connects(one, record):
                self._names.connect(one, self._made[one.id], record.peer_sockaddr)
        for one, record in told:
            self._fill(one, record)
        for one, record in told:
            if record.shutdown and (record.state == ESTABLISHED or one.id in self._others):
                self._shut(one, record)
            finish_flags(one, self._made[one.id])
        for other in self._others.values():
            other.close()

    def keep(self) -> None:
        """Who has them runs."""
        self._names.keep()

    def close(self) -> None:
        """Names that are not kept go. May be called again."""
        self._names.remove()

    # ---- made ----------------------------------------------------------------------------------------------------

    def _make(self, one: OpenFile, record: Socket) -> None:
        peer = self._shop.records.peer(one)
        is_mutual = peer is not None and peer.socket is not None and peer.socket.peer_inode == one.inode
        has_names = address_of(record.local_sockaddr) or address_of(record.peer_sockaddr)
        if record.state == LISTEN or (record.type == socket.SOCK_DGRAM and (has_names or not is_mutual)):
            if record.state == ESTABLISHED and not address_of(record.peer_sockaddr):
                self._make_without_name_of_peer(one, record, peer)
            else:
                self._made[one.id] = make_socket(self._shop, one)
        elif peer is not None and is_mutual:
            self._make_pair(one, record, peer)
        elif record.state != ESTABLISHED or self._shop.records.listener(record):
            self._made[one.id] = make_socket(self._shop, one)
            if record.state != ESTABLISHED:
                self._give_name(one, record)
        else:
            self._lose_peer(one, record)

    def _make_without_name_of_peer(self, one: OpenFile, record: Socket, peer: OpenFile | None) -> None:
        """A datagram socket that was connected, but to whom cannot be said by a name."""
        if peer is not None:
            self._shop.refuse(one, "the socket that it sends to has no name and does not send to it")
        self._lose_peer(one, record)

    def _make_pair(self, one: OpenFile, record: Socket, peer: OpenFile) -> None:
        other = record_of(self._shop, peer)
        if address_of(record.local_sockaddr) and not address_of(other.local_sockaddr):
            ends = self._names.connected_pair(one, record)
        elif address_of(other.local_sockaddr):
            ends = self._names.connected_pair(peer, other)[::-1]
            if address_of(record.local_sockaddr):
                self._shop.tell(f"{record.local}, a connected socket, has lost its name")
        else:
            ends = socket.socketpair(socket.AF_UNIX, record.type)
        for which, end in zip((one, peer), ends, strict=True):
            self._made[which.id] = adopt(self._shop, end)
            set_options(self._shop, which, end)

    def _lose_peer(self, one: OpenFile, record: Socket) -> None:
        """A connection whose other end is closed, as it was, or is from now on."""
        if has_peer_outside(one, self._shop.records):
            if self._shop.choices.outside is OutsideChoice.REFUSE:
                self._shop.refuse(one, OUTSIDE)
            self._shop.tell(f"{one.path}, the other end of which is closed")
        mine, other = socket.socketpair(socket.AF_UNIX, record.type)
        self._made[one.id] = adopt(self._shop, mine)
        self._others[one.id] = adopt(self._shop, other)
        set_options(self._shop, one, mine)

    # ---- completed -----------------------------------------------------------------------------------------------

    def _give_name(self, one: OpenFile, record: Socket) -> None:
        made = self._made[one.id]
        self._names.bind(one, made, record.local_sockaddr)
        if record.state == LISTEN:
            made.listen(record.backlog)

    def _connects(self, one: OpenFile, record: Socket) -> bool:
        """Whether connect(2) is called for it: to a name, of one that listens or takes datagrams."""
        if record.state != ESTABLISHED or not address_of(record.peer_sockaddr) or one.id in self._others:
            return False
        return record.type == socket.SOCK_DGRAM or self._shop.records.peer(one) is None

    def _fill(self, one: OpenFile, record: Socket) -> None:
        """What lay in its queue is sent again, by its peer where it has one."""
        if not record.queue:
            return
        with socket.socket(socket.AF_UNIX, record.type) as stranger:
            sender = self._sender(one, record, stranger)
            sender.setblocking(False)
            before_bytes = sender.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            for message in record.queue:
                if len(message) > before_bytes // 2:
                    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(message) + ROOM_BYTES)
                try:
                    sent = sender.sendmsg([message], self._credentials(record))
                except OSError as error:
                    self._shop.refuse(one, f"what lay in its queue could not be sent again: {error.strerror}")
                if sent != len(message):
                    self._shop.refuse(one, f"only {sent} of {len(message)} bytes in its queue could be sent again")
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, before_bytes // 2)

    def _sender(self, one: OpenFile, record: Socket, stranger: socket.socket) -> socket.socket:
        if one.id in self._others:
            return self._others[one.id]
        peer = self._shop.records.peer(one)
        if peer is not None and peer.id in self._made:
            return self._made[peer.id]
        self._names.connect(one, stranger, record.local_sockaddr)
        return stranger

    def _credentials(self, record: Socket) -> list[tuple[int, int, bytes]]:
        """Who has sent them, where the receiver asks for it (SO_PASSCRED) and they still are somebody."""
        told = [record.options.get(f"so_peercred_{name}", 0) for name in ("pid", "uid", "gid")]
        pid = self._shop.pids.get(told[0])
        if not record.options.get("so_passcred") or pid is None or os.geteuid():
            return []
        return [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("iii", pid, *told[1:]))]

    def _shut(self, one: OpenFile, record: Socket) -> None:
        how = {1: socket.SHUT_RD, 2: socket.SHUT_WR, SHUT_BOTH: socket.SHUT_RDWR}[record.shutdown & SHUT_BOTH]
        self._made[one.id].shutdown(how)
