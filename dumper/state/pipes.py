"""What lies in pipes and FIFOs: pipe(7). It is doubled by tee(2), which takes nothing out and moves no offset."""

import contextlib
import errno
import fcntl
import os
import select
from dataclasses import dataclass, field

from dumper.filesystems import device_name
from dumper.kernel import files
from dumper.state.notes import Notes
from dumper.state.queries import FIONREAD, query_int
from formats.closing import Closing
from formats.openfiles import Pipe

F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032  # fcntl(2)
OUR_PIPE_BYTES = 1 << 20  # the largest that needs no privilege
O_DIRECT = 0o40000

Key = tuple[int, int]  # st_dev, st_ino


@dataclass(slots=True)
class FoundPipe:
    """A pipe as it was found: `pieces` as read(2) gives them out, `problem` if its content was not to be had."""

    name: str
    has_reader: bool = True
    has_writer: bool = True
    capacity_bytes: int = 0
    waiting_bytes: int = 0
    by_packets: bool = False
    pieces: list[bytes] = field(default_factory=list)
    is_read: bool = False
    problem: str = ""


class PipeCapture(Closing):
    """Reads each pipe once, whoever has it open. Make it before the freeze."""

    def __init__(self) -> None:
        self._found: dict[Key, FoundPipe] = {}
        self._ours: tuple[int, int] | None = None
        self._our_bytes = 0
        self._renew()

    def _renew(self) -> None:
        """A pipe of ours with room for what lies in one of a usual size."""
        self.close()
        self._ours = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._grow(OUR_PIPE_BYTES)

    def _grow(self, capacity_bytes: int) -> None:
        assert self._ours is not None
        with contextlib.suppress(OSError):  # not allowed: what does not fit will be named
            fcntl.fcntl(self._ours[1], F_SETPIPE_SZ, capacity_bytes)
        self._our_bytes = fcntl.fcntl(self._ours[1], F_GETPIPE_SZ)

    def read(self, key: Key, name: str, flags: int, copy_fd: int, path: str, *, has_name: bool) -> None:
        """In the freeze: `copy_fd` is a copy of the target's descriptor, which `path` in /proc stands for.

        has_name: it is a FIFO.

        A pipe that has been read is not read again. Raises OSError only if the process is gone.
        """
        may_read = flags & os.O_ACCMODE != os.O_WRONLY
        pipe = self._found.get(key)
        if pipe is None:
            pipe = self._found[key] = FoundPipe(name)
            events = _events(copy_fd)
            pipe.has_reader = not events & select.POLLERR
            pipe.has_writer = not events & select.POLLHUP
        if flags & O_DIRECT and flags & os.O_ACCMODE != os.O_RDONLY:
            pipe.by_packets = True
        if pipe.is_read:
            return
        try:
            pipe.capacity_bytes = fcntl.fcntl(copy_fd, F_GETPIPE_SZ)
            pipe.waiting_bytes = query_int(copy_fd, FIONREAD)
            if not pipe.waiting_bytes:
                pipe.is_read = True
            elif may_read:
                self._double(pipe, copy_fd)
            else:
                self._read_through(pipe, path, has_name=has_name)
        except OSError as error:
            pipe.problem = f"could not be read: {os.strerror(error.errno or 0)}"

    def _read_through(self, pipe: FoundPipe, path: str, *, has_name: bool) -> None:
        """Only the end for writing is at hand: its other end is opened for a moment, if there is one."""
        if not pipe.has_reader:
            # A first reader would change what writers see: none gets EPIPE, and one that waits for it goes on. What
            # lies in a pipe without a name is lost to everybody.
            pipe.is_read = not has_name
            pipe.problem = "nobody has it open for reading, and to open it would be noticed" if has_name else ""
            return
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._double(pipe, fd)
        finally:
            os.close(fd)

    def _double(self, pipe: FoundPipe, source_fd: int) -> None:
        if pipe.capacity_bytes > self._our_bytes:
            self._grow(pipe.capacity_bytes)
        assert self._ours is not None
        ours, into = self._ours
        pieces = []
        try:
            # The length does not bound it: a pipe of packets holds less than the room they take.
            doubled = files.tee(source_fd, into, max(self._our_bytes, pipe.waiting_bytes))
            while doubled > 0:
                pieces.append(os.read(ours, doubled))
                doubled -= len(pieces[-1])
        except OSError as error:
            self._renew()  # whatever of this one is still in there does not belong to the next
            if error.errno != errno.EAGAIN:
                raise
        pipe.pieces = pieces
        pipe.is_read = True
        if sum(map(len, pieces)) != pipe.waiting_bytes:
            pipe.problem = f"only {sum(map(len, pieces))} of {pipe.waiting_bytes} bytes in it could be read"
        else:
            pipe.problem = ""

    def records(self) -> list[Pipe]:
        """All pipes and FIFOs that were read."""
        return [
            Pipe(
                device=device_name(device),
                inode=inode,
                capacity_bytes=pipe.capacity_bytes,
                content=b"".join(pipe.pieces),
                packet_bytes=_packets(pipe),
                has_reader=pipe.has_reader,
                has_writer=pipe.has_writer,
            )
            for (device, inode), pipe in self._found.items()
        ]

    def note(self, key: Key, notes: Notes) -> None:
        """Notes it if what lies in a pipe is not held; once, with the first who asks."""
        pipe = self._found.get(key)
        if pipe and pipe.problem:
            notes.add(f"content of {pipe.name}", pipe.problem)
            pipe.problem = ""

    def close(self) -> None:
        """Closes the pipe of our own."""
        if self._ours is not None:
            for fd in self._ours:
                os.close(fd)
            self._ours = None


def _events(fd: int) -> int:
    """What of an end of a pipe is reported, asked for or not: that the other end is closed."""
    poller = select.poll()
    poller.register(fd, 0)
    return sum(events for _, events in poller.poll(0))


def _packets(pipe: FoundPipe) -> list[int]:
    """A read ends where a packet does; of bytes without packets there is one piece."""
    return [len(piece) for piece in pipe.pieces] if pipe.by_packets or len(pipe.pieces) > 1 else []
