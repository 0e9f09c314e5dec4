"""Open files that do not come back, or not as they were: a rule for each kind."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from formats.manifest import Manifest
from formats.openfiles import OpenFile, OpenFileKind, Socket
from formats.restorable.verdict import Verdict

O_PATH = 0o10000000
_O_ACCMODE = 3
_MEMORY_DEVICES = "01:"  # null, zero, full, random, urandom: Documentation/admin-guide/devices.txt
_PTY_NONE = -1
_UNNAMED_BYTES = 2  # of the address of a Unix socket that has no name
OUTSIDE = "its other end is not in the dump: whoever restores says what takes its place"
LISTEN, UNCONNECTED = "listen", "unconnected"

LOCK_KINDS = frozenset({"flock", "posix", "ofd", "lease"})
"""Locks that are taken again."""
FAMILIES = frozenset({socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK})
PROTOCOLS = frozenset({0, socket.IPPROTO_TCP, socket.IPPROTO_UDP})
"""Sockets that are made again; other families (packet, vsock) and protocols (raw, SCTP, MPTCP) are not."""


@dataclass(frozen=True, slots=True)
class Round:
    """What rules ask beside the open file itself: which of them are in the dump, by what leads from one to another."""

    unix_inodes: frozenset[int]
    pipes_outside: frozenset[tuple[str, int]]
    """Pipes of which somebody outside has an end that nobody in the dump has; by device and inode."""
    terminals: frozenset[int]
    """Numbers of the ptys whose controlling end is in the dump."""
    ids: frozenset[int] = frozenset()
    """Of processes and threads, and -1 for one that has been reaped."""
    namespaces: frozenset[int] = frozenset()
    """That the processes are in, by inode."""


_Rule = Callable[[OpenFile, Round], str]


def look(manifest: Manifest, verdict: Verdict) -> None:
    """All that processes have open; of what several share, the first is told."""
    around = _around(manifest)
    files = {item.id: item for item in manifest.open_files}
    seen = set()
    for process in manifest.processes:
        if process.state is None:
            continue
        labels = {}
        for descriptor in process.state.descriptors:
            item = files.get(descriptor.open_file)
            if item is None:
                verdict.stop(process.pid, f"descriptor {descriptor.fd}", "the image does not have what it is of")
                continue
            labels[descriptor.fd] = label(descriptor.fd, item)
            if item.id not in seen:
                seen.add(item.id)
                _look_at(item, labels[descriptor.fd], process.pid, around, verdict)
        for lock in process.state.locks:
            if lock.kind not in LOCK_KINDS:
                what = f"{lock.kind} of {labels.get(lock.fd, f'descriptor {lock.fd}')}"
                verdict.stop(process.pid, what, "locks of this kind are not taken again")


def label(fd: int, item: OpenFile) -> str:
    """As the dump names a descriptor where something of it is missing."""
    return f"descriptor {fd} ({item.path}{' (deleted)' if item.deleted else ''})"


def _look_at(item: OpenFile, what: str, pid: int, around: Round, verdict: Verdict) -> None:
    if item.flags & O_PATH:
        if item.deleted:
            verdict.stop(pid, what, "its name is gone, so that it cannot be found again")
        return
    if reason := STOPS[item.kind](item, around):
        verdict.stop(pid, what, reason)
    elif reason := DIFFERS.get(item.kind, _never)(item, around):
        verdict.differ(pid, what, reason)


def _around(manifest: Manifest) -> Round:
    files = manifest.open_files
    return Round(
        unix_inodes=frozenset(item.inode for item in files if item.socket and item.socket.family == socket.AF_UNIX),
        pipes_outside=frozenset(_pipes_outside(manifest)),
        terminals=frozenset(item.terminal.index for item in files if item.terminal and item.terminal.is_master),
        ids=frozenset({-1, *_ids(manifest)}),
        namespaces=frozenset(
            item.inode for process in manifest.processes if process.state for item in process.state.namespaces
        ),
    )


def _ids(manifest: Manifest) -> Iterator[int]:
    for process in manifest.processes:
        if process.zombie is None:
            yield process.pid
            yield from (thread.tid for thread in process.threads)


def _pipes_outside(manifest: Manifest) -> Iterator[tuple[str, int]]:
    pipes = [item for item in manifest.open_files if item.kind is OpenFileKind.PIPE]
    ends = {(item.device, item.inode, way) for item in pipes for way in (False, True) if _is_open(item, way)}
    for pipe in manifest.pipes:
        key = pipe.device, pipe.inode
        if (pipe.has_reader and (*key, False) not in ends) or (pipe.has_writer and (*key, True) not in ends):
            yield key


def _is_open(item: OpenFile, is_writer: bool) -> bool:
    """Whether it is open in that way: 0 to read, 1 to write, 2 for both."""
    return item.flags & _O_ACCMODE in (2, int(is_writer))


# ---- what stops a restore ---------------------------------------------------------------------------------------


def _never(_item: OpenFile, _around: Round) -> str:
    return ""


def _always(reason: str) -> _Rule:
    return lambda _item, _around: reason


def _without(name: str) -> _Rule:
    """Where the dump could not get what is special about the kind."""
    return lambda item, _around: "the image does not have its state" if getattr(item, name) is None else ""


def _file(item: OpenFile, _around: Round) -> str:
    if item.deleted and item.object is None:
        return "it has no name any more, and the image does not have its content"
    return "" if item.path.startswith("/") else "nobody knows its path"


def _with_name(item: OpenFile, _around: Round) -> str:
    return "it has no name any more, and cannot be found again" if item.deleted else ""


def _device(item: OpenFile, _around: Round) -> str:
    is_block = item.mode & 0o170000 == 0o060000
    if is_block or item.special.startswith(_MEMORY_DEVICES):
        return ""
    return "what the driver of the device keeps for it is not in the image"


def _process(item: OpenFile, around: Round) -> str:
    return "" if item.pid in around.ids else f"process {item.pid}, which it stands for, is not in the dump"


def _namespace(item: OpenFile, around: Round) -> str:
    return "" if item.inode in around.namespaces else "it is a namespace that no process of the dump is in"


def _socket(item: OpenFile, _around: Round) -> str:
    sock = item.socket
    if sock is None:
        return "the image does not have its state"
    if sock.family not in FAMILIES:
        return f"sockets of family {sock.family} are not made again"
    if sock.family == socket.AF_NETLINK:
        return ""
    is_raw = sock.family != socket.AF_UNIX and sock.type not in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    if is_raw or sock.protocol not in PROTOCOLS:
        return f"sockets of type {sock.type} and protocol {sock.protocol} are not made again"
    return ""


STOPS: Mapping[OpenFileKind, _Rule] = {
    OpenFileKind.FILE: _file,
    OpenFileKind.DIRECTORY: _with_name,
    OpenFileKind.DEVICE: _device,
    OpenFileKind.TERMINAL: _without("terminal"),
    OpenFileKind.PIPE: _never,
    OpenFileKind.FIFO: _with_name,
    OpenFileKind.SOCKET: _socket,
    OpenFileKind.MEMFD: _without("object"),
    OpenFileKind.EVENTFD: _without("eventfd"),
    OpenFileKind.EPOLL: _without("epoll"),
    OpenFileKind.TIMERFD: _without("timerfd"),
    OpenFileKind.SIGNALFD: _without("signalfd_mask"),
    OpenFileKind.INOTIFY: _without("inotify"),
    OpenFileKind.PIDFD: _process,
    OpenFileKind.NAMESPACE: _namespace,
    OpenFileKind.OTHER: _always("files of this kind are not made again"),
}
"""By kind: why an open file does not come back, "" if it does."""


# ---- what comes back otherwise ----------------------------------------------------------------------------------


def _pipe_from_outside(item: OpenFile, around: Round) -> str:
    return OUTSIDE if (item.device, item.inode) in around.pipes_outside else ""


def _terminal_of_others(item: OpenFile, around: Round) -> str:
    terminal = item.terminal
    if terminal is None or terminal.is_master or terminal.index in around.terminals:
        return ""
    if terminal.index == _PTY_NONE:
        return "the terminal is opened again by its path"
    return "who drives the terminal is not in the dump: whoever restores says what takes its place"


def _connection(item: OpenFile, around: Round) -> str:
    sock = item.socket
    if sock is None or sock.connection or sock.state in (LISTEN, UNCONNECTED):
        return ""
    if sock.family == socket.AF_UNIX:
        return _unix_connection(sock, around)
    if sock.type == socket.SOCK_STREAM:
        return f"a TCP connection ({sock.state}) that is not in the image: --tcp close lets it be reset"
    return ""


def _unix_connection(sock: Socket, around: Round) -> str:
    if not sock.peer_inode:
        return ""
    if sock.peer_inode in around.unix_inodes:
        return "its peer seems to be predump, by process id, user and group (SO_PEERCRED)"
    if sock.type == socket.SOCK_DGRAM and len(sock.peer_sockaddr) > _UNNAMED_BYTES:
        return "its peer is not in the dump: it is connected anew to that name"
    return OUTSIDE


def _watches(item: OpenFile, _around: Round) -> str:
    if all(watch.path for watch in item.inotify or []):
        return ""
    return "nobody told the paths of all that it watches: they are found again on the same machine only"


DIFFERS: Mapping[OpenFileKind, _Rule] = {
    OpenFileKind.INOTIFY: _watches,
    OpenFileKind.PIPE: _pipe_from_outside,
    OpenFileKind.TERMINAL: _terminal_of_others,
    OpenFileKind.SOCKET: _connection,
}
"""By kind: how an open file comes back otherwise than it was, "" if it does not."""
