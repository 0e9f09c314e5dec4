"""The open files of a round as a restore looks at them: who has which, and which belong together."""

from __future__ import annotations

import stat
from collections import defaultdict
from dataclasses import dataclass

from formats.manifest import Manifest
from formats.openfiles import OpenFile, OpenFileKind, Pipe, Socket, Terminal
from formats.processstate import ProcessState
from restorer.files.choices import FileChoices

O_PATH = 0o10000000
LISTEN, ESTABLISHED, UNCONNECTED = "listen", "established", "unconnected"
SHUT_BOTH = 3


@dataclass(frozen=True, slots=True)
class Holder:
    """A descriptor that an open file has, and whose it is, by the pid of the image."""

    pid: int
    fd: int


class FileRecords:
    """What a manifest says of open files, by what one asks for."""

    def __init__(self, manifest: Manifest, choices: FileChoices) -> None:
        self.manifest = manifest
        self.states: dict[int, ProcessState] = {
            process.pid: process.state for process in manifest.processes if process.state is not None
        }
        self.by_id = {one.id: one for one in manifest.open_files}
        self.holders: dict[int, list[Holder]] = defaultdict(list)
        self._at: dict[Holder, int] = {}
        for pid, state in self.states.items():
            for descriptor in state.descriptors:
                holder = Holder(pid, descriptor.fd)
                self.holders[descriptor.open_file].append(holder)
                self._at[holder] = descriptor.open_file
        self.open_files = [one for one in manifest.open_files if one.id in self.holders]
        self.inherited = self._inherited(choices)
        self._pipes = {(pipe.device, pipe.inode): pipe for pipe in manifest.pipes}
        self._sockets = {one.inode: one for one in self.open_files if one.socket}

    def _inherited(self, choices: FileChoices) -> dict[int, int]:
        """Descriptors of the caller's by the open files that they stand for."""
        found = {}
        for theirs, ours in choices.inherit.items():
            one = self.at(self.manifest.root_pid, theirs)
            if one:
                found[one.id] = ours
        return found

    def at(self, pid: int, fd: int) -> OpenFile | None:
        """What a process of the image has at a descriptor."""
        number = self._at.get(Holder(pid, fd))
        return None if number is None else self.by_id[number]

    def first_state(self, one: OpenFile) -> ProcessState:
        """The state of the first process that has it."""
        return self.states[self.holders[one.id][0].pid]

    def pipe(self, one: OpenFile) -> Pipe | None:
        """What lies in it, of a pipe or FIFO."""
        return self._pipes.get((one.device, one.inode))

    def same_file(self, one: OpenFile) -> list[OpenFile]:
        """All open files of the file, itself among them; not for those that all have one inode (epoll, timerfd...)."""
        return [other for other in self.open_files if (other.device, other.inode) == (one.device, one.inode)]

    def peer(self, one: OpenFile) -> OpenFile | None:
        """The socket at the other end of a Unix connection, if a process of the image has it."""
        return self._sockets.get(one.socket.peer_inode) if one.socket and one.socket.peer_inode else None

    def listener(self, peer: Socket) -> OpenFile | None:
        """The listening Unix socket that a socket has connected to, by the name that it has for its peer."""
        for one in self._sockets.values():
            told = one.socket
            listens = told is not None and told.state == LISTEN and told.family == peer.family
            if told and listens and told.local_sockaddr == peer.peer_sockaddr:
                return one
        return None

    def terminals(self, index: int, *, master: bool) -> list[tuple[OpenFile, Terminal]]:
        """The ends of one kind of a pseudoterminal."""
        return [
            (one, one.terminal)
            for one in self.open_files
            if one.terminal and one.terminal.index == index and one.terminal.is_master == master
        ]


def is_path_only(one: OpenFile) -> bool:
    """Opened with O_PATH."""
    return bool(one.flags & O_PATH)


def has_path(one: OpenFile) -> bool:
    """Whether it is found by a path."""
    return one.path.startswith("/") and not one.deleted and one.kind is not OpenFileKind.MEMFD


def file_type(one: OpenFile) -> int:
    """S_IF*."""
    return stat.S_IFMT(one.mode)
