"""What an open file is, in words: its place, its other end, and what is special about it."""

from collections.abc import Iterator

from display.names import clock_name, epoll_event_names, signal_name, signal_set_text, socket_name
from display.units import bytes_text, clip, counted, duration_text
from formats.manifest import Manifest
from formats.openfiles import EpollWatch, OpenFile, OpenFileKind, Pipe, Socket, Terminal, Timerfd

_PATH_MAX = 200
_USERS_SHOWN = 3
_WATCHES_SHOWN = 3
_SHUTDOWNS = {1: "no more reading", 2: "no more writing", 3: "shut down"}
_HAS_OFFSET = (OpenFileKind.FILE, OpenFileKind.DIRECTORY, OpenFileKind.DEVICE, OpenFileKind.MEMFD)

_O_ACCMODE, _O_WRONLY = 3, 1

User = tuple[int, int]
"""A process and its descriptor: pid, fd."""


class OpenFiles:
    """The open files of a round, and who has which."""

    def __init__(self, manifest: Manifest) -> None:
        self._by_id = {item.id: item for item in manifest.open_files}
        self._pipes = {(pipe.device, pipe.inode): pipe for pipe in manifest.pipes}
        self._users: dict[int, list[User]] = {}
        for process in manifest.processes:
            for descriptor in process.state.descriptors if process.state else ():
                self._users.setdefault(descriptor.open_file, []).append((process.pid, descriptor.fd))
        self._ends = {_end(item): item.id for item in manifest.open_files if item.id in self._users}

    def get(self, number: int) -> OpenFile | None:
        """The open file of that id, None if the round has none."""
        return self._by_id.get(number)

    def pipe(self, item: OpenFile) -> Pipe | None:
        """What lies in the pipe or FIFO that this is an end of."""
        return self._pipes.get((item.device, item.inode))

    def sharers(self, item: OpenFile, me: User) -> str:
        """Who else has it open, through which descriptors; "" for nobody."""
        users = self._users.get(item.id, [])
        return _users_text(users, me, len(users) - 1)

    def other_end(self, item: OpenFile, me: User) -> str:
        """Who has the other end of this pipe or this connected Unix socket; "" where nobody of the round has."""
        if not item.inode:  # of CRIU's images, which do not tell
            return ""
        if item.socket:
            end = (item.device, item.socket.peer_inode, item.flags & _O_ACCMODE)
        else:
            end = (item.device, item.inode, item.flags & _O_ACCMODE ^ _O_WRONLY)
        number = self._ends.get(end)
        users = self._users[number] if number is not None else []
        return _users_text(users, me, len(users))


def _end(item: OpenFile) -> tuple[str, int, int]:
    """What tells one end of a pipe or socket from all others: a pipe is one inode, read by one end, written by one."""
    return item.device, item.inode, item.flags & _O_ACCMODE


def _users_text(users: list[User], me: User, n_others: int) -> str:
    """ "fd 3", "pid 12 fd 3, pid 13 fd 3 and 7 more": the pid only where it is another's; `me` is left out."""
    # One more than is shown may be `me`: never go through a list that an image made endless.
    found = [user for user in users[: _USERS_SHOWN + 1] if user != me][:_USERS_SHOWN]
    texts = [f"fd {fd}" if pid == me[0] else f"pid {pid} fd {fd}" for pid, fd in found]
    n_more = n_others - len(found)
    return ", ".join(texts) + (f" and {n_more:,} more" if n_more > 0 else "")


def offset_text(item: OpenFile) -> str:
    """Where it reads or writes next, "-" for what has no such place."""
    return str(item.offset) if item.kind in _HAS_OFFSET else "-"


def kind_text(item: OpenFile) -> str:
    """What kind of thing is open."""
    if item.socket:
        return socket_name(item.socket.family, item.socket.type, item.socket.protocol)
    return item.kind.value


