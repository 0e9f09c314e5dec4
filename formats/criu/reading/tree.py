"""The processes of a directory of CRIU's images.

    pstree.img                     processes and their threads
    core-TID.img                   a thread; with the main thread, its process
    mm-PID.img, pagemap-PID.img    mappings, and which pages of them there are
    ids-PID.img -> fdinfo-ID.img   descriptors
    fs-PID.img                     directories
    files.img, memfd.img           what is open or mapped, for all

CRIU's pre-dumps have pagemaps alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from google.protobuf.message import Message

from formats.criu import images_pb2 as messages
from formats.criu.framing import ImageReader, Magic, damage
from formats.criu.names import FILES_NAME, MEMFD_NAME, TREE_NAME, of_task, pagemap_name
from formats.criu.reading.directories import ImageDirectory
from formats.criu.reading.mappings import Mappings, SharedMemory, gaps_of, mapped_file_ids, vmas_of_pages
from formats.criu.reading.openfiles import OpenFiles, descriptors_of
from formats.criu.reading.pagemap import CriuPagemap
from formats.criu.reading.state import NOT_IN_IMAGES, NOT_IN_PRE_DUMP, lineage_of, state_of
from formats.criu.reading.threads import thread_of
from formats.criu.values import MACHINE_NAMES, Machine, TaskState
from formats.errors import ImageCorrupt, ImageVersionUnsupported
from formats.layout import PAGE_BYTES
from formats.lineage import PageLineage
from formats.manifest import Process
from formats.openfiles import OpenFile
from formats.processstate import Descriptor, Zombie
from formats.segments import SegmentKind
from formats.threadstate import Thread

MAX_RECORDS = 1 << 17
"""Threads, open files or descriptors of a directory (inclusive)."""

MAX_STATE_BYTES = 32 << 20
"""Bytes of files read for the processes of a directory, pagemaps apart (inclusive). Records take up to 20 times it."""

_PID_MAX = (1 << 31) - 1
_MAX_TEXT_BYTES = 256 << 10  # of a command line or an environment; they are for readers

M = TypeVar("M", bound=Message)


class ProcessReader:
    """Makes records of the processes of one directory; `machine` is that of the threads that were read."""

    def __init__(self, levels: Sequence[ImageDirectory]) -> None:
        """`levels` are the directory and those that it builds on. Raises ImageCorrupt, StorageError."""
        self._levels = levels
        self._path, self._names = levels[0].path, levels[0].names
        self._room_bytes = MAX_STATE_BYTES
        self._files = OpenFiles(
            self._all(FILES_NAME, Magic.FILES, messages.OpenFile),
            self._all(MEMFD_NAME, Magic.MEMFD, messages.MemfdInode),
        )
        self.shared = SharedMemory(levels[0])
        self._mappings = Mappings(self._files, self.shared)
        self.machine = "x86_64"

    def dumped(self) -> Iterator[Process]:
        """Those of a dump, parents first. Raises ImageCorrupt, ImageVersionUnsupported, StorageError."""
        entries = self._all(TREE_NAME, Magic.PSTREE, messages.TreeEntry)
        self._check(entries)
        return map(self._process, entries)

    def running(self) -> Iterator[Process]:
        """Those of a pre-dump, by their pids. Raises ImageCorrupt, ImageVersionUnsupported, StorageError."""
        for pid in self._levels[0].pids():
            pagemap = self._pagemap(pid)
            yield replace(_process(pid, pagemap), name="?", vmas=vmas_of_pages(pagemap), missing=[NOT_IN_PRE_DUMP])

    def open_files(self, processes: Iterable[Process]) -> list[OpenFile]:
        """The files that processes have descriptors of."""
        descriptors = (item for process in processes if process.state for item in process.state.descriptors)
        return self._files.records(descriptors, {held.id for held in self.shared.objects})

    def _check(self, entries: Iterable[messages.TreeEntry]) -> None:
        seen: set[int] = set()
        for entry in entries:
            for tid in {entry.pid, *entry.tids}:
                if tid in seen or not 1 <= tid <= _PID_MAX:
                    raise damage(self._path / TREE_NAME, f"has thread {tid} twice, or that is none")
                seen.add(tid)
            if len(seen) > MAX_RECORDS:
                raise damage(self._path / TREE_NAME, f"has more than {MAX_RECORDS} threads")

    def _process(self, entry: messages.TreeEntry) -> Process:
        pid = entry.pid
        core = self._core(pid)
        if core.process.state in {TaskState.DEAD, TaskState.ZOMBIE}:
            zombie = Zombie(exit_code=core.process.exit_code, lineage=lineage_of(entry))
            name = os.fsdecode(core.process.name)
            return replace(_process(pid, None), ppid=entry.ppid, name=name, zombie=zombie)
        pagemap = self._pagemap(pid)
        memory = self._one("mm", pid, Magic.MM, messages.Memory)
        command_line, environment = self._texts(pid, memory)
        threads = self._threads(entry, core)
        credentials = threads[0].credentials
        if credentials is None and core.HasField("x86"):
            raise ImageVersionUnsupported(
                f"{self._path} has no credentials of process {pid}: it is of a CRIU before 2.0.",
                hint="Take a new dump with a later CRIU.",
                path=str(self._path),
            )
        state = None
        if credentials is not None:  # what predump exported of a process that ran has neither state nor registers
            directories = self._one("fs", pid, Magic.FS, messages.Directories)
            descriptors = self._descriptors(pid, core)
            state = state_of(
                entry, core.process, memory, credentials, directories, descriptors, self._files, environment
            )
        return replace(
            _process(pid, pagemap),
            ppid=entry.ppid,
            name=os.fsdecode(core.process.name),
            exe=self._files.path(memory.exe_file),
            exe_build_id=self._files.build_id(memory.exe_file),
            cmdline=[os.fsdecode(word) for word in command_line.rstrip(b"\0").split(b"\0")] if command_line else [],
            vmas=self._mappings.of(self._path / of_task("mm", pid), memory, pagemap),
            threads=[replace(item, credentials=None) if item.credentials == credentials else item for item in threads],
            mapped_files=self._files.mapped(mapped_file_ids(memory)),
            missing=[NOT_IN_IMAGES],
            state=state,
        )

    def _threads(self, entry: messages.TreeEntry, leader: messages.Core) -> list[Thread]:
        """The main thread first."""
        others = [tid for tid in entry.tids if tid != entry.pid]
        return [thread_of(entry.pid, leader), *(thread_of(tid, self._core(tid)) for tid in others)]

    def _descriptors(self, pid: int, core: messages.Core) -> list[Descriptor]:
        ids = core.ids if core.HasField("ids") else self._one("ids", pid, Magic.IDS, messages.SharedIds)
        return descriptors_of(self._all(of_task("fdinfo", ids.descriptors), Magic.FDINFO, messages.Descriptor))

    def _texts(self, pid: int, memory: messages.Memory) -> tuple[bytes, bytes]:
        """The command line and the environment, as memory has them."""
        with PageLineage(f"process {pid}", [level.pages(pid) for level in self._levels]) as pages:
            return (
                _text(pages, memory.arg_start_addr, memory.arg_end_addr),
                _text(pages, memory.env_start_addr, memory.env_end_addr),
            )

    def _pagemap(self, pid: int) -> CriuPagemap:
        name = pagemap_name(pid)
        pagemap = self._levels[0].pagemap(name)
        if pagemap is None:
            raise damage(self._path / name, "is missing")
        return pagemap

    def _core(self, tid: int) -> messages.Core:
        core = self._one("core", tid, Magic.CORE, messages.Core)
        if core.machine != Machine.X86_64:
            self.machine = MACHINE_NAMES.get(core.machine, f"CRIU's number {core.machine}")
        return core

    def _one(self, kind: str, number: int, magic: Magic, message: type[M]) -> M:
        with self._open(of_task(kind, number), magic) as reader:
            return reader.read(message)

    def _all(self, name: str, magic: Magic, message: type[M]) -> list[M]:
        """All messages of a file, none if it is not there."""
        if name not in self._names:
            return []
        found: list[M] = []
        with self._open(name, magic) as reader:
            for item in reader.rest(message):
                found.append(item)
                if len(found) > MAX_RECORDS:
                    raise damage(self._path / name, f"has more than {MAX_RECORDS} messages")
        return found

    def _open(self, name: str, magic: Magic) -> ImageReader:
        """A file, as long as there is room for all that it may have; a file that is read again counts again."""
        reader = ImageReader(self._path / name, magic)
        self._room_bytes -= reader.size_bytes
        if self._room_bytes < 0:
            reader.close()
            raise damage(
                self._path / name, f"is too much: its directory has more than {MAX_STATE_BYTES} bytes of state"
            )
        return reader


def _process(pid: int, pagemap: CriuPagemap | None) -> Process:
    """What a pagemap alone tells of a process; a zombie has none."""
    here, parent = pagemap.counts() if pagemap else (0, 0)
    return Process(
        pid=pid,
        start_time_ticks=0,
        ppid=0,
        name="",
        exe="",
        exe_build_id="",
        cmdline=[],
        vmas=[],
        threads=[],
        unreadable=gaps_of(pagemap) if pagemap else [],
        pages_present=here + parent,
        pages_written=here,
        pages_data=here,
        pages_parent=parent,
    )


def _text(pages: PageLineage, start_addr: int, end_addr: int) -> bytes:
    """Memory of the process, b"" if the images do not have all of it: whoever reads it as memory is told why."""
    end_addr = min(end_addr, start_addr + _MAX_TEXT_BYTES)
    first_page_addr, last_page_end_addr = start_addr - start_addr % PAGE_BYTES, end_addr + -end_addr % PAGE_BYTES
    content = []
    try:
        for segment in pages.segments(first_page_addr, last_page_end_addr):
            if segment.kind is not SegmentKind.DATA:
                return b""
            content.append(pages.read(segment.round, segment.page_index, segment.n_pages))
    except ImageCorrupt:
        return b""
    return b"".join(content)[start_addr - first_page_addr : end_addr - first_page_addr]
