"""Open files of the processes of a round. One entry is one open file description: open(2), kcmp(2) KCMP_FILE.

Descriptors of several processes may share one: that is how they share its offset and its flags.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class OpenFileKind(StrEnum):
    """What is open."""

    FILE = "file"
    DIRECTORY = "directory"
    DEVICE = "device"
    TERMINAL = "terminal"
    PIPE = "pipe"
    FIFO = "fifo"
    SOCKET = "socket"
    MEMFD = "memfd"
    EVENTFD = "eventfd"
    EPOLL = "epoll"
    TIMERFD = "timerfd"
    SIGNALFD = "signalfd"
    INOTIFY = "inotify"
    PIDFD = "pidfd"
    NAMESPACE = "namespace"
    OTHER = "other"
    """A kind that predump does not know; `path` is what /proc calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipe:
    """What lies in a pipe or FIFO; both of its ends refer to it by `device` and `inode`.

    `content` is in the order in which it would be read. packet_bytes: the lengths of the packets in it, if it was
    written to with O_DIRECT. has_reader, has_writer: whether anybody has it open so; one who is not among the processes
    of the round is outside.
    """

    device: str
    inode: int
    capacity_bytes: int
    content: bytes
    packet_bytes: list[int] = field(default_factory=list)
    has_reader: bool = True
    has_writer: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """termios as TCGETS2 gives it (struct termios2), and the window size. `index`: of a pty, -1 if it is none.

    session, foreground_group: 0 if it controls none, or none that is known. is_master: of a pty, its controlling end.
    locked: unlockpt(3) has not been called; packet_mode: TIOCPKT; exclusive: TIOCEXCL.
    """

    termios: bytes
    rows: int
    columns: int
    index: int
    session: int
    foreground_group: int
    is_master: bool = False
    locked: bool = False
    packet_mode: bool = False
    exclusive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Eventfd:
    """eventfd(2)."""

    count: int
    semaphore: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EpollWatch:
    """An entry of the interest list, as epoll_ctl(2) takes it; `inode` and `device` are of the file that is watched.

    `fd` is the number it was added with, which stands for that file as long as it has not been closed and used again.
    """

    fd: int
    events: int
    data: int
    device: str
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timerfd:
    """timerfd_create(2): clock, expirations not read yet, TFD_TIMER_* of the last timerfd_settime."""

    clock: int
    ticks: int
    flags: int
    remaining_ns: int
    interval_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InotifyWatch:
    """inotify(7). The watched file is known by `handle`, for open_by_handle_at(2) on a mount of `device`.

    `path` is where it was, "" where nobody told.
    """

    wd: int
    mask: int
    device: str
    inode: int
    handle_type: int
    handle: bytes
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpConnection:
    """What an established TCP connection goes on with, as the kernel's repair mode has it (include/uapi/linux/tcp.h).

    receive_sequence, send_sequence: of the byte behind each queue, ends of the streams (FIN) not counted in
    send_sequence; received: what was acknowledged and not read; sent: what was not acknowledged, of which the last
    `unsent_bytes` were not even sent. mss: what the peer announced; *_window_scale: -1 without window scaling;
    timestamp: TCP_TIMESTAMP, None without timestamps; window: the five numbers of struct tcp_repair_window.
    """

    receive_sequence: int
    send_sequence: int
    received: bytes
    sent: bytes
    unsent_bytes: int
    mss: int
    send_window_scale: int
    receive_window_scale: int
    sack: bool
    timestamp: int | None
    window: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """socket(2). `local` and `peer` are for people (a path, "@name", "127.0.0.1:80"), `*_sockaddr` for bind(2).

    state: as `ss` names it ("listen", "established", "unconnected", ...); options: value by name (SO_*, TCP_*, in
    lower case; times in us, so_linger in seconds, -1 if it is off); congestion_control: of TCP; peer_inode: the socket
    at the other end of a Unix connection, 0 if there is none or nobody can tell; backlog: of a listening socket;
    shutdown: 1 no more reading, 2 no more writing, 3 both; queue: what lies in the receive queue of a Unix socket, one
    entry a message (one in all for a stream); connection: of TCP, where it was to be captured.
    """

    family: int
    type: int
    protocol: int
    state: str
    local: str
    peer: str
    local_sockaddr: bytes
    peer_sockaddr: bytes
    options: dict[str, int]
    congestion_control: str = ""
    peer_inode: int = 0
    backlog: int = 0
    shutdown: int = 0
    queue: list[bytes] = field(default_factory=list)
    connection: TcpConnection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """One open file description.

    path: as /proc/PID/fd shows it, without " (deleted)"; flags: O_* without O_CLOEXEC; offset: in bytes; mode: st_mode;
    mtime_ns: st_mtim, of regular files; special: st_rdev of a device, "" of others; owner, owner_signal: F_GETOWN
    (negative for a group) and F_GETSIG of those that send signals; object: id of the round's memory object that holds
    its content (memfd, deleted file), None where it has none; pid: of a pidfd, -1 for a process that has been reaped.
    What the kernel did not tell is 0, and named as missing.
    """

    id: int
    kind: OpenFileKind
    path: str
    deleted: bool
    flags: int
    offset: int
    device: str
    inode: int
    mode: int
    size_bytes: int
    mount_id: int
    mtime_ns: int = 0
    special: str = ""
    owner: int = 0
    owner_signal: int = 0
    object: int | None = None
    terminal: Terminal | None = None
    eventfd: Eventfd | None = None
    epoll: list[EpollWatch] | None = None
    timerfd: Timerfd | None = None
    signalfd_mask: int | None = None
    inotify: list[InotifyWatch] | None = None
    pid: int | None = None
    socket: Socket | None = None
