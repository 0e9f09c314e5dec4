"""What is around the processes: room in memory, namespaces and cgroups, ports and names of sockets."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence

from formats.layout import PAGE_BYTES
from formats.manifest import Manifest
from formats.openfiles import OpenFile, OpenFileKind
from restorer.checks.findings import Problem, Subject

NAMESPACES = ("net", "mnt", "ipc", "uts", "cgroup")
LISTEN = "listen"
OWN_FDS = 32
"""What a restore itself has open, and some more."""


def memory(manifest: Manifest, available_bytes: int) -> Iterator[Problem]:
    """All pages that are filled."""
    n_pages = sum(one.pages_data + one.pages_parent for one in manifest.processes)
    n_pages += sum(one.pages_data for one in manifest.objects)
    if n_pages * PAGE_BYTES > available_bytes:
        message = (
            f"The processes need {n_pages * PAGE_BYTES >> 20} MiB of memory, and there are {available_bytes >> 20} MiB."
        )
        yield Problem(Subject.MEMORY, message, "End something else, add swap, or raise the limit of the cgroup.")


def descriptors(manifest: Manifest, max_fds: int) -> Iterator[Problem]:
    """Their numbers, one more in each process while it is made, and all open files at once in us."""
    highest = max((one.fd for item in manifest.processes if item.state for one in item.state.descriptors), default=0)
    n_needed = max(highest + 2, len(manifest.open_files) + OWN_FDS)
    if n_needed > max_fds:
        message = f"The processes need {n_needed} descriptors, and the caller may have {max_fds}."
        yield Problem(Subject.PRIVILEGE, message, "Raise the hard limit of open files (ulimit -Hn).")


def namespaces(manifest: Manifest, boot_id: str, own: Mapping[str, int]) -> Iterator[Problem]:
    """Those that were not the caller's; they are known by their numbers on the same boot only."""
    if manifest.host.boot_id != boot_id:
        return
    for process in manifest.processes:
        for item in process.state.namespaces if process.state else ():
            if item.kind in NAMESPACES and own.get(item.kind, item.inode) != item.inode:
                message = (
                    f"Process {process.pid} was in another {item.kind} namespace than the one that it comes back in."
                )
                yield Problem(Subject.SURROUNDINGS, message, stops=False)


def cgroups(manifest: Manifest, own: Sequence[str]) -> Iterator[Problem]:
    """A restored process is in the caller's."""
    for process in manifest.processes:
        if process.state and process.state.cgroups and list(own) != process.state.cgroups:
            paths = sorted({line.split(":", 2)[-1] for line in process.state.cgroups})
            message = f"Process {process.pid} was in cgroup {', '.join(paths)[:200]}, and comes back in the caller's."
            yield Problem(Subject.SURROUNDINGS, message, stops=False)


def sockets(manifest: Manifest) -> Iterator[Problem]:
    """Whether the addresses of listening sockets are free: a socket of ours has them for an instant."""
    for item in manifest.open_files:
        sock = item.socket
        if item.kind is not OpenFileKind.SOCKET or sock is None or sock.state != LISTEN or not sock.local_sockaddr:
            continue
        if sock.family == socket.AF_UNIX:
            yield from _unix(sock.local_sockaddr)
        elif sock.family in (socket.AF_INET, socket.AF_INET6):
            yield from _port(item)


def _port(item: OpenFile) -> Iterator[Problem]:
    sock = item.socket
    assert sock is not None
    try:
        address = _inet_address(sock.family, sock.local_sockaddr)
        with socket.socket(sock.family, sock.type) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as when it is made again
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, sock.options.get("so_reuseport", 0))
            if sock.family == socket.AF_INET6:
                ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, sock.options.get("ipv6_v6only", 0))
            ours.bind(address)
    except (OSError, ValueError, struct.error) as error:
        number = error.errno if isinstance(error, OSError) else errno.EINVAL
        message = (
            f"Open file {item.id} listened at {sock.local[:100]}, where nobody can now: {os.strerror(number or 0)}."
        )
        hints = {
            errno.EADDRINUSE: "End who listens there.",
            errno.EADDRNOTAVAIL: "Give this machine the address, or restore in a network namespace that has it.",
            errno.EACCES: "Run it as root.",
        }
        yield Problem(Subject.NETWORK, message, hints.get(number or 0, ""))


def _inet_address(family: int, sockaddr: bytes) -> tuple[str, int] | tuple[str, int, int, int]:
    """Raises ValueError, struct.error for what is none: ip(7), ipv6(7)."""
    (port,) = struct.unpack_from("!H", sockaddr, 2)
    if family == socket.AF_INET:
        return socket.inet_ntop(family, sockaddr[4:8]), port
    (flow,) = struct.unpack_from("!I", sockaddr, 4)
    (scope,) = struct.unpack_from("=I", sockaddr, 24)
    return socket.inet_ntop(family, sockaddr[8:24]), port, flow & 0xFFFFF, scope


def _unix(sockaddr: bytes) -> Iterator[Problem]:
    """unix(7): a path, or behind a zero byte a name of the network namespace."""
    name = sockaddr[2:]
    if name.startswith(b"\0"):
        try:
            with socket.socket(socket.AF_UNIX) as ours:
                ours.bind(name)
        except OSError as error:
            message = f"The Unix socket @{name[1:100].decode('utf-8', 'replace')} is not to be had: {error.strerror}."
            yield Problem(Subject.NETWORK, message, "End who has it.")
        return
    path = os.fsdecode(name.partition(b"\0")[0])
    if not path.startswith("/"):
        return  # relative to a directory that only its maker knows
    with socket.socket(socket.AF_UNIX) as ours:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            if not os.path.isdir(os.path.dirname(path)):  # noqa: PTH112, PTH120 -- any string that an image has
                yield Problem(Subject.NETWORK, f"The directory of the Unix socket {path} is not there.", "Make it.")
            return
        except OSError as error:
            yield Problem(Subject.NETWORK, f"The Unix socket {path} cannot be looked at: {error.strerror}.")
            return
        if not stat.S_ISSOCK(status.st_mode):
            yield Problem(Subject.NETWORK, f"{path} is in the place of a Unix socket.", "Move it away.")
            return
        ours.setblocking(False)
        try:
            ours.connect(path)
        except OSError:
            return  # nobody listens: it is what the process left
    yield Problem(Subject.NETWORK, f"Somebody listens at the Unix socket {path}.", "End who does.")
