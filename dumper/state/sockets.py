"""Sockets: socket(7). In the freeze they are asked through a copy of the descriptor; records are made later."""

import errno
import select
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from dumper.connections import Connections
from dumper.kernel import files
from dumper.kernel.files import OptionReader, RawSocket, SocketReader
from dumper.state import socketoptions as options
from dumper.state.notes import Notes
from dumper.state.queues import Peeked, QueueReader
from dumper.state.socketnames import name_of
from dumper.state.unixdiag import UnixDiag, UnixSocket, diag_of, parse_answer
from formats.closing import Closing
from formats.openfiles import Socket, TcpConnection

# Asking about one socket makes the kernel look at all of the namespace: from so many on, all are asked about at once.
ASK_ALL_FROM = 32
QUEUE_BYTES = 1 << 18

CONNECTION_PROBLEM = "sequence numbers and bytes in flight of TCP connections are not captured"
SHUT_READ, SHUT_WRITE = 1, 2
INET = (socket.AF_INET, socket.AF_INET6)
LISTEN, UNCONNECTED = "listen", "unconnected"
# By tcp_info.tcpi_state (include/net/tcp_states.h): the name, and which directions are over for certain.
TCP_STATES = {
    1: ("established", 0),
    2: ("syn-sent", 0),
    3: ("syn-recv", 0),
    4: ("fin-wait-1", SHUT_WRITE),
    5: ("fin-wait-2", SHUT_WRITE),
    6: ("time-wait", SHUT_READ | SHUT_WRITE),
    7: (UNCONNECTED, 0),
    8: ("close-wait", SHUT_READ),
    9: ("last-ack", SHUT_READ | SHUT_WRITE),
    10: (LISTEN, 0),
    11: ("closing", SHUT_READ | SHUT_WRITE),
}
_TCP_INFO = struct.Struct("<B23xII")  # tcpi_state, tcpi_unacked, tcpi_sacked


@dataclass(slots=True)
class FoundSocket:
    """What was gathered of a socket in the freeze."""

    raw: RawSocket
    local: bytes
    peer: bytes
    options: bytes
    diag: UnixDiag | None = None
    queue: Peeked = field(default_factory=Peeked)


