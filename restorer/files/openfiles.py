"""Open files of an image, made once for all processes that have them.

    open_all     each open file description, in this process
    hand_to      into the processes, at their numbers
    finish       what needs everything in place: interest lists, locks, owners, timers, watches
    release      what is held back until they run: connections
    keep         they run

Nothing of it runs in the processes but calls that are theirs alone: dup3, locks, control of a terminal.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from formats.closing import Closing
from formats.errors import PredumpError
from formats.manifest import Manifest, Process
from formats.openfiles import OpenFile, OpenFileKind
from restorer.errors import RestoreFailed
from restorer.events import Tell
from restorer.files import anonymous
from restorer.files.choices import FileChoices
from restorer.files.control import take_terminals
from restorer.files.epolls import fill_epolls
from restorer.files.handing import Receiver, hand_over
from restorer.files.inetsockets import open_inet, release_connections
from restorer.files.inotify import open_inotify, watch_again
from restorer.files.locks import take_locks
from restorer.files.owners import set_owners
from restorer.files.paths import open_again
from restorer.files.pipes import Pipes
from restorer.files.records import FileRecords, is_path_only
from restorer.files.refusals import refusals
from restorer.files.sockets import record_of
from restorer.files.terminals import Terminals
from restorer.files.unixsockets import UnixSockets
from restorer.files.workshop import Objects, Workshop, set_status

Maker = Callable[[OpenFile], int]
"""Our descriptor of an open file that it makes; raises RestoreFailed, OSError."""


class OpenFiles(Closing):
    """Everything that descriptors of an image's processes refer to; a context manager. Making it makes nothing."""

    def __init__(self, manifest: Manifest, objects: Objects, choices: FileChoices, tell: Tell) -> None:
        """`tell` takes what comes back otherwise than it was."""
        self._records = FileRecords(manifest, choices)
        self._shop = Workshop(self._records, objects, choices, tell)
        self._terminals = Terminals(self._shop)
        self._unix = UnixSockets(self._shop)
        pipes = Pipes(self._shop)
        self._makers: Mapping[OpenFileKind, Maker] = {
            OpenFileKind.FILE: self._with(open_again),
            OpenFileKind.DIRECTORY: self._with(open_again),
            OpenFileKind.DEVICE: self._with(open_again),
            OpenFileKind.MEMFD: self._with(open_again),
            OpenFileKind.TERMINAL: self._terminals.open_end,
            OpenFileKind.PIPE: pipes.open_end,
            OpenFileKind.FIFO: pipes.open_end,
            OpenFileKind.SOCKET: self._open_socket,
            OpenFileKind.EVENTFD: self._with(anonymous.make_eventfd),
            OpenFileKind.EPOLL: self._with(anonymous.make_epoll),
            OpenFileKind.TIMERFD: self._with(anonymous.make_timerfd),
            OpenFileKind.SIGNALFD: self._with(anonymous.make_signalfd),
            OpenFileKind.INOTIFY: self._with(open_inotify),
            OpenFileKind.PIDFD: self._with(anonymous.make_pidfd),
            OpenFileKind.NAMESPACE: self._with(anonymous.open_namespace),
        }

    def close(self) -> None:
        """Close our descriptors; processes keep theirs. Names of sockets go unless kept. May be called again."""
        self._unix.close()
        self._shop.close()

    def open_all(self, pids: Mapping[int, int]) -> None:
        """Make all of them. `pids`: ids of processes and threads that have been made, by those of the image.

        Raises RestoreFailed, which names the file and the process that has it.
        """
        self._shop.pids = pids
        for item in refusals(self._records.manifest, self._shop.choices):
            raise RestoreFailed(f"{item.what} of process {item.pid} cannot be opened again: {item.reason}.")
        for one in self._records.open_files:
            self._attempt(one, self._open)
        self._unix.complete()
        self._terminals.complete()

    def hand_to(self, receiver: Receiver, process: Process) -> None:
        """Its descriptors. Raises CallFailed, OSError."""
        if process.state is not None:
            hand_over(receiver, process.state.descriptors, self._shop.made)

    def finish(self, receivers: Mapping[int, Receiver]) -> None:
        """When all processes have their descriptors, sessions and groups; `receivers` by pid of the image.

        Nothing is opened after it that a process might watch. Raises RestoreFailed, CallFailed, OSError.
        """
        shop = self._shop
        fill_epolls(shop)
        for pid, receiver in receivers.items():
            take_locks(shop, receiver, pid)
        take_terminals(shop, self._terminals, receivers)
        set_owners(shop, receivers)
        shop.close_temporary()
        clocks = self._records.manifest.clocks
        for one in self._records.open_files:
            if one.timerfd is not None:
                anonymous.arm_timerfd(shop.made[one.id], one.timerfd, clocks.realtime_ns if clocks else 0)
        watch_again(shop)
        shop.close_all_but_held_back()

    def release(self) -> None:
        """Right before the processes run: connections go on. Raises OSError."""
        release_connections(self._shop)

    def keep(self) -> None:
        """The processes run: names that were made for them stay."""
        self._unix.keep()

    def _with(self, make: Callable[[Workshop, OpenFile], int]) -> Maker:
        return lambda one: make(self._shop, one)

    def _attempt(self, one: OpenFile, make: Maker) -> None:
        try:
            self._shop.made[one.id] = make(one)
        except PredumpError:
            raise
        except OSError as error:
            self._shop.refuse(one, error.strerror or str(error))

    def _open(self, one: OpenFile) -> int:
        inherited = self._records.inherited.get(one.id)
        if inherited is not None:
            fd = self._shop.own(os.dup(inherited))
            set_status(fd, one.flags)
            return fd
        if is_path_only(one):
            return open_again(self._shop, one)
        if one.kind not in self._makers:
            self._shop.refuse(one, "files of this kind are not made again")
        return self._makers[one.kind](one)

    def _open_socket(self, one: OpenFile) -> int:
        told = record_of(self._shop, one)
        if told.family == socket.AF_UNIX:
            return self._unix.open_socket(one)
        return open_inet(self._shop, one)
