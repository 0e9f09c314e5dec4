"""Pipes and FIFOs: pipe(7). What lay in one is written into it while nobody else has it."""

from __future__ import annotations

import fcntl
import os

from dumper.kernel.descriptors import open_path
from dumper.state.queries import FIONREAD, query_int
from formats.openfiles import OpenFile, OpenFileKind, Pipe
from restorer.files.choices import OUTSIDE, OutsideChoice
from restorer.files.paths import find_place, open_again
from restorer.files.records import FileRecords, has_path, is_path_only
from restorer.files.workshop import O_LARGEFILE, Workshop, set_status


def lost_end(one: OpenFile, records: FileRecords) -> bool:
    """Whether an end of the pipe is with a process that is not in the image, and no process of the image has one."""
    pipe = records.pipe(one)
    if pipe is None:
        return False
    modes = {item.flags & os.O_ACCMODE for item in records.same_file(one)}
    has_reader, has_writer = modes & {os.O_RDONLY, os.O_RDWR}, modes & {os.O_WRONLY, os.O_RDWR}
    return bool((pipe.has_reader and not has_reader) or (pipe.has_writer and not has_writer))


class Pipes:
    """Makes each pipe once, and opens it for each of its ends."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._made: dict[tuple[str, int], int] = {}
        self._ends: dict[tuple[str, int, int], int] = {}
        """Of pipes, as pipe(2) makes them, by O_RDONLY or O_WRONLY; each is for one open file."""

    def open_end(self, one: OpenFile) -> int:
        """Of a pipe or FIFO. Raises RestoreFailed, OSError."""
        if is_path_only(one):
            return open_again(self._shop, one)
        key = (one.device, one.inode)
        if key not in self._made:
            self._made[key] = self._make(one)
        is_opened = one.flags & O_LARGEFILE  # which open(2) adds, and pipe(2) does not
        end = None if is_opened else self._ends.pop((*key, one.flags & os.O_ACCMODE), None)
        if end is None:
            return self._shop.reopen(self._made[key], one.flags)
        set_status(end, one.flags)
        return self._shop.own(os.dup(end))

    def _make(self, one: OpenFile) -> int:
        """A descriptor for both directions, with what lay in the pipe behind it."""
        shop = self._shop
        if one.kind is OpenFileKind.PIPE and lost_end(one, shop.records):
            if shop.choices.outside is OutsideChoice.REFUSE:
                shop.refuse(one, OUTSIDE)
            shop.tell(f"{one.path}, the other end of which is closed")
        if one.kind is OpenFileKind.FIFO and has_path(one):
            place = find_place(shop, one)
            fd = shop.own_for_now(open_path(f"/proc/self/fd/{place}", os.O_RDWR | os.O_NONBLOCK | O_LARGEFILE))
        else:
            ends = [shop.own_for_now(end) for end in os.pipe2(os.O_CLOEXEC)]
            for mode, end in zip((os.O_RDONLY, os.O_WRONLY), ends, strict=True):
                self._ends[one.device, one.inode, mode] = end
            fd = shop.own_for_now(open_path(f"/proc/self/fd/{ends[0]}", os.O_RDWR | os.O_NONBLOCK))
        pipe = shop.records.pipe(one)
        if pipe is not None:
            if query_int(fd, FIONREAD):
                shop.refuse(one, "something lies in it already", "Take it out, or end who uses it.")
            self._fill(one, fd, pipe)
        return fd

    def _fill(self, one: OpenFile, fd: int, pipe: Pipe) -> None:
        if pipe.capacity_bytes and fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) != pipe.capacity_bytes:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, pipe.capacity_bytes)
        if pipe.packet_bytes:
            set_status(fd, os.O_NONBLOCK | os.O_DIRECT)
        start = 0
        for n_bytes in pipe.packet_bytes or [len(pipe.content)]:
            piece = pipe.content[start : start + n_bytes]
            if piece and os.write(fd, piece) != len(piece):
                self._shop.refuse(one, "what lay in it does not fit into it")
            start += n_bytes
