"""Interest lists of epoll(7), which are filled when everything is open.

An entry is kept by the file and the number of the descriptor it was added with, and it stays when that descriptor is
closed while the file is open elsewhere. So it is added by a thread of ours that has a table of descriptors of its own,
where the number can stand for the file, whatever it stands for in the process.
"""

from __future__ import annotations

import fcntl
import os
import select

from dumper.kernel.descriptors import (
    CLONE_FILES,
    EPOLL_CTL_ADD,
    EPOLL_CTL_MOD,
    apart,
    set_epoll_watch,
    take_epoll_event,
)
from formats.openfiles import EpollWatch, OpenFile
from restorer.files.records import FileRecords
from restorer.files.workshop import Workshop

# Bits that are no events: how the others are told.
HOW = select.EPOLLET | select.EPOLLONESHOT | select.EPOLLEXCLUSIVE | 1 << 29  # EPOLLWAKEUP
ANY = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI


def fill_epolls(shop: Workshop) -> None:
    """All of the image. Raises RestoreFailed, OSError."""
    wanted = [(one, watch, _watched(shop, one, watch)) for one in shop.records.open_files for watch in one.epoll or []]
    if wanted:
        numbers = {watch.fd for _, watch, _ in wanted}
        apart(CLONE_FILES, lambda: _Filler(shop, numbers).fill(wanted))


def watched_file(records: FileRecords, one: OpenFile, watch: EpollWatch) -> OpenFile | None:
    """Which open file an entry is about; None if that cannot be told."""
    for holder in records.holders[one.id]:
        found = records.at(holder.pid, watch.fd)
        if found and (found.device, found.inode) == (watch.device, watch.inode):
            return found
    others = [item for item in records.open_files if (item.device, item.inode) == (watch.device, watch.inode)]
    return others[0] if len(others) == 1 else None


def _watched(shop: Workshop, one: OpenFile, watch: EpollWatch) -> OpenFile:
    found = watched_file(shop.records, one, watch)
    if found is None:
        shop.refuse(one, f"the file that it watches by the number {watch.fd}, closed since, is not known")
    return found


class _Filler:
    """Works in a table of descriptors of its own."""

    def __init__(self, shop: Workshop, numbers: set[int]) -> None:
        self._shop = shop
        self._numbers = numbers
        self._moved: dict[int, int] = {}

    def fill(self, wanted: list[tuple[OpenFile, EpollWatch, OpenFile]]) -> None:
        """Those that have been told once and wait to be armed again come first, while nothing else can be told."""
        for one, _, about in wanted:
            self._out_of_the_way(one)
            self._out_of_the_way(about)
        for is_spent in (True, False):
            for one, watch, about in wanted:
                if _is_spent(watch) == is_spent:
                    self._add(one, watch, about)

    def _out_of_the_way(self, one: OpenFile) -> None:
        """A copy of our descriptor that no number of an entry will replace."""
        if one.id in self._moved:
            return
        low = 0
        while True:
            fd = fcntl.fcntl(self._shop.made[one.id], fcntl.F_DUPFD, low)
            if fd not in self._numbers:
                self._moved[one.id] = fd
                return
            os.close(fd)
            low = fd + 1

    def _add(self, one: OpenFile, watch: EpollWatch, about: OpenFile) -> None:
        epoll_fd = self._moved[one.id]
        try:
            os.dup2(self._moved[about.id], watch.fd)
            if not _is_spent(watch):
                set_epoll_watch(epoll_fd, EPOLL_CTL_ADD, watch.fd, watch.events, watch.data)
                return
            set_epoll_watch(epoll_fd, EPOLL_CTL_ADD, watch.fd, ANY | watch.events, watch.data)
            if take_epoll_event(epoll_fd) is None:
                set_epoll_watch(epoll_fd, EPOLL_CTL_MOD, watch.fd, watch.events, watch.data)
        except OSError as error:
            self._shop.refuse(one, f"it cannot watch descriptor {watch.fd} again: {error.strerror}")


def _is_spent(watch: EpollWatch) -> bool:
    """Told once (EPOLLONESHOT), and not armed again."""
    return bool(watch.events & select.EPOLLONESHOT) and not watch.events & ~HOW
