"""The memory of a process as of the freeze, held by a copy-on-write child that is dumped after it."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dumper.errors import PermissionDenied, TargetGone, TargetUntraceable
from dumper.freeze import Freeze
from dumper.kernel.clone import Caller, Clone, end_child, inject_wait, release_files
from dumper.kernel.copy import FileMaps, PageBuffer, Source
from dumper.kernel.ptrace import O_SUSPEND_SECCOMP, InjectionSite
from dumper.memory_map import Vma, VmaKind
from dumper.outlive import in_thread
from dumper.proc import GONE_ERRORS
from dumper.proc.maps import Mapping, MapsParser, read_maps
from dumper.proc.smaps import parse_smaps_flags, read_smaps
from dumper.proc.stat import read_stat
from dumper.proc.status import read_status
from dumper.site import find_site
from dumper.target import Target
from formats.closing import Closing
from formats.faults import Point, reached

NOT_HELD = frozenset(("dc", "wf", "ht"))
"""VmFlags: MADV_DONTFORK, MADV_WIPEONFORK, hugetlbfs. (When a parent writes to a private huge page and there is none
left, the kernel takes one from the child.)
"""
KILLED_FIRST = "1000"  # where memory runs out: proc_pid_oom_score_adj(5)
PATIENCE_S = 5.0
POLL_S = 0.02


class SnapshotLostError(Exception):
    """A clone ended, or does not hold what it should: nothing of it may be believed."""


def is_held(vma: Vma, flags: str) -> bool:
    """Whether a clone has its own memory of this mapping, given its VmFlags ("" if they are not known)."""
    if vma.mapping.is_shared or vma.kind in (VmaKind.HUGETLB, VmaKind.SPECIAL, VmaKind.DEVICE):
        return False
    return bool(flags) and NOT_HELD.isdisjoint(flags.split())


def _identity(mapping: Mapping) -> tuple[object, ...]:
    """All but the path, which changes when a file is deleted."""
    return mapping.start_addr, mapping.end_addr, mapping.perms, mapping.offset_bytes, mapping.device, mapping.inode


class Snapshot(Closing):
    """A clone, from the freeze until the process itself has reaped it."""

    def __init__(self, pid: int, clone: Clone, site: InjectionSite, held: Sequence[Vma]) -> None:
        """`held` are the mappings that it should have."""
        self.pid = pid
        self._held = held
        self.child = clone.tid
        self._clone = clone
        self._site = site
        self._fds: list[int] = []
        self._mem_fd = -1
        self._is_buried = False
        self.is_left = False

    def open(self) -> None:
        """After the thaw: gets ready to be read. Raises SnapshotLostError, also if it is not what it should be."""
        self._check()
        with self.lost_if_gone():
            with suppress(PermissionError):
                Path(f"/proc/{self.child}/oom_score_adj").write_text(KILLED_FIRST)
            # With a table of its own it keeps no pipe or socket open that the process closes.
            release_files(self.child, self._site)
            reached(Point.RELEASED_FILES)
            self._mem_fd = os.open(f"/proc/{self.child}/mem", os.O_RDONLY | os.O_CLOEXEC)
            self._fds.append(self._mem_fd)

    def _check(self) -> None:
        """Raises SnapshotLostError unless it has all the mappings, each with its memory."""
        with self.lost_if_gone():
            mapped = {_identity(mapping) for mapping in MapsParser().parse(read_maps(self.child))}
            flags = {start: words.split() for start, _, words in parse_smaps_flags(read_smaps(self.child))}
        for vma in self._held:
            addr = vma.mapping.start_addr
            if _identity(vma.mapping) not in mapped or not NOT_HELD.isdisjoint(flags.get(addr, NOT_HELD)):
                raise SnapshotLostError(f"the clone of process {self.pid} does not hold its memory at {addr:#x}")

    def source(self, memory: PageBuffer) -> Source:
        """Where its pages come from."""
        return Source(self.child, self._mem_fd, FileMaps(), memory)

    def confirm(self) -> None:
        """Raises SnapshotLostError if it has ended: what was read of it may have been of nothing."""
        with self.lost_if_gone():
            if read_stat(self.child).has_ended:
                raise ProcessLookupError

    @contextmanager
    def lost_if_gone(self) -> Iterator[None]:
        """That it is gone becomes a SnapshotLostError."""
        try:
            yield
        except GONE_ERRORS:
            raise SnapshotLostError(f"the clone of process {self.pid} was killed") from None

    def close(self) -> None:
        """Ends it and has it reaped; a second call does nothing."""
        if self._is_buried:
            return
        self._is_buried = True
        for fd in self._fds:
            os.close(fd)
        end_child(self.child)
        reached(Point.CLONE_ENDED)
        self.is_left = not bury(self.pid, self.child, self._clone.ns_pid, PATIENCE_S)
        reached(Point.REAPED)


def bury(pid: int, child: int, ns_pid: int, patience_s: float) -> bool:
    """Has a process reap a clone that has ended: False if it could not be stopped for that in time.

    `ns_pid`: the clone as the process calls it. A process that has ended leaves its children to others.
    """
    deadline_s = time.monotonic() + patience_s
    while _is_child(pid, child):
        try:
            if _has_ended(child) and in_thread(lambda: _reap(pid, ns_pid)):
                return True
        except (TargetGone, *GONE_ERRORS):
            continue  # it has ended, or called exec just now
        except (TargetUntraceable, PermissionDenied, OSError):
            pass
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def _is_child(pid: int, child: int) -> bool:
    try:
        return read_stat(child).ppid == pid and not read_stat(pid).has_ended
    except GONE_ERRORS:
        return False


def _has_ended(child: int) -> bool:
    return read_stat(child).has_ended


def _reap(pid: int, ns_pid: int) -> bool:
    """Raises TargetGone, PermissionDenied, TargetUntraceable, OSError."""
    with Target(pid) as target:
        site = find_site(target, MapsParser().parse(read_maps(target.tid)))
        with Freeze(target, optional=O_SUSPEND_SECCOMP) as freeze:
            suspended = freeze.processes[0].threads.seccomp_suspended
            for tid in freeze.tids:
                status = read_status(tid)
                if status.shadow_stack or (status.seccomp_mode and not suspended):
                    continue
                with suppress(OSError):  # no room for a frame: another thread may have some
                    return inject_wait(Caller(pid, tid, target.mem_fd, site, suspended), ns_pid)
    return False
