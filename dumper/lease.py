"""A command's side of the keeper: find it, borrow the userfaultfds, say what was committed."""

import errno
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dumper.errors import PermissionDenied, TargetBusy, TargetTracked
from dumper.keeper import FDS_PER_MESSAGE, MAX_MESSAGE_BYTES, peer_uid
from dumper.target import Target
from formats.errors import PredumpError, StorageError
from formats.faults import Point, reached

ANSWER_TIMEOUT_S = 10.0
MAX_TRIES = 5


Key = tuple[int, int]
"""A process: its pid and its start time in clock ticks."""


@dataclass(frozen=True, slots=True)
class Chained:
    """A process in a round: where its chain of parents ends, and what may have written to its pages unseen since."""

    full_round: int
    unseen_writers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChainState:
    """The round that the write-protection refers to: what was written since is what is not protected.

    `processes` are those that the round holds.
    """

    checkpoint_id: str
    round: int
    manifest_sha256: str
    processes: dict[Key, Chained]

    def as_json(self) -> dict[str, object]:
        """For a message to the keeper."""
        return {
            "checkpoint_id": self.checkpoint_id,
            "round": self.round,
            "manifest_sha256": self.manifest_sha256,
            "processes": [[*key, one.full_round, one.unseen_writers] for key, one in self.processes.items()],
        }

    @staticmethod
    def from_json(state: dict[str, object]) -> "ChainState":
        """What a keeper was told. Raises KeyError, ValueError."""
        processes = state["processes"]
        if not isinstance(processes, list):
            raise ValueError("processes are a list")
        return ChainState(
            checkpoint_id=str(state["checkpoint_id"]),
            round=int(str(state["round"])),
            manifest_sha256=str(state["manifest_sha256"]),
            processes={
                (int(pid), int(start)): Chained(int(full_round), tuple(map(str, unseen_writers)))
                for pid, start, full_round, unseen_writers in processes
            },
        )


