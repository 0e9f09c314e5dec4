"""The process that brings pages to processes that run already.

It is forked from the restore, and ends when all is there. A page that cannot be brought ends the processes that it is
for, as does the end of the server: with SIGKILL, for one that was merely stopped would read zeros when it goes on.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import syslog
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from dumper.kernel.missing import Sentinel
from dumper.kernel.ptrace import children
from dumper.proc.smaps import parse_smaps_flags, read_smaps
from formats.chain import MemoryView
from formats.checkpoint import Checkpoint
from formats.errors import PredumpError
from formats.faults import Point, reached, stop_instead
from restorer.memory.lazy.areas import Areas
from restorer.memory.lazy.space import Space


@dataclass(frozen=True, slots=True)
class Lazy:
    """A process that is to run before its pages are there: as the image knows it and as we do.

    `ranges` of it are registered with `uffd`.
    """

    image_pid: int
    pid: int
    uffd: int
    ranges: list[tuple[int, int]]


def start_server(images: Checkpoint, number: int, processes: Sequence[Lazy]) -> int:
    """Forks it; its pid. The userfaultfds are its own from then on. Raises OSError."""
    ready_fd, its_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_the_server(images, number, processes, its_fd)
    os.close(its_fd)
    for one in processes:
        os.close(one.uffd)
    is_ready = os.read(ready_fd, 1)
    os.close(ready_fd)
    if not is_ready:
        os.waitpid(pid, 0)
        raise ProcessLookupError(3, "the server of pages has ended")
    return pid


def _be_the_server(images: Checkpoint, number: int, processes: Sequence[Lazy], ready_fd: int) -> None:
    exit_code = 1
    try:
        os.setsid()
        for signal_number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(signal_number, signal.SIG_IGN)
        stop_instead()
        with ExitStack() as stack:
            server = Server(images, number, processes, stack)
            os.write(ready_fd, b"r")
            os.close(ready_fd)
            _let_go_of_output()
            server.run()
        exit_code = 0
    finally:
        os._exit(exit_code)


class Server:
    """Serves all of them, in one thread."""

    def __init__(self, images: Checkpoint, number: int, processes: Sequence[Lazy], stack: ExitStack) -> None:
        """Raises OSError, and as MemoryView."""
        self._sentinel = Sentinel()
        self._spaces: dict[int, Space] = {}
        self._pids: dict[int, int] = {}
        self._known: set[int] = set()
        self._poll = select.poll()
        for one in processes:
            view = stack.enter_context(MemoryView(images, number, one.image_pid))
            self._add(Space(one.uffd, view, Areas(one.ranges)), one.pid)
            self._guard(one.pid)

    def run(self) -> None:
        """Until all is there, or those who need it are gone."""
        try:
            while self._spaces:
                self._sentinel.see_to()
                for uffd, _ in self._poll.poll(0):
                    self._handle(uffd)
                for space in list(self._spaces.values()):
                    self._bring_more(space)
        except (PredumpError, OSError) as error:
            self._give_up(error)
        self._sentinel.end()

    def _handle(self, uffd: int) -> None:
        space = self._spaces[uffd]
        try:
            for child in space.handle():
                for start_addr, end_addr in _wiped_on_fork(self._pids[uffd]):
                    child.areas.drop(start_addr, end_addr)
                self._add(child, self._born(space))
        except ProcessLookupError:
            self._remove(space)

    def _bring_more(self, space: Space) -> None:
        try:
            if space.bring_more():
                reached(Point.LAZY_PIECE)
            else:
                self._remove(space)
        except ProcessLookupError:
            self._remove(space)

    def _born(self, parent: Space) -> int:
        """Who a child is that was born just now, 0 if that is not to be told."""
        found = set(_children(self._pids[parent.uffd])) - self._known
        for pid in found:
            self._guard(pid)
        return found.pop() if len(found) == 1 else 0

    def _add(self, space: Space, pid: int) -> None:
        self._spaces[space.uffd] = space
        self._pids[space.uffd] = pid
        self._poll.register(space.uffd, select.POLLIN)

    def _remove(self, space: Space) -> None:
        if self._spaces.pop(space.uffd, None):
            self._poll.unregister(space.uffd)
            space.close()

    def _guard(self, pid: int) -> None:
        if pid not in self._known:
            self._known.add(pid)
            self._sentinel.add(pid)

    def _give_up(self, error: Exception) -> None:
        text = f"predump: a page that a process needs could not be brought: {error} The restored processes were ended."
        for pid in self._known:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)
        syslog.syslog(syslog.LOG_ERR, text)


def _children(pid: int) -> list[int]:
    try:
        return children(pid) if pid else []
    except OSError:
        return []


def _wiped_on_fork(pid: int) -> list[tuple[int, int]]:
    """What a process has told to be zeros in its children: madvise(2), MADV_WIPEONFORK."""
    try:
        found = parse_smaps_flags(read_smaps(pid)) if pid else []
    except OSError:
        return []
    return [(start_addr, end_addr) for start_addr, end_addr, flags in found if "wf" in flags.split()]


def _let_go_of_output() -> None:
    """Who reads what the restore says does not wait for us; a file or a terminal still gets to know what goes wrong."""
    null_fd = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        if fd < 2 or not (stat.S_ISREG(os.fstat(fd).st_mode) or os.isatty(fd)):
            os.dup2(null_fd, fd)
    os.close(null_fd)
