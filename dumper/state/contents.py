"""Open files whose bytes are nowhere else: memfds, and files whose name is gone."""

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dumper.filesystems import device_name
from dumper.proc.mounts import read_mount_types
from dumper.state.filekinds import is_path_only
from dumper.state.found import FoundDescriptor, FoundFile, Key
from formats.closing import Closing
from formats.openfiles import OpenFileKind

IN_USER_SPACE = "fuse"  # and what begins so: its server may be one of the processes that stand still
WITH_SERVERS = (IN_USER_SPACE, "nfs", "cifs", "smb", "9p", "ceph", "afs")
KIND_BY_FILE_SYSTEM = {"tmpfs": "shmem", "ramfs": "shmem", "hugetlbfs": "hugetlb"}


@dataclass(frozen=True, slots=True)
class OpenContent:
    """A file to be stored: `fd` is open for reading and stays so until the capture is closed.

    kind: as formats.manifest.MemoryObject has it ("memfd", "hugetlb", "shmem", "deleted").
    """

    fd: int
    kind: str
    path: str


class MountTypes:
    """File systems of open files: in the freeze it must be known who might keep us waiting."""

    def __init__(self) -> None:
        self._types: dict[int, str] = {}

    def look(self, pid: int) -> None:
        """Reads the mounts that a process sees."""
        with suppress(OSError, ValueError, IndexError):
            self._types |= read_mount_types(pid)

    def of(self, one: FoundDescriptor) -> str:
        """The type of file system ("ext4"), "" if it is mounted nowhere."""
        mount_id = 0
        with suppress(ValueError, KeyError):
            mount_id = one.info.mount_id
        if mount_id not in self._types:
            self.look(os.getpid())
            self.look(one.tid)
        return self._types.setdefault(mount_id, "")


class ContentFinder(Closing):
    """Opens them in the freeze, each once, anew: what is open here is no copy of a descriptor of a target."""

    def __init__(self, mount_types: MountTypes, hugetlb: Collection[str]) -> None:
        """`hugetlb`: devices of memfds of huge pages."""
        self._mount_types = mount_types
        self._hugetlb = hugetlb
        self._fds: list[int] = []

    def open(self, found: Sequence[FoundFile]) -> list[OpenContent]:
        """What could not be opened gets a `content_problem`."""
        made: list[OpenContent] = []
        done: set[Key] = set()
        for one in found:
            first = one.first
            is_wanted = one.kind is OpenFileKind.MEMFD or (one.kind is OpenFileKind.FILE and one.deleted)
            if not is_wanted or first.key in done or is_path_only(first.flags):
                continue
            done.add(first.key)
            kind = self._kind(one)
            if not kind:
                one.content_problem = "its file system may wait for its server, which may be frozen too"
            elif b"LEASE" in first.fdinfo:
                one.content_problem = "to open it would break a lease"
            else:
                try:
                    fd = _open(first)
                except OSError as error:
                    one.content_problem = f"could not be opened: {os.strerror(error.errno or 0)}"
                    continue
                self._fds.append(fd)
                made.append(OpenContent(fd, kind, one.path))
        return made

    def _kind(self, one: FoundFile) -> str:
        """ "": its file system is in user space, or unknown."""
        if one.kind is OpenFileKind.MEMFD:
            return "hugetlb" if device_name(one.first.key[0]) in self._hugetlb else "memfd"
        file_system = self._mount_types.of(one.first)
        if file_system.startswith(IN_USER_SPACE) or not (file_system or one.first.raw.device_major):
            return ""
        return KIND_BY_FILE_SYSTEM.get(file_system, "deleted")

    def close(self) -> None:
        """Closes all of them."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def _open(one: FoundDescriptor) -> int:
    path = f"/proc/{one.tid}/fd/{one.fd}"
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # of another user
        return os.open(path, flags)
