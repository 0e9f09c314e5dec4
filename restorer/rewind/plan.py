"""All that a rewind will do, found out while the process stands still and nothing of it is changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from dumper.filesystems import device_name
from dumper.headroom import free_bytes
from dumper.kernel.ptrace import children
from dumper.memory_map import VmaKind
from formats import runs
from formats.chain import MemoryView
from formats.closing import Closing
from formats.framesahead import FramesAhead
from formats.images import Round
from formats.manifest import ANONYMOUS_VMA_KINDS, SPARSE_OBJECT_KINDS, MemoryObject, Process, Vma
from formats.processstate import ProcessState
from formats.segments import Segment, SegmentKind
from formats.sources import ObjectSources
from restorer.rewind.files import FileSet, compare_files, movable
from restorer.rewind.findings import Findings
from restorer.rewind.mappings import MappingPlan, plan_mappings
from restorer.rewind.objects import ObjectPlace, find_object, objects_of
from restorer.rewind.pages import Change, Changes, Wanted, compare
from restorer.rewind.present import Present
from restorer.rewind.sharing import SharedMode, user_of_object, users_of_files
from restorer.rewind.state import compare_processes, compare_threads

SHARED_KINDS = frozenset((VmaKind.SHMEM, VmaKind.HUGETLB, VmaKind.FILE))
MEMORY_SHARE = 0.7  # of what is free: so much may be held of pages that differ
# struct rseq: what the kernel writes there; it belongs to the processor that the thread is on now
RSEQ_CPU_BYTES = 8
RSEQ_REST_OFFSET = 20
Progress = Callable[[int, int], None]


class ProcessPlace:
    """The memory of the process; what is written goes through `write_to`, once there is something to write with."""

    def __init__(self, mem_fd: int) -> None:
        self._mem_fd = mem_fd
        self.write_to: Callable[[int, bytes], None] | None = None

    def read(self, addr: int, n_bytes: int) -> bytes:
        """Raises OSError: ESRCH if the process is gone, EIO for what cannot be read."""
        content = b""
        while len(content) < n_bytes:
            piece = os.pread(self._mem_fd, n_bytes - len(content), addr + len(content))
            if not piece:
                raise ProcessLookupError("the process has ended")
            content = piece if not content else content + piece
        return content

    def write(self, addr: int, content: bytes) -> None:
        """Raises OSError."""
        assert self.write_to is not None
        self.write_to(addr, content)


@dataclass(slots=True)
class Then:
    """The process as the image has it."""

    info: Round
    process: Process
    state: ProcessState
    files: FileSet


class Plan(Closing):
    """What differs, and what will be written; a context manager. Nothing is changed by it."""

    def __init__(self, present: Present, then: Then, shared: SharedMode, findings: Findings) -> None:
        self._present = present
        self._then = then
        self.findings = findings
        self.place = ProcessPlace(present.target.mem_fd)
        self.changes = Changes(int(free_bytes(os.getpid()) * MEMORY_SHARE))
        self.files_now = FileSet.of(
            present.files.open_files, present.files.pipes, present.files.descriptors[present.target.pid]
        )
        self.files_then = then.files
        self.mappings = MappingPlan()
        self._shared = shared
        self._opened = ExitStack()
        self._done_bytes = 0

    def close(self) -> None:
        """Closes what was opened. May be called again."""
        self._opened.close()

    def compare_state(self) -> None:
        """Everything but pages. Raises OSError."""
        present, then, findings = self._present, self._then, self.findings
        if present.syscall_addr is None or not present.was_asked:
            findings.obstacles.append("its threads cannot be made to make system calls")
        compare_threads(present.threads, then.process.threads, findings)
        compare_files(self.files_now, then.files, findings)
        self.mappings = plan_mappings(present, then.process, findings)
        compare_processes(present.state, then.state, findings)
        self._compare_children()
        self._compare_mapped_files()
        if not findings.obstacles and self._shared is not SharedMode.ALWAYS:
            self._leave_shared_files()

    def compare_pages(self, view: MemoryView, threads: int, on_progress: Progress) -> None:
        """Pages of private memory and of memory objects.

        Raises RewindRefused, ImageCorrupt, StorageError, OSError.
        """
        vmas = [vma for vma in view.vmas if not vma.is_shared and vma.kind not in (VmaKind.SPECIAL, VmaKind.DEVICE)]
        objects = objects_of(
            self._then.process, self._then.info.manifest.objects, list(self._then.files.files.values())
        )
        total_bytes = sum(vma.end_addr - vma.start_addr for vma in vmas) + sum(one.size_bytes for one in objects)

        def on_bytes(n_bytes: int) -> None:
            self._done_bytes += n_bytes
            on_progress(self._done_bytes, total_bytes)

        unknown = [(gap.start_addr, gap.end_addr) for gap in self._then.process.unreadable]
        present = list(runs.subtract(self._present.own_pages(), runs.merge(sorted(unknown))))
        with FramesAhead(view.open_frames, threads) as ahead:
            for vma in vmas:
                segments = view.own_segments(vma.start_addr, vma.end_addr)
                filled = vma.kind not in ANONYMOUS_VMA_KINDS
                compare(Wanted(self.place, segments, ahead, present, filled=filled), self.changes, on_bytes)
            for vma in view.vmas:
                if vma.is_shared and vma.object is None and vma.kind in SHARED_KINDS:
                    self._compare_mapped_alone(vma, view, ahead)
            for start_addr, end_addr in self.mappings.emptied:
                empty = [Segment(start_addr, end_addr, SegmentKind.ABSENT, 0, 0)]
                compare(Wanted(self.place, empty, ahead, present), self.changes, on_bytes)
        with ObjectSources(self._then.info) as sources, FramesAhead(sources.open_frames, threads) as ahead:
            for held in objects:
                self._compare_object(held, sources, ahead, on_bytes)
        self._keep_rseq()

    def _compare_object(
        self,
        held: MemoryObject,
        sources: ObjectSources,
        ahead: FramesAhead,
        on_bytes: Callable[[int], None],
    ) -> None:
        name = held.path or "shared memory"
        path = find_object(held, self._then.process, self._present)
        if path is None:
            self.findings.left.append(f"content of {name}, which it has no more")
            return
        try:
            place = self._opened.enter_context(ObjectPlace(held, path))
        except OSError as error:
            self.findings.left.append(f"content of {name}, which cannot be opened ({error.strerror})")
            return
        if place.size_bytes != held.size_bytes:
            self.findings.obstacles.append(f"{name} has {place.size_bytes} bytes now, and had {held.size_bytes}")
            return
        mine = Changes(self.changes.room_bytes)
        sparse = held.kind in SPARSE_OBJECT_KINDS
        segments = (
            segment
            for segment in sources.segments(held.id, 0, held.pages_end_bytes)
            if sparse or segment.kind is not SegmentKind.ABSENT
        )
        compare(Wanted(place, segments, ahead, place.present(), can_discard=False), mine, on_bytes)
        self._take_shared(name, (held.device, held.inode), mine, has_name=not sparse)

    def _compare_mapped_alone(self, vma: Vma, view: MemoryView, ahead: FramesAhead) -> None:
        """A shared mapping of which the image has what this process had in its page tables, and no more."""
        segments = (
            segment
            for segment in view.own_segments(vma.start_addr, vma.end_addr)
            if segment.kind is not SegmentKind.ABSENT
        )
        mine = Changes(self.changes.room_bytes)
        everything = [(vma.start_addr, vma.end_addr)]
        compare(Wanted(self.place, segments, ahead, everything, filled=True, can_discard=False), mine, lambda _: None)
        name = vma.path or "shared memory"
        self._take_shared(name, (vma.device, vma.inode), mine, has_name=vma.kind == VmaKind.FILE)

    def _take_shared(self, name: str, key: tuple[str, int], mine: Changes, *, has_name: bool) -> None:
        """What is put back of memory that others may use; a file that `has_name` is there for others to open."""
        if not mine.items:
            return
        shared = self._shared
        if shared is SharedMode.NEVER or (shared is SharedMode.ALONE and has_name):
            self.findings.left.append(f"content of {name}")
            return
        other = user_of_object(*key, self._present.target.pid) if shared is SharedMode.ALONE else 0
        if other:
            self.findings.obstacles.append(f"{name} has changed, and process {other} uses it, too (--shared)")
        else:
            self.changes.take(mine)

    def _compare_mapped_files(self) -> None:
        """Pages that the process has not written are those of the file, whatever these are by now."""
        for one in self._then.process.mapped_files:
            with suppress(OSError, ValueError):
                status = Path(f"/proc/{self._present.target.tid}/root{one.path}").stat()
                is_same = (device_name(status.st_dev), status.st_ino) == (one.device, one.inode)
                if is_same and one.mtime_ns and (status.st_size, status.st_mtime_ns) != (one.size_bytes, one.mtime_ns):
                    self.findings.left.append(f"content of {one.path}, which is mapped and has been written to since")

    def _leave_shared_files(self) -> None:
        """The offset of a file that another process has from the same open(2) is that one's as well."""
        fds = [
            fd
            for fd in set(self.files_now.first_fds().values())
            if movable(self.files_now.at(fd), self.files_then.at(fd))
        ]
        users = users_of_files(self._present.target.tid, self._present.target.pid, fds)
        for fd, other in sorted(users.items()):
            self.files_then = self.files_then.with_file(fd, self.files_now.at(fd))
            path = self.files_now.at(fd).path
            self.findings.left.append(
                f"offset, flags and counts of descriptor {fd} ({path}), which process {other} shares"
            )

    def _keep_rseq(self) -> None:
        """The processor numbers in rseq areas are those of now, whatever the page had: rseq(2)."""
        for thread in self._present.threads:
            if thread.rseq is None:
                continue
            end = max(thread.rseq.size_bytes, 32)
            for start, stop in ((0, RSEQ_CPU_BYTES), (RSEQ_REST_OFFSET, end)):
                addr = thread.rseq.addr + start
                now = self.place.read(addr, stop - start)
                self.changes.add(Change(self.place, addr, len(now), now, now))

    def _compare_children(self) -> None:
        """Those that it had are known only where they were dumped with it."""
        pid = self._present.target.pid
        then = {one.pid for one in self._then.info.manifest.processes if one.ppid == pid}
        now = set(children(pid))
        self.findings.left += [f"its child {child}, which has ended since" for child in sorted(then - now)]
        self.findings.left += [f"its child {child}, which goes on" for child in sorted(now - then)]