class SocketCapture(Closing):
    """Asks sockets. Make it before the freeze. `connections`: takes those of TCP, None if they are not captured."""

    def __init__(self, connections: Connections | None = None) -> None:
        self._connections = connections
        self._reader = SocketReader(QUEUE_BYTES)
        self._queues = QueueReader(self._reader)
        self._options: dict[tuple[int, int, int], OptionReader] = {}
        for domain in (socket.AF_UNIX, *INET):
            for kind, protocol in ((socket.SOCK_STREAM, socket.IPPROTO_TCP), (socket.SOCK_DGRAM, socket.IPPROTO_UDP)):
                self._option_reader(domain, kind, protocol if domain in INET else 0)
        self._found: dict[int, FoundSocket] = {}
        self._diags: dict[int, UnixDiag | None] = {}
        self._answers: dict[UnixDiag, list[bytes]] = {}
        try:
            diag = UnixDiag()
        except OSError:
            return
        self._diags = {diag.cookie: diag}

    def _option_reader(self, domain: int, kind: int, protocol: int) -> OptionReader:
        key = (domain, kind, protocol)
        if key not in self._options:
            self._options[key] = OptionReader(options.wanted_options(*key))
        return self._options[key]

    # ---- in the freeze -----------------------------------------------------------------------------------------

    def read(self, inode: int, copy_fd: int) -> None:
        """Gathers what the socket tells through a copy of its descriptor. Raises OSError."""
        raw, local, peer = self._reader.read(copy_fd)
        values = self._option_reader(raw.domain, raw.type, raw.protocol).read(copy_fd)
        found = self._found[inode] = FoundSocket(raw, local, peer, values)
        if raw.domain == socket.AF_UNIX:
            found.diag = self._diag(raw.cookie, copy_fd)
            if raw.listens != 1 and raw.events & select.POLLIN:
                found.queue = self._queues.read(raw, copy_fd)
        if self._connections and _is_connection(files.option_values(values)):
            self._connections.hold(inode, copy_fd)

    def take_connections(self) -> None:
        """Once all sockets are read: from now on those of TCP stand still, too. Raises as Connections."""
        if self._connections:
            self._connections.take()

    def _diag(self, cookie: int, copy_fd: int) -> UnixDiag | None:
        if cookie not in self._diags:
            self._diags[cookie] = diag_of(copy_fd)
        return self._diags[cookie]

    def ask_about_unix(self) -> None:
        """Once all sockets are read: asks for what they do not tell themselves, about the other end most of all."""
        by_diag: dict[UnixDiag, list[int]] = {}
        for inode, found in self._found.items():
            if found.diag:
                by_diag.setdefault(found.diag, []).append(inode)
        for diag, inodes in by_diag.items():
            answers = self._answers.setdefault(diag, [])
            try:
                if len(inodes) >= ASK_ALL_FROM:
                    answers += diag.ask_all()
                else:
                    answers += [diag.ask(inode) for inode in inodes]
                peers = self._peers_to_ask_about(inodes, answers)
                answers += [diag.ask(peer) for peer in peers]
            except (OSError, struct.error):
                continue  # what nobody told is named later

    def _peers_to_ask_about(self, inodes: list[int], answers: list[bytes]) -> list[int]:
        """Of sockets with messages waiting: how much their senders have sent tells whether there is another one."""
        waiting = [inode for inode in inodes if self._found[inode].queue.is_first_of_some]
        if not waiting:
            return []
        told = _by_inode(answers)
        return [told[inode].peer_inode for inode in waiting if inode in told and told[inode].peer_inode]

    # ---- after it ----------------------------------------------------------------------------------------------

    def records(self) -> dict[int, tuple[Socket, Notes]]:
        """Sockets by inode, each with what of it is not held; a note's `{}` stands for the descriptor."""
        told = {inode: one for answers in self._answers.values() for inode, one in _by_inode(answers).items()}
        return {inode: self._record(found, inode, told) for inode, found in self._found.items()}

    def _record(self, found: FoundSocket, inode: int, told: Mapping[int, UnixSocket]) -> tuple[Socket, Notes]:
        raw, notes = found.raw, Notes()
        values = files.option_values(found.options)
        unix = told.get(inode, UnixSocket(inode)) if raw.domain == socket.AF_UNIX else UnixSocket(inode)
        state, backlog, waiting, shutdown = UNCONNECTED, 0, 0, _shutdown_by_events(raw.events)
        if options.TCP_INFO in values:
            number, waiting, backlog = _TCP_INFO.unpack(values[options.TCP_INFO])
            state, shut = TCP_STATES.get(number, (UNCONNECTED, 0))
            shutdown = (shutdown | shut) if state not in (LISTEN, UNCONNECTED, "syn-sent") else 0
        elif raw.listens == 1:
            state, backlog, waiting = LISTEN, unix.backlog, unix.receive_queue
        elif raw.peer_bytes >= 0 or unix.peer_inode:
            state = "established"
        if state == LISTEN and waiting:
            notes.add("{}", f"{waiting} connections waiting to be accepted are not captured")
        if raw.n_filter > 0 or raw.n_filter == -errno.EACCES:
            notes.add("filter of {}", "programs attached to sockets are not captured")
        if raw.domain == socket.AF_UNIX:
            shutdown |= unix.shutdown
            if inode not in told:
                notes.add("peer of {}", "the kernel does not tell about Unix sockets of its network namespace")
            self._queues.note(found.queue, raw, told.get(unix.peer_inode), found.local, notes)
        else:
            _note_inet(raw, values, notes)
        connection = self._connection(inode, found, values, state, notes)
        return (
            Socket(
                family=raw.domain,
                type=raw.type,
                protocol=raw.protocol,
                state=state,
                local=name_of(found.local),
                peer=name_of(found.peer),
                local_sockaddr=found.local,
                peer_sockaddr=found.peer,
                options=options.option_numbers(values),
                congestion_control=values.get(options.TCP_CONGESTION, b"").rstrip(b"\0").decode("ascii", "replace"),
                peer_inode=unix.peer_inode,
                backlog=backlog if state == LISTEN else 0,
                shutdown=shutdown,
                queue=found.queue.messages,
                connection=connection,
            ),
            notes,
        )

    def _connection(
        self, inode: int, found: FoundSocket, values: Mapping[options.Option, bytes], state: str, notes: Notes
    ) -> TcpConnection | None:
        if options.TCP_INFO not in values or state in (LISTEN, UNCONNECTED):
            return None
        told = self._connections.record(inode) if self._connections else ""
        if isinstance(told, TcpConnection):
            return told
        received, sent = max(0, found.raw.in_bytes), max(0, found.raw.out_bytes)
        in_flight = f" ({state}; {received} bytes received, {sent} to be acknowledged)"
        notes.add("{}", CONNECTION_PROBLEM + in_flight + (f": {told}" if told else ""))
        return None

    def close(self) -> None:
        """Closes the sockets of our own."""
        for diag in self._diags.values():
            if diag:
                diag.close()
        self._diags.clear()


def _by_inode(answers: list[bytes]) -> dict[int, UnixSocket]:
    found: dict[int, UnixSocket] = {}
    for answer in answers:
        try:
            found |= {one.inode: one for one in parse_answer(answer)}
        except (OSError, struct.error):
            continue  # of that one nothing is known
    return found


def _shutdown_by_events(events: int) -> int:
    if events & select.POLLHUP:
        return SHUT_READ | SHUT_WRITE
    return SHUT_READ if events & select.POLLRDHUP else 0


def _is_connection(values: Mapping[options.Option, bytes]) -> bool:
    """Of TCP, with nothing on top of it in the kernel."""
    if options.TCP_INFO not in values or values.get(options.TCP_ULP, b"").rstrip(b"\0"):
        return False
    number, _, _ = _TCP_INFO.unpack(values[options.TCP_INFO])
    return TCP_STATES.get(number, (UNCONNECTED, 0))[0] not in (LISTEN, UNCONNECTED)


def _note_inet(raw: RawSocket, values: Mapping[options.Option, bytes], notes: Notes) -> None:
    if options.TCP_INFO in values:
        if values.get(options.TCP_ULP, b"").rstrip(b"\0"):
            notes.add("upper layer of {}", "what the kernel does on top of TCP, as TLS, is not captured")
        return
    if raw.events & select.POLLIN and not raw.events & select.POLLRDHUP:
        notes.add("queued messages of {}", "they cannot be read without being taken out")
    if raw.domain not in (*INET, socket.AF_NETLINK):
        notes.add("{}", f"sockets of family {raw.domain} are recorded without their state")
