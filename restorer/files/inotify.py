"""Watches of inotify(7), with their numbers; the last that is made, for what else is opened would be told."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from dumper.filesystems import device_name
from dumper.kernel.descriptors import add_inotify_watch, make_inotify, open_handle
from dumper.proc.mounts import read_mount_points
from formats.openfiles import InotifyWatch, OpenFile
from formats.processstate import ProcessState
from restorer.files.paths import open_named
from restorer.files.records import O_PATH, has_path
from restorer.files.workshop import Workshop, set_status


def open_inotify(shop: Workshop, one: OpenFile) -> int:
    """It watches nothing yet. Raises OSError."""
    fd = shop.own(make_inotify(0))
    set_status(fd, one.flags)
    return fd


def watch_again(shop: Workshop) -> None:
    """All watches of the image. Raises RestoreFailed."""
    records = shop.records
    finder = WatchFinder(records.open_files, records.states.values())
    for one in records.open_files:
        for watch in sorted(one.inotify or [], key=lambda item: item.wd):  # the next new one gets a higher number
            place = finder.find(watch)
            if place is None:
                shop.refuse(one, f"the file or directory that it watches as number {watch.wd} was not found")
            try:
                wd = add_inotify_watch(shop.made[one.id], watch.wd, f"/proc/self/fd/{place}", watch.mask)
            except OSError as error:
                shop.refuse(one, f"watch {watch.wd} could not be made: {error.strerror}")
            finally:
                os.close(place)
            if wd != watch.wd:
                shop.refuse(one, f"it watches one file by two numbers, {wd} and {watch.wd}")


class WatchFinder:
    """Finds what is watched: the file of its path, or else the very file, wherever it is by now."""

    def __init__(self, open_files: Sequence[OpenFile], states: Iterable[ProcessState]) -> None:
        """What is open, and working directories, may lead to files of which the image has no path. Raises OSError."""
        self._mounts: Mapping[str, list[str]] = _mounts() if any(one.inotify for one in open_files) else {}
        guesses = [item.path for item in open_files if has_path(item)]
        guesses += [state.cwd for state in states if state.cwd]
        guesses += [os.path.dirname(path) for path in guesses]  # noqa: PTH120
        self._guesses = list(dict.fromkeys(guesses))

    def find(self, watch: InotifyWatch) -> int | None:
        """A descriptor (O_PATH) of it, or of what has its path now (`is_same` tells); None if there is nothing."""
        there = self._by_path(watch)
        if there is not None and is_same(there, watch):
            return there
        found = self._by_handle(watch)
        if there is None:
            return self._by_guess(watch) if found is None else found
        if found is None:
            return there
        os.close(there)
        return found

    def _by_path(self, watch: InotifyWatch) -> int | None:
        with suppress(OSError, ValueError):
            return open_named(watch.path, O_PATH | os.O_NOFOLLOW) if watch.path else None
        return None

    def _by_handle(self, watch: InotifyWatch) -> int | None:
        for path in self._mounts.get(watch.device, []):
            with suppress(OSError):
                mount = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    return _checked(open_handle(mount, watch.handle_type, watch.handle, O_PATH), watch)
                finally:
                    os.close(mount)
        return None

    def _by_guess(self, watch: InotifyWatch) -> int | None:
        for path in self._guesses:
            with suppress(OSError):
                return _checked(open_named(path, O_PATH | os.O_NOFOLLOW), watch)
        return None


def is_same(fd: int, watch: InotifyWatch) -> bool:
    """Whether the descriptor is of the file that was watched, by device and inode."""
    status = os.fstat(fd)
    return (device_name(status.st_dev), status.st_ino) == (watch.device, watch.inode)


def _checked(fd: int, watch: InotifyWatch) -> int:
    """Raises FileNotFoundError if it is of another file."""
    if not is_same(fd, watch):
        os.close(fd)
        raise FileNotFoundError(watch.wd)
    return fd


def _mounts() -> dict[str, list[str]]:
    """Where each device is mounted. Raises OSError."""
    found: dict[str, list[str]] = {}
    for device, path in read_mount_points(os.getpid()):
        found.setdefault(device, []).append(path)
    return found
