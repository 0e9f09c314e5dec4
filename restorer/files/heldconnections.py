"""Connections that a dump on this host keeps for a restore: `dumper.connectionguard` has them, silent and locked."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dumper.kernel import tcp
from dumper.kernel.files import SocketReader
from dumper.kernel.probes import pidfd_getfd
from dumper.proc import GONE_ERRORS
from formats.openfiles import Socket

GUARD = b"dumper.connectionguard"
SO_NETNS_COOKIE = 71
COOKIE_BYTES = 8


def take_over(record: Socket, like: socket.socket) -> int:
    """The connection between these two addresses, in the network namespace of `like`; -1 if nobody keeps it.

    Who kept it lets go of it as soon as it is no longer silent.
    """
    for pid in _guards():
        with suppress(*GONE_ERRORS, PermissionError):
            fd = _find(pid, record, like)
            if fd >= 0:
                return fd
    return -1


def _guards() -> Iterator[int]:
    """Of our own user: another one's may be anything."""
    for entry in Path("/proc").iterdir():
        with suppress(*GONE_ERRORS, PermissionError):
            if (
                entry.name.isdigit()
                and entry.stat().st_uid == os.geteuid()
                and GUARD in (entry / "cmdline").read_bytes().split(b"\0")
            ):
                yield int(entry.name)


def _find(pid: int, record: Socket, like: socket.socket) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - there may be many
            copy_fd = pidfd_getfd(pidfd, int(name))
            with suppress(OSError):
                if _is_it(copy_fd, record, like):
                    return copy_fd
            os.close(copy_fd)
    finally:
        os.close(pidfd)
    return -1


def _is_it(fd: int, record: Socket, like: socket.socket) -> bool:
    """Raises OSError if it is no socket, or none that is connected."""
    if not (tcp.is_silent(fd) and tcp.is_locked(fd)):
        return False
    candidate = socket.socket(fileno=os.dup(fd))
    with candidate:
        return (
            candidate.family == record.family
            and _cookie(candidate) == _cookie(like)
            and _ends(candidate) == (record.local_sockaddr, record.peer_sockaddr)
        )


def _ends(candidate: socket.socket) -> tuple[bytes, bytes]:
    _, local, peer = SocketReader(1).read(candidate.fileno())
    return local, peer


def _cookie(candidate: socket.socket) -> bytes:
    return candidate.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, COOKIE_BYTES)
