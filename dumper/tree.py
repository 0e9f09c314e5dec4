"""Which processes a session captures: one, or a process with all of its descendants."""

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from dumper import lease
from dumper.errors import KernelFeatureMissing, TargetGone
from dumper.events import Attached, Emit
from dumper.hotpages import HotPages, LeftOut
from dumper.inject import take_userfaultfd
from dumper.kernel.copy import FileMaps, Source
from dumper.kernel.pages import Scanner
from dumper.kernel.ptrace import children
from dumper.kernel.runs import RunKind, RunList
from dumper.lease import Key
from dumper.mappedfiles import FileRecords
from dumper.proc import GONE_ERRORS
from dumper.proc.stat import read_stat
from dumper.proc.status import read_status
from dumper.target import Target, gone
from dumper.tracking import AddressSpace, Tracker, TrackingLostError
from dumper.unseen import UnseenWriter, find_unseen_writers
from formats.closing import Closing

LOST_ERRORS = (TrackingLostError, TargetGone, *GONE_ERRORS)
"""How it shows that a process ended or called exec while it was worked on (FileNotFoundError: of a file in /proc)."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a process's next round builds on: its runs in the round before, or none, and then why it is taken in full.

    `left_out` are pages that the round before left for the freeze, which `covered` does not have then.
    `full_round` is where its chain of parents ends, 0 if it has none yet. `unseen_writers` may have written to pages
    after a round since then had copied them: such copies are compared with memory in the freeze, or made again.
    """

    covered: RunList
    full_reason: str
    full_round: int = 0
    unseen_writers: tuple[str, ...] = ()
    left_out: LeftOut | None = None

    @staticmethod
    def after(runs: RunList, deferred: RunList | None, full_round: int, unseen_writers: Sequence[str]) -> "Base":
        """After a round of these runs, which left `deferred` pages for the freeze."""
        if not deferred:
            return Base(runs, "", full_round, tuple(unseen_writers))
        covered = runs.without(deferred, (RunKind.COPY,))
        return Base(covered, "", full_round, tuple(unseen_writers), LeftOut(runs, deferred))

    @property
    def is_full(self) -> bool:
        """Whether the round must hold everything."""
        return bool(self.full_reason)

    def without(self, newer: RunList, unseen_writers: Sequence[str]) -> "Base":
        """The same when pages were written since: those of the STAGED and COPY runs are to be copied again."""
        kinds = (RunKind.STAGED, RunKind.COPY)
        doubt = tuple(dict.fromkeys((*self.unseen_writers, *unseen_writers)))
        covered, left = self.covered.without(newer, kinds), self.left_out
        if left:
            left = LeftOut(left.runs.without(newer, kinds), left.deferred.without(newer, kinds))
        return replace(self, covered=covered, unseen_writers=doubt, left_out=left)

    @property
    def pages_in_doubt(self) -> int:
        """Pages that the dump has to compare with memory in the freeze."""
        kinds = (RunKind.DATA, RunKind.ZERO, RunKind.PARENT)
        return sum(map(self.covered.pages_of, kinds)) if self.unseen_writers else 0