def _terminal_notes(terminal: Terminal) -> Iterator[str]:
    yield f"{terminal.rows}x{terminal.columns}"
    if terminal.session:
        yield f"session {terminal.session}, foreground group {terminal.foreground_group}"


def _timer_text(timer: Timerfd) -> str:
    text = clock_name(timer.clock)
    text += f", {duration_text(timer.remaining_ns)} left" if timer.remaining_ns else ", disarmed"
    text += f", every {duration_text(timer.interval_ns)}" if timer.interval_ns else ""
    return text + (f", {timer.ticks:,} expirations unread" if timer.ticks else "")


def _watches_text(watches: list[EpollWatch]) -> str:
    if not watches:
        return "watches nothing"
    first = [f"fd {watch.fd} {'|'.join(epoll_event_names(watch.events))}" for watch in watches[:_WATCHES_SHOWN]]
    more = ", ..." if len(watches) > len(first) else ""
    return f"watches {counted(len(watches), 'descriptor')}: {', '.join(first)}{more}"


def _pipe_text(pipe: Pipe) -> str:
    return f"{bytes_text(len(pipe.content))} in it, room for {bytes_text(pipe.capacity_bytes)}"


def _socket_what(socket: Socket) -> str:
    local, peer = clip(socket.local, _PATH_MAX), clip(socket.peer, _PATH_MAX)
    ends = f"{local or '-'} -> {peer}" if peer else local
    return f"{ends} {clip(socket.state, 20)}".strip()


def _socket_notes(socket: Socket) -> Iterator[str]:
    if socket.backlog:
        yield f"backlog {socket.backlog}"
    if socket.shutdown:
        yield _SHUTDOWNS.get(socket.shutdown, f"shutdown {socket.shutdown}")
    if socket.queue:
        n_bytes = sum(map(len, socket.queue))
        yield f"{bytes_text(n_bytes)} in its queue ({counted(len(socket.queue), 'message')})"
    if socket.connection:
        received, sent = len(socket.connection.received), len(socket.connection.sent)
        yield f"goes on: {bytes_text(received)} to read, {bytes_text(sent)} to be acknowledged"


def what_text(item: OpenFile) -> str:
    """The thing itself: a path, addresses, a count."""
    if item.socket:
        return _socket_what(item.socket)
    if item.eventfd:
        return f"count {item.eventfd.count}" + (", semaphore" if item.eventfd.semaphore else "")
    if item.timerfd:
        return _timer_text(item.timerfd)
    if item.epoll is not None:
        return _watches_text(item.epoll)
    if item.inotify is not None:
        return f"watches {counted(len(item.inotify), 'file')}"
    if item.signalfd_mask is not None:
        return signal_set_text(item.signalfd_mask)
    return clip(item.path, _PATH_MAX) or "-"


def notes(item: OpenFile, files: OpenFiles, me: User) -> Iterator[str]:
    """What is special about it, for descriptor `me`."""
    if item.deleted or item.kind is OpenFileKind.MEMFD:
        deleted = "deleted, " if item.kind is not OpenFileKind.MEMFD else ""  # a memfd never had a name
        yield f"{deleted}content {'not stored' if item.object is None else f'stored as object {item.object}'}"
    if item.terminal:
        yield from _terminal_notes(item.terminal)
    if item.socket:
        yield from _socket_notes(item.socket)
    if item.kind in (OpenFileKind.PIPE, OpenFileKind.FIFO) and (pipe := files.pipe(item)):
        yield _pipe_text(pipe)
    if item.kind is OpenFileKind.PIPE or (item.socket and item.socket.peer_inode):
        other = files.other_end(item, me)
        yield f"other end is {other}" if other else "other end is not in the round"
    if sharers := files.sharers(item, me):
        yield f"shared with {sharers}"
    if item.owner:
        whose = f"group {-item.owner}" if item.owner < 0 else f"pid {item.owner}"
        yield f"{signal_name(item.owner_signal) if item.owner_signal else 'SIGIO'} to {whose}"
