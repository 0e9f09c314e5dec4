"""Open files and what is named beside them in CRIU's words: files.img, fdinfo-ID.img, fs-PID.img, pipes-data.img."""

from __future__ import annotations

import os
from collections.abc import Iterator

from formats.criu.images_pb2 import (
    Descriptor,
    Directories,
    Eventfd,
    FileOwner,
    OpenFile,
    Pipe,
    PipeContent,
    RegularFile,
)
from formats.criu.values import FileKind
from formats.manifest import Manifest, Missing, Process
from formats.openfiles import OpenFile as OpenFileRecord
from formats.openfiles import OpenFileKind
from formats.openfiles import Pipe as PipeRecord

_BY_PATH = frozenset({OpenFileKind.FILE, OpenFileKind.DIRECTORY, OpenFileKind.DEVICE})
_NOT_WRITTEN = "predump does not write CRIU's image for it"
_OWNER_PROCESS, _OWNER_GROUP = 1, 2  # F_OWNER_* of fcntl(2)
_CLOSE_ON_EXEC = 1
_WORD_BYTES = 4


class FileTable:
    """files.img in the making: each open file has an id there, and so has each path that is mapped or stood in."""

    def __init__(self, manifest: Manifest) -> None:
        self._open_files = {item.id: item for item in manifest.open_files}
        self._pipes = {(pipe.device, pipe.inode): pipe for pipe in manifest.pipes}
        self._pipe_ids: dict[tuple[str, int], int] = {}
        self._ids_of_paths: dict[tuple[str, int], int] = {}
        self._kinds_and_ids: dict[int, tuple[FileKind, int]] = {}
        self.messages: list[OpenFile] = []
        """What goes into files.img."""

    def path(self, path: str, *, flags: int = 0, size_bytes: int = 0, build_id: str = "") -> int:
        """The id of a path as it is opened with `flags`; what tells the file from others is noted the first time."""
        number = self._ids_of_paths.get((path, flags))
        if number is None:
            number = self._ids_of_paths[path, flags] = len(self.messages) + 1
            regular = RegularFile(id=number, flags=flags, offset=0, owner=_owner(None), path=os.fsencode(path))
            if size_bytes:
                regular.size_bytes = size_bytes
            regular.build_id.extend(_words(bytes.fromhex(build_id)))
            self.messages.append(OpenFile(kind=FileKind.REGULAR, id=number, regular=regular))
        return number

    def directories(self, cwd: str, root: str, umask: int) -> Directories:
        """Where a process stands."""
        return Directories(cwd_file=self.path(cwd), root_file=self.path(root), umask=umask)

    def descriptors(self, process: Process) -> Iterator[Descriptor]:
        """What goes into fdinfo-ID.img; `left_out` names the others."""
        for item in process.state.descriptors if process.state else ():
            opened = self._open_files[item.open_file]
            if self.why_not(opened):
                continue
            if opened.id not in self._kinds_and_ids:
                self._kinds_and_ids[opened.id] = self._add(opened)
            kind, number = self._kinds_and_ids[opened.id]
            yield Descriptor(file=number, flags=_CLOSE_ON_EXEC if item.close_on_exec else 0, kind=kind, fd=item.fd)

    def pipes(self) -> Iterator[PipeContent | bytes]:
        """What goes into pipes-data.img: what lies in the pipes that have ends in the table."""
        for key, number in self._pipe_ids.items():
            pipe = self._pipes.get(key)
            if pipe is not None:
                yield PipeContent(pipe=number, n_bytes=len(pipe.content), capacity_bytes=pipe.capacity_bytes)
                yield pipe.content

    def left_out(self, process: Process) -> Iterator[Missing]:
        """Which descriptors of a process are not in the images, or lose something there."""
        if process.state is None:
            return
        for item in process.state.descriptors:
            opened = self._open_files[item.open_file]
            why_not = self.why_not(opened)
            what = f"descriptor {item.fd} ({opened.kind.value})"
            if why_not:
                yield Missing(what=what, reason=why_not)
            elif opened.eventfd is not None and opened.eventfd.semaphore:
                yield Missing(what=f"EFD_SEMAPHORE of {what}", reason="CRIU's images do not have it")
            elif self._has_packets(opened):
                yield Missing(what=f"packets of {what}", reason="written as one stream")
        for lock in process.state.locks:
            yield Missing(what=f"{lock.kind} lock of descriptor {lock.fd}", reason=_NOT_WRITTEN)

    def why_not(self, opened: OpenFileRecord) -> str:
        """Why an open file is not in the images, "" if it is."""
        if opened.kind in _BY_PATH:
            return "the file has no name any more" if opened.deleted else ""
        return "" if opened.kind in {OpenFileKind.PIPE, OpenFileKind.EVENTFD} else _NOT_WRITTEN

    def _has_packets(self, opened: OpenFileRecord) -> bool:
        pipe = self._pipe_of(opened)
        return pipe is not None and bool(pipe.packet_bytes)

    def _pipe_of(self, opened: OpenFileRecord) -> PipeRecord | None:
        return self._pipes.get((opened.device, opened.inode)) if opened.kind is OpenFileKind.PIPE else None

    def _add(self, opened: OpenFileRecord) -> tuple[FileKind, int]:
        number = len(self.messages) + 1
        owner = _owner(opened)
        if opened.kind is OpenFileKind.PIPE:
            key = opened.device, opened.inode
            pipe_id = self._pipe_ids.setdefault(key, len(self._pipe_ids) + 1)
            pipe = Pipe(id=number, pipe=pipe_id, flags=opened.flags, owner=owner)
            message = OpenFile(kind=FileKind.PIPE, id=number, pipe=pipe)
        elif opened.kind is OpenFileKind.EVENTFD:
            count = opened.eventfd.count if opened.eventfd else 0
            eventfd = Eventfd(id=number, flags=opened.flags, owner=owner, count=count)
            message = OpenFile(kind=FileKind.EVENTFD, id=number, eventfd=eventfd)
        else:
            regular = RegularFile(
                id=number,
                flags=opened.flags,
                offset=opened.offset,
                owner=owner,
                path=os.fsencode(opened.path),
                mode=opened.mode,
            )
            if opened.kind is OpenFileKind.FILE:
                regular.size_bytes = opened.size_bytes
            message = OpenFile(kind=FileKind.REGULAR, id=number, regular=regular)
        self.messages.append(message)
        return FileKind(message.kind), number


def _owner(opened: OpenFileRecord | None) -> FileOwner:
    """Who gets signals of a file; whose rights that takes is not known, so they are those of root."""
    owner = opened.owner if opened else 0
    signal = opened.owner_signal if opened else 0
    kind = (_OWNER_PROCESS if owner > 0 else _OWNER_GROUP) if owner else 0
    return FileOwner(uid=0, effective_uid=0, signal=signal, kind=kind, pid=abs(owner))


def _words(content: bytes) -> list[int]:
    return list(memoryview(content + bytes(-len(content) % _WORD_BYTES)).cast("I"))