class Member(Closing):
    """One process of a session: its memory map, its tracking if there is any, and what its next round builds on.

    attach_stop_ns: how long it was stopped for the tracking since its last round; hot_pages: if rounds defer them.
    """

    def __init__(self, pid: int, full_reason: str) -> None:
        """Locks it against other commands. Raises TargetGone, PermissionDenied, TargetUntraceable, TargetBusy."""
        self.target = Target(pid)
        self._lock = ExitStack()
        try:
            self._lock.enter_context(lease.exclusive(self.target))
        except BaseException:
            self.target.close()
            raise
        self.tracker: Tracker | None = None
        self.base = Base(RunList(1), full_reason)
        self.attach_stop_ns = 0
        self.hot_pages = HotPages()
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        self.space = AddressSpace(self.target)
        self.files = FileRecords(self.target, self.space)
        self.scanner = Scanner(self.target.pagemap_fd)
        self.running = Source(self.target.tid, self.target.mem_fd, FileMaps())

    def replace_memory(self) -> None:
        """After an exec: the process is the same, with new memory that nobody tracks. Raises as `__init__`."""
        self.drop_tracking()
        pid, start = self.key
        self.target.close()
        self.target = Target(pid)
        if self.key != (pid, start):
            raise gone(pid)
        self.base = Base(RunList(1), f"process {pid} called exec, or its main thread ended")
        self.hot_pages = HotPages()
        self._look_at_memory()

    def attach(self, emit: Emit) -> None:
        """Begins tracking: the process is stopped once, for the time of one injected call.

        Raises TargetGone, PermissionDenied, TargetUntraceable, KernelFeatureMissing; it goes on in each case.
        """
        injection = take_userfaultfd(self.target, [vma.mapping for vma in self.space.read()])
        self.tracker = Tracker(self.target, self.space, injection.uffd)
        self.attach_stop_ns += injection.stop_ns
        emit(Attached(pid=self.pid, threads=injection.threads, attach_stop_ns=injection.stop_ns))

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.target.pid

    @property
    def key(self) -> Key:
        """What it is known by: a pid may be used again."""
        return self.target.pid, self.target.start_time_ticks

    def unseen_writers(self) -> list[UnseenWriter]:
        """What may write to its memory unseen, as of the mappings last read. Raises one of LOST_ERRORS."""
        return find_unseen_writers(self.target.tid, [vma.mapping for vma in self.space.vmas])

    @property
    def parting(self) -> str:
        """Why it is in the tree no more, as the rest of a sentence."""
        return "has ended" if self.target.has_ended else "is no descendant any more"

    def clear_doubt(self) -> None:
        """Earlier copies that cannot be trusted are made again as soon as they can. Raises one of LOST_ERRORS."""
        doubt = self.base.unseen_writers
        if doubt and not self.unseen_writers():
            self.base = Base(RunList(1), f"what {', '.join(doubt)} wrote during earlier rounds was not seen")

    def thread_count(self) -> int:
        """How many threads it has now, 0 if it has ended."""
        try:
            return self.target.thread_count()
        except TargetGone:
            return 0

    def has_seccomp_filter(self) -> bool:
        """Whether one of its threads has one by now; False if it has ended."""
        try:
            tids = os.listdir(f"/proc/{self.pid}/task")  # noqa: PTH208 - for each thread of each process
            return any(read_status(int(tid)).seccomp_mode for tid in tids)
        except GONE_ERRORS:
            return False

    def drop_tracking(self) -> None:
        """Ends the tracking: the process is as it was before."""
        if self.tracker:
            self.tracker.drop()
            self.tracker = None

    def close(self) -> None:
        """Lets go of it; a keeper's copy of the userfaultfd stays armed."""
        if self.tracker:
            self.tracker.close()
            self.tracker = None
        self.target.close()
        self._lock.close()


class Tree(Closing):
    """The root and, if `whole`, all of its descendants.

    `on_left(member)` is called for each that has ended, or is no descendant any more.
    """

    def __init__(self, root_pid: int, *, whole: bool, on_left: Callable[[Member], None]) -> None:
        """Raises as Member, and KernelFeatureMissing if the kernel does not tell children."""
        self.whole = whole
        self._on_left = on_left
        self.root = Member(root_pid, "it is not tracked")
        self._members = {root_pid: self.root}
        if whole and not Path("/proc/thread-self/children").exists():
            self.close()
            raise KernelFeatureMissing(
                "this kernel does not tell the children of a process",
                hint="Use a kernel built with CONFIG_PROC_CHILDREN, or capture a single process with -p.",
            )

    @property
    def members(self) -> list[Member]:
        """All of them as of the last `refresh`, the root first."""
        return list(self._members.values())

    def member(self, pid: int) -> Member | None:
        """The member with this pid."""
        return self._members.get(pid)

    def refresh(self) -> None:
        """Finds new descendants and lets go of those that left. Raises as Member for what may not be captured."""
        if not self.whole:
            return
        found = self._descendants()
        for member in self.members:
            if member is not self.root and (
                member.target.has_ended or (member.pid not in found and not self._is_descendant(member.pid))
            ):
                self.remove(member)
        for pid in found:
            if pid not in self._members:
                self.add(pid)

    def add(self, pid: int) -> Member | None:
        """Takes a process in; None if it ended meanwhile. Raises as Member otherwise."""
        try:
            member = Member(pid, "new process")
        except TargetGone:
            return None
        self._members[pid] = member
        return member

    def remove(self, member: Member) -> None:
        """Lets go of a process, untracked."""
        del self._members[member.pid]
        self._on_left(member)
        member.drop_tracking()
        member.close()

    def lost(self, member: Member) -> bool:
        """A process was lost while it was worked on: True if it goes on with new memory, False if it ended.

        Raises TargetGone if it is the root that ended.
        """
        if not member.target.has_ended:
            try:
                member.replace_memory()
                return True
            except TargetGone:
                pass
        if member is self.root:
            raise gone(member.pid)
        self.remove(member)
        return False

    def close(self) -> None:
        """Lets go of all of them."""
        for member in self.members:
            member.close()
        self._members.clear()

    def _descendants(self) -> list[int]:
        """Pids, parents before their children. While they run, one may be missing for a moment."""
        found: list[int] = []
        waiting = [self.root.pid]
        while waiting:
            try:
                new = children(waiting.pop(0))
            except OSError as error:
                if error.errno != errno.ESRCH:
                    raise
                continue
            new = [pid for pid in new if pid not in found]
            found += new
            waiting += new
        return found

    def _is_descendant(self, pid: int) -> bool:
        """By its parents, one by one up to the root."""
        while pid > 1:
            if pid == self.root.pid:
                return True
            try:
                pid = read_stat(pid).ppid
            except GONE_ERRORS:
                return False
        return False
