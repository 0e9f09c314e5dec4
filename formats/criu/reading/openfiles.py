"""Open files in CRIU's images as our own records: files.img, memfd.img, fdinfo-ID.img."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable

from formats.criu.images_pb2 import Descriptor as DescriptorMessage
from formats.criu.images_pb2 import MemfdInode, RegularFile
from formats.criu.images_pb2 import OpenFile as OpenFileMessage
from formats.criu.values import FileKind
from formats.manifest import MappedFile
from formats.openfiles import Eventfd, OpenFile, OpenFileKind
from formats.processstate import Descriptor

_EFD_SEMAPHORE = 1
_KINDS: dict[int, OpenFileKind] = {
    FileKind.PIPE: OpenFileKind.PIPE,
    FileKind.FIFO: OpenFileKind.FIFO,
    FileKind.INET_SOCKET: OpenFileKind.SOCKET,
    FileKind.UNIX_SOCKET: OpenFileKind.SOCKET,
    FileKind.PACKET_SOCKET: OpenFileKind.SOCKET,
    FileKind.NETLINK_SOCKET: OpenFileKind.SOCKET,
    FileKind.EVENTFD: OpenFileKind.EVENTFD,
    FileKind.EPOLL: OpenFileKind.EPOLL,
    FileKind.INOTIFY: OpenFileKind.INOTIFY,
    FileKind.SIGNALFD: OpenFileKind.SIGNALFD,
    FileKind.TERMINAL: OpenFileKind.TERMINAL,
    FileKind.NAMESPACE: OpenFileKind.NAMESPACE,
    FileKind.TIMERFD: OpenFileKind.TIMERFD,
    FileKind.MEMFD: OpenFileKind.MEMFD,
}
SHARED_MEMORY_NAME = b"/dev/zero"
"""Name of the memfd that later kernels have for anonymous shared memory."""


def memfd_path(inode: MemfdInode) -> str:
    """As /proc/PID/maps shows it, without " (deleted)"."""
    return os.fsdecode(inode.name if inode.name == SHARED_MEMORY_NAME else b"/memfd:" + inode.name)


class OpenFiles:
    """The open files of a directory of images by their ids, those of mappings among them."""

    def __init__(self, files: Iterable[OpenFileMessage], memfds: Iterable[MemfdInode]) -> None:
        self._files = {message.id: message for message in files}
        self._memfds = {inode.id: inode for inode in memfds}

    def path(self, number: int) -> str:
        """The path of a file, "" if it is not known."""
        message = self._files.get(number)
        if message is None:
            return ""
        inode = self.memfd(number)
        return memfd_path(inode) if inode else os.fsdecode(message.regular.path)

    def build_id(self, number: int) -> str:
        """The build id of an ELF file in hex digits, "" if it is not known."""
        message = self._files.get(number)
        words = message.regular.build_id if message else ()
        return b"".join(word.to_bytes(4, "little") for word in words).hex()

    def mapped(self, numbers: Iterable[int]) -> list[MappedFile]:
        """What is known of regular files, each once."""
        found = {}
        for number in numbers:
            message = self._files.get(number)
            if message and message.HasField("regular"):
                path, size_bytes = self.path(number), message.regular.size_bytes
                build_id = self.build_id(number)
                found[path] = MappedFile(path=path, device="", inode=0, size_bytes=size_bytes, build_id=build_id)
        return list(found.values())

    def memfd(self, number: int) -> MemfdInode | None:
        """What is behind a file that is a memfd."""
        message = self._files.get(number)
        return self._memfds.get(message.memfd.inode) if message and message.HasField("memfd") else None

    def records(self, descriptors: Iterable[Descriptor], objects: Collection[int]) -> list[OpenFile]:
        """Those that descriptors refer to. `objects` are the ids of the memory objects that there are."""
        wanted = {descriptor.open_file for descriptor in descriptors}
        return [self._record(number, objects) for number in sorted(wanted)]

    def _record(self, number: int, objects: Collection[int]) -> OpenFile:
        message = self._files.get(number) or OpenFileMessage(id=number)
        regular, inode = message.regular, self.memfd(number)
        pipe = message.pipe if message.HasField("pipe") else message.fifo
        flags = next((item.flags for item in (regular, message.memfd, message.eventfd, pipe) if item.flags), 0)
        kind = _kind(message, regular)
        return OpenFile(
            id=number,
            kind=kind,
            path=self.path(number) or f"{kind}:[{pipe.pipe or number}]",
            deleted=False,
            flags=flags & ~os.O_CLOEXEC,
            offset=regular.offset or message.memfd.offset,
            device="",
            inode=pipe.pipe,  # which is its inode
            mode=inode.mode if inode else regular.mode,
            size_bytes=inode.size_bytes if inode else regular.size_bytes,
            mount_id=max(regular.mount_id, 0),
            object=inode.shared_id if inode and inode.shared_id in objects else None,
            eventfd=_eventfd(message),
        )


def _eventfd(message: OpenFileMessage) -> Eventfd | None:
    if not message.HasField("eventfd"):
        return None
    return Eventfd(count=message.eventfd.count, semaphore=bool(message.eventfd.flags & _EFD_SEMAPHORE))


def _kind(message: OpenFileMessage, regular: RegularFile) -> OpenFileKind:
    if message.kind != FileKind.REGULAR:
        return _KINDS.get(message.kind, OpenFileKind.OTHER)
    if stat.S_ISDIR(regular.mode):
        return OpenFileKind.DIRECTORY
    return OpenFileKind.DEVICE if stat.S_ISCHR(regular.mode) or stat.S_ISBLK(regular.mode) else OpenFileKind.FILE


def descriptors_of(messages: Iterable[DescriptorMessage]) -> list[Descriptor]:
    """The descriptors of a process, ascending."""
    found = {message.fd: message for message in messages}
    return [
        Descriptor(fd=fd, open_file=message.file, close_on_exec=bool(message.flags))
        for fd, message in sorted(found.items())
    ]
