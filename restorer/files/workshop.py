"""Where open files are made: what each family of them needs, and what becomes of what it makes."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import NoReturn, Protocol

from dumper.kernel.descriptors import open_path
from formats.closing import Closing
from formats.openfiles import OpenFile
from restorer.errors import RestoreFailed
from restorer.events import Tell
from restorer.files.choices import FileChoices
from restorer.files.records import FileRecords

# Flags that fcntl(2) F_SETFL changes; O_ASYNC is set by the process, for the number of its descriptor matters.
STATUS_FLAGS = os.O_APPEND | os.O_DIRECT | os.O_NOATIME | os.O_NONBLOCK
O_LARGEFILE = 0o100000  # the kernel's: os.O_LARGEFILE is 0


class Objects(Protocol):
    """Memory objects of the round: restorer.memory.objects."""

    def descriptor(self, number: int) -> int:
        """A descriptor of the object, open to read and write; it stays theirs. Raises PredumpError."""


class Workshop(Closing):
    """Holds the descriptors that were made, by open file, until the processes have them."""

    def __init__(self, records: FileRecords, objects: Objects, choices: FileChoices, tell: Tell) -> None:
        self.records = records
        self.objects = objects
        self.choices = choices
        self.tell = tell
        self.pids: Mapping[int, int] = {}
        """The pids and thread ids of now, by those of the image."""
        self.made: dict[int, int] = {}
        """Our descriptors, by the id of the open file."""
        self.held_back: list[OpenFile] = []
        """Connections that say nothing to their peers until they are released."""
        self._owned = ExitStack()
        self._held = ExitStack()
        self._temporary = ExitStack()

    def close(self) -> None:
        """Close all of ours; what processes have stays. May be called again."""
        self.close_temporary()
        self.close_all_but_held_back()
        self._held.close()
        self.made.clear()
        self.held_back.clear()

    def close_all_but_held_back(self) -> None:
        """Close what processes have and nothing is left to do about."""
        self._owned.close()

    def own(self, fd: int) -> int:
        """The descriptor, which is closed at the end."""
        self._owned.callback(os.close, fd)
        return fd

    def hold_back(self, fd: int, one: OpenFile) -> int:
        """The descriptor of a connection that will be released."""
        self._held.callback(os.close, fd)
        self.held_back.append(one)
        return fd

    def own_closing(self, what: socket.socket) -> None:
        """The same of a socket."""
        self._owned.callback(what.close)

    def own_for_now(self, fd: int) -> int:
        """The descriptor, which is closed as soon as all files are open."""
        self._temporary.callback(os.close, fd)
        return fd

    def close_temporary(self) -> None:
        """Close what was needed for the making only."""
        self._temporary.close()

    def reopen(self, fd: int, flags: int) -> int:
        """Another open file description of the file behind our descriptor; raises OSError."""
        flags &= os.O_ACCMODE | os.O_SYNC | O_LARGEFILE | STATUS_FLAGS
        made = self.own(open_path(f"/proc/self/fd/{fd}", flags & ~os.O_DIRECT | os.O_NOCTTY))
        set_status(made, flags)
        return made

    def refuse(self, one: OpenFile, reason: str, hint: str = "") -> NoReturn:
        """Raises RestoreFailed, which names the file and the process."""
        holder = self.records.holders[one.id][0]
        raise RestoreFailed(
            f"Cannot open {name_of(one)} again, descriptor {holder.fd} of process {holder.pid}: {reason}.",
            hint=hint or "Nothing was left behind.",
            path=one.path,
            pid=holder.pid,
            fd=holder.fd,
        )


def name_of(one: OpenFile) -> str:
    """For people."""
    if one.socket and (one.socket.local or one.socket.peer):
        local, peer = one.socket.local or "(without a name)", one.socket.peer
        return f"the socket {local} to {peer}" if peer else f"the socket {local}"
    return one.path or f"open file {one.id}"


def set_status(fd: int, flags: int) -> None:
    """Status flags as they were; raises OSError."""
    now = fcntl.fcntl(fd, fcntl.F_GETFL)
    if (now ^ flags) & STATUS_FLAGS:
        fcntl.fcntl(fd, fcntl.F_SETFL, now & ~STATUS_FLAGS | flags & STATUS_FLAGS)
