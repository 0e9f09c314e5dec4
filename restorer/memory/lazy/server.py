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
from dumper.undisturbed import short_turns
from formats.chain import MemoryView
from formats.checkpoint import Checkpoint
from formats.errors import PredumpError
from formats.faults import Point, reached, stop_instead
from restorer.memory.lazy.areas import Areas
from restorer.memory.lazy.source import Source
from restorer.memory.lazy.space import Space

_LOOK_MS = 5  # at the sentinel, and whether it is known where everything is


@dataclass(frozen=True, slots=True)
class Lazy:
    """A process that is to run before its pages are there: as the image knows it and as we do.

    `ranges` of it are registered with `uffd`.
    """

    image_pid: int
    pid: int
    uffd: int
    ranges: list[tuple[int, int]]


def start_server(images: Checkpoint, number: int, processes: Sequence[Lazy], threads: int) -> int:
    """Forks it, with so many threads that unpack; the userfaultfds are its own from then on. Raises OSError.

    Until the descriptor that is returned is closed it brings nothing but what is asked for: they are being made.
    """
    ready_fd, its_ready_fd = os.pipe()
    its_made_fd, made_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(made_fd)
        _be_the_server(images, number, processes, threads, its_ready_fd, its_made_fd)
    os.close(its_ready_fd)
    os.close(its_made_fd)
    for one in processes:
        os.close(one.uffd)
    is_ready = os.read(ready_fd, 1)
    os.close(ready_fd)
    if not is_ready:
        os.close(made_fd)
        os.waitpid(pid, 0)
        raise ProcessLookupError(3, "the server of pages has ended")
    return made_fd


def _be_the_server(
    images: Checkpoint, number: int, processes: Sequence[Lazy], threads: int, ready_fd: int, made_fd: int
) -> None:
    exit_code = 1
    try:
        os.setsid()
        for signal_number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(signal_number, signal.SIG_IGN)
        stop_instead()
        with ExitStack() as stack:
            server = Server(images, number, processes, threads, stack)
            os.write(ready_fd, b"r")
            os.close(ready_fd)
            _let_go_of_output()
            server.run(made_fd)
        exit_code = 0
    finally:
        os._exit(exit_code)


class Server:
    """Serves all of them in one thread; others unpack what it will need next."""

    def __init__(
        self, images: Checkpoint, number: int, processes: Sequence[Lazy], threads: int, stack: ExitStack
    ) -> None:
        """Raises OSError, and as MemoryView."""
        self._sentinel = Sentinel()
        self._sources: list[Source] = []
        self._spaces: dict[int, Space] = {}
        self._pids: dict[int, int] = {}
        self._known: set[int] = set()
        self._poll = select.poll()
        for one in processes:
            view = stack.enter_context(MemoryView(images, number, one.image_pid))
            levels = [stack.enter_context(level) for level in images.levels_of(view.process, number)]
            source = stack.enter_context(Source(view, levels, one.ranges, threads))
            self._sources.append(source)
            self._add(Space(one.uffd, source, Areas(one.ranges)), one.pid)
            self._guard(one.pid)

    def run(self, made_fd: int) -> None:
        """Until all is there, or those who need it are gone; they are made when `made_fd` has been closed elsewhere."""
        self._poll.register(made_fd, 0)
        are_made = goes_on = False
        turns = ExitStack()
        turns.enter_context(short_turns())  # the thread that lists works on while somebody waits for this one
        try:
            while self._spaces:
                self._sentinel.see_to()
                if not goes_on and are_made and all(source.is_listed for source in self._sources):
                    goes_on = True
                    turns.close()
                for fd, _ in self._poll.poll(0 if goes_on else _LOOK_MS):
                    if fd == made_fd:
                        are_made = True
                        self._poll.unregister(made_fd)
                    else:
                        self._handle(fd)
                for space in list(self._spaces.values()) if goes_on else ():
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
