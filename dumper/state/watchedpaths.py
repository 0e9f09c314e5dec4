"""Where files are that inotify watches, which the kernel tells by their handles only: open_by_handle_at(2)."""

import os
from contextlib import suppress

from dumper.filesystems import device_name
from dumper.kernel.descriptors import open_handle
from dumper.proc.mounts import read_mount_points

O_PATH = os.O_PATH
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class WatchedPaths:
    """Looks them up in the mounts that a thread sees; as of now, so that one that was just renamed has its new name."""

    def __init__(self) -> None:
        self._mounts: dict[int, dict[str, list[str]]] = {}

    def of(self, tid: int, device: str, inode: int, kind: int, handle: bytes) -> str:
        """The path of a file on `device` ("08:01"), "" where none is found (CAP_DAC_READ_SEARCH)."""
        for point in self._mounts_of(tid).get(device, []):
            with suppress(OSError):
                path = _path_on(f"/proc/{tid}/root{point}", kind, handle)
                status = os.lstat(f"/proc/{tid}/root{path}")
                if (device_name(status.st_dev), status.st_ino) == (device, inode):
                    return path
        return ""

    def _mounts_of(self, tid: int) -> dict[str, list[str]]:
        """Mount points by device; none if the thread is gone."""
        if tid not in self._mounts:
            found: dict[str, list[str]] = {}
            with suppress(OSError, ValueError, IndexError):
                for device, path in read_mount_points(tid):
                    found.setdefault(device, []).append(path)
            self._mounts[tid] = found
        return self._mounts[tid]


def _path_on(mount: str, kind: int, handle: bytes) -> str:
    """Raises OSError."""
    mount_fd = os.open(mount, _OPEN)
    try:
        fd = open_handle(mount_fd, kind, handle, O_PATH)
        try:
            return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 -- for each of perhaps many watches
        finally:
            os.close(fd)
    finally:
        os.close(mount_fd)
