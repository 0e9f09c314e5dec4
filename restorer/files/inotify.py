"""Watches of inotify(7), with their numbers; the last that is made, for what else is opened would be told."""

from __future__ import annotations

import os
from contextlib import suppress

from dumper.filesystems import device_name
from dumper.kernel.descriptors import add_inotify_watch, make_inotify, open_handle
from dumper.proc.mounts import read_mount_points
from formats.openfiles import InotifyWatch, OpenFile
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
    mounts = _mounts() if any(one.inotify for one in shop.records.open_files) else {}
    for one in shop.records.open_files:
        for watch in sorted(one.inotify or [], key=lambda item: item.wd):  # the next new one gets a higher number
            place = _find(shop, watch, mounts)
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


def _mounts() -> dict[str, list[str]]:
    """Where each device is mounted. Raises OSError."""
    found: dict[str, list[str]] = {}
    for device, path in read_mount_points(os.getpid()):
        found.setdefault(device, []).append(path)
    return found


def _find(shop: Workshop, watch: InotifyWatch, mounts: dict[str, list[str]]) -> int | None:
    """A descriptor (O_PATH) of what is watched: by its handle, or by a path that is known of it."""
    for path in mounts.get(watch.device, []):
        with suppress(OSError):
            mount = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return _checked(open_handle(mount, watch.handle_type, watch.handle, O_PATH), watch)
            finally:
                os.close(mount)
    for path in _paths(shop):
        with suppress(OSError):
            return _checked(open_named(path, O_PATH | os.O_NOFOLLOW), watch)
    return None


def _checked(fd: int, watch: InotifyWatch) -> int:
    """The descriptor, if it is of the file. Raises FileNotFoundError."""
    status = os.fstat(fd)
    if (device_name(status.st_dev), status.st_ino) != (watch.device, watch.inode):
        os.close(fd)
        raise FileNotFoundError(watch.wd)
    return fd


def _paths(shop: Workshop) -> list[str]:
    """Where it may be: what is open or mapped, or a working directory."""
    records = shop.records
    found = [item.path for item in records.open_files if has_path(item)]
    found += [state.cwd for state in records.states.values() if state.cwd]
    found += [os.path.dirname(path) for path in found]  # noqa: PTH120
    return list(dict.fromkeys(found))
