"""A command's side of the keeper: find it, borrow the userfaultfd, say what was committed."""

import errno
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dumper.errors import PermissionDenied, TargetBusy
from dumper.keeper import MAX_MESSAGE_BYTES, peer_uid
from dumper.target import Target

ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ChainState:
    """The round that the write-protection refers to: what was written since is what is not protected.

    `full_round` is the round at which its chain of parents ends.
    """

    checkpoint_id: str
    round: int
    manifest_sha256: str
    full_round: int


def runtime_dir() -> Path:
    """Where this user's keepers are found, made if need be.

    Raises PermissionDenied if somebody else made it.
    """
    uid = os.geteuid()
    if uid == 0:
        path = Path("/run/predump")
    elif os.environ.get("XDG_RUNTIME_DIR"):
        path = Path(os.environ["XDG_RUNTIME_DIR"]) / "predump"
    else:
        path = Path(f"/tmp/predump-{uid}")
    path.mkdir(mode=0o700, exist_ok=True)
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
    """Keeps other commands off the target. Raises TargetBusy, PermissionDenied."""
    path = _runtime_path(target, "lock")
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise _busy(target) from None
        if _is_at(path, fd):
            break
        os.close(fd)  # its last holder removed it just now
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


class Lease:
    """The exclusive use of a keeper; ends with `close`, or with this process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def _ask(self, request: dict[str, object]) -> tuple[dict[str, object], list[int]]:
        self._connection.send(json.dumps(request).encode())
        message, fds, _, _ = socket.recv_fds(self._connection, MAX_MESSAGE_BYTES, 1)
        if not message:
            raise ConnectionResetError("the keeper has ended")
        answer = json.loads(message)
        if not isinstance(answer, dict) or not answer.get("ok"):
            raise BlockingIOError("the keeper is busy")
        return answer, fds

    def begin(self) -> tuple[int, ChainState | None]:
        """Borrows the userfaultfd. The state is None if it is in doubt. Raises OSError."""
        answer, fds = self._ask({"op": "begin"})
        state = answer["state"]
        if answer["in_doubt"] or not isinstance(state, dict):
            return fds[0], None
        return fds[0], ChainState(
            checkpoint_id=str(state["checkpoint_id"]),
            round=int(state["round"]),
            manifest_sha256=str(state["manifest_sha256"]),
            full_round=int(state["full_round"]),
        )

    def commit(self, state: ChainState) -> None:
        """Says that the round is on disk. Raises OSError if the keeper is gone, and the tracking with it."""
        self._ask({"op": "commit", "state": asdict(state)})

    def release(self) -> None:
        """Has the keeper drop the userfaultfd and end; one that has ended already is as good."""
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
    return Lease(connection)


def borrow(target: Target) -> tuple[Lease, int, ChainState | None] | None:
    """The target's keeper, its userfaultfd and what it says of the chain (`Lease.begin`); None if there is no keeper.

    Raises TargetBusy if another command has it, PermissionDenied.
    """
    lease = _connect(target)
    if lease is None:
        return None
    try:
        return lease, *lease.begin()
    except ConnectionError:  # it ended just now
        lease.close()
        return None
    except (BlockingIOError, TimeoutError):
        lease.close()
        raise _busy(target) from None


def _busy(target: Target) -> TargetBusy:
    return TargetBusy(
        f"another predump is working on process {target.pid}", hint="Wait until it has finished.", pid=target.pid
    )


def start_keeper(target: Target, uffd: int) -> Lease:
    """Starts a keeper that owns a copy of `uffd`, and takes its lease. Raises TargetBusy, OSError."""
    path = _runtime_path(target, "sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _busy(target) from None
            raise
        listener.listen(8)
        fds = (listener.fileno(), uffd, target.pidfd)
        subprocess.Popen(
            [sys.executable, "-S", "-E", "-m", "dumper.keeper", str(target.pid), *map(str, fds)],
            cwd=Path(__file__).parent.parent,
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(ANSWER_TIMEOUT_S)
    connection.connect(str(path))
    return Lease(connection)