def runtime_dir() -> Path:
    """Where this user's keepers are found, made if need be.

    Raises PermissionDenied if somebody else made it, StorageError.
    """
    uid = os.geteuid()
    if uid == 0:
        path = Path("/run/predump")
    elif os.environ.get("XDG_RUNTIME_DIR"):
        path = Path(os.environ["XDG_RUNTIME_DIR"]) / "predump"
    else:
        path = Path(f"/tmp/predump-{uid}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError.from_os_error("create the directory", path, error) from error
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o077:
        raise PermissionDenied(
            f"{path} does not belong to this user alone",
            hint="Remove it, or set XDG_RUNTIME_DIR to a directory of your own.",
        )
    return path


def _runtime_path(target: Target, suffix: str) -> Path:
    return runtime_dir() / f"{target.pid}-{target.start_time_ticks}.{suffix}"


def _is_at(path: Path, fd: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


@contextmanager
def exclusive(target: Target) -> Iterator[None]:
    """Keeps other commands off the target. Raises TargetBusy, PermissionDenied, StorageError."""
    path = _runtime_path(target, "lock")
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StorageError.from_os_error("create", path, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise _busy(target) from None
        if _is_at(path, fd):
            break
        os.close(fd)  # its last holder removed it just now
    holder_pid = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == holder_pid:  # a child that was forked meanwhile does not hold it
            path.unlink(missing_ok=True)
        os.close(fd)


class Lease:
    """The exclusive use of a keeper; ends with `close`, or with this process."""

    def __init__(self, connection: socket.socket, target: Target) -> None:
        self._connection = connection
        self._target = target
        self._in_doubt = True  # a keeper that was started just now knows of no round; one that was there begins

    def _ask(self, request: dict[str, object], fds: Sequence[int] = ()) -> dict[str, object]:
        socket.send_fds(self._connection, [json.dumps(request).encode()], fds)
        message = self._connection.recv(MAX_MESSAGE_BYTES)
        if not message:
            raise ConnectionResetError("the keeper has ended")
        answer = json.loads(message)
        if not isinstance(answer, dict) or not answer.get("ok"):
            raise BlockingIOError("the keeper is busy")
        return answer

    def begin(self) -> tuple[dict[Key, int], ChainState | None]:
        """Borrows the userfaultfds, by process. The state is None if it is in doubt. Raises OSError."""
        answer = self._ask({"op": "begin"})
        held = answer["held"]
        assert isinstance(held, list)
        fds: list[int] = []
        while len(fds) < len(held):
            message, more, flags, _ = socket.recv_fds(self._connection, MAX_MESSAGE_BYTES, FDS_PER_MESSAGE)
            if not message:
                raise ConnectionResetError("the keeper has ended")
            if flags & socket.MSG_CTRUNC:  # there was no room for some of them
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            fds += more
        state = answer["state"]
        keys = [(int(pid), int(start)) for pid, start in held]
        known = ChainState.from_json(state) if isinstance(state, dict) and not answer["in_doubt"] else None
        return dict(zip(keys, fds, strict=True)), known

    def hold(self, uffds: Sequence[tuple[Key, int]]) -> None:
        """Gives it copies of userfaultfds of processes that it does not have yet. Raises OSError if it is gone."""
        for first in range(0, len(uffds), FDS_PER_MESSAGE):
            batch = uffds[first : first + FDS_PER_MESSAGE]
            self._ask({"op": "hold", "held": [list(key) for key, _ in batch]}, [fd for _, fd in batch])

    def commit(self, state: ChainState) -> None:
        """Says that the round is on disk. Raises OSError if the keeper is gone, and the tracking with it."""
        self._ask({"op": "commit", "state": state.as_json()})
        self._in_doubt = False

    def open_round(self) -> None:
        """Says that pages are about to be reset: from now on the chain is in doubt, until the next `commit`.

        Raises TargetBusy if the keeper does not answer: it would go on to believe in the round before.
        """
        if self._in_doubt:
            return
        try:
            with suppress(ConnectionError):  # it has ended, and believes nothing
                self._ask({"op": "open"})
        except OSError:
            raise _busy(self._target) from None
        self._in_doubt = True

    def release(self) -> None:
        """Has the keeper drop the userfaultfds and end; one that has ended already is as good."""
        with suppress(OSError):
            self._ask({"op": "release"})

    def close(self) -> None:
        """Gives the keeper back; a round that was begun and not committed leaves the chain in doubt."""
        self._connection.close()


def _connect(target: Target) -> Lease | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(ANSWER_TIMEOUT_S)
    path = _runtime_path(target, "sock")
    try:
        connection.connect(str(path))
    except FileNotFoundError:
        connection.close()
        return None
    except ConnectionRefusedError:
        connection.close()
        path.unlink(missing_ok=True)  # its keeper was killed
        return None
    if peer_uid(connection) not in (0, os.geteuid()):
        connection.close()
        raise PermissionDenied(
            f"the keeper of process {target.pid} belongs to another user",
            hint="Run predump as the same user as before.",
            pid=target.pid,
        )
    return Lease(connection, target)


def borrow(target: Target) -> tuple[Lease, dict[Key, int], ChainState | None] | None:
    """The target's keeper, its userfaultfds and what it says of the chain (`Lease.begin`); None if there is no keeper.

    Raises TargetBusy if another command has it, PermissionDenied.
    """
    for _ in range(MAX_TRIES):
        lease = _connect(target)
        if lease is None:
            return None
        try:
            held, state = lease.begin()
        except ConnectionError:  # it ended just now, and perhaps left a socket that nobody answers any more
            lease.close()
            continue
        except (BlockingIOError, TimeoutError):
            lease.close()
            break
        reached(Point.BORROWED)
        return lease, held, state
    raise _busy(target)


def is_tracked(target: Target) -> bool:
    """Whether a keeper holds the tracking of the target for the next command. Raises PermissionDenied."""
    lease = _connect(target)
    if lease is None:
        return False
    lease.close()
    return True


def refuse_tracked(target: Target) -> None:
    """Raises TargetTracked if a keeper holds the tracking of the target, PermissionDenied.

    A second userfaultfd could not track it, and to borrow that of the keeper and reset pages would end its chain.
    """
    if is_tracked(target):
        raise TargetTracked(
            f"process {target.pid} is tracked for the next round of a checkpoint",
            hint=f"Finish that with 'predump dump', or drop it with 'predump detach -p {target.pid}'.",
            pid=target.pid,
        )


def _busy(target: Target) -> TargetBusy:
    return TargetBusy(
        f"another predump is working on process {target.pid}", hint="Wait until it has finished.", pid=target.pid
    )


def start_keeper(target: Target) -> Lease:
    """Starts a keeper, which holds nothing yet, and takes its lease. Raises TargetBusy, PredumpError."""
    path = _runtime_path(target, "sock")
    try:
        return _start_keeper(target, path)
    except OSError as error:
        raise PredumpError(
            f"the keeper for process {target.pid}, with the socket {path}, could not be started: {error.strerror}",
            hint="It needs room for its socket, and for one more process; 'predump dump' needs no keeper.",
            pid=target.pid,
        ) from error


def _start_keeper(target: Target, path: Path) -> Lease:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _busy(target) from None
            raise
        listener.listen(8)
        reached(Point.KEEPER_BOUND)
        fds = (listener.fileno(), target.pidfd)
        subprocess.Popen(
            [sys.executable, "-S", "-E", "-m", "dumper.keeper", str(target.pid), *map(str, fds)],
            cwd=Path(__file__).parent.parent,
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    reached(Point.KEEPER_STARTED)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(ANSWER_TIMEOUT_S)
    connection.connect(str(path))
    reached(Point.KEEPER_CONNECTED)
    return Lease(connection, target)
