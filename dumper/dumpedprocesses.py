"""The processes that a dump is of: got ready while they run, met again as they stand still, lost on the way."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from dumper.errors import TargetUntraceable
from dumper.events import Emit
from dumper.freeze import StoppedProcess
from dumper.kernel.copy import StagingMemory
from dumper.kernel.ptrace import InjectionSite
from dumper.objects import MappedFiles
from dumper.processdump import ProcessDump
from dumper.rounds import exec_notice
from dumper.state.descriptors import DescriptorCapture
from dumper.target import Target, gone
from dumper.tree import LOST_ERRORS, Member, Tree

T = TypeVar("T")

MAX_ATTEMPTS = 2  # a process that stands still calls exec no more


class DumpedProcesses:
    """Parents before their children; `left` are those that were forgotten, to be let go of after the freeze."""

    def __init__(
        self, tree: Tree, memory: StagingMemory, descriptors: DescriptorCapture, opened: ExitStack, emit: Emit
    ) -> None:
        """What belongs to them is closed with `opened`."""
        self.left: list[Member] = []
        self._tree = tree
        self._memory = memory
        self._descriptors = descriptors
        self._opened = opened
        self._emit = emit
        self._files = opened.enter_context(MappedFiles())
        self._site: InjectionSite | None = None
        self._processes: dict[int, ProcessDump] = {}

    def __iter__(self) -> Iterator[ProcessDump]:
        """As they are now: some may be lost meanwhile."""
        return iter(list(self._processes.values()))

    @property
    def pids(self) -> list[int]:
        """Of all of them."""
        return list(self._processes)

    # ---- while they run ----

    def prepare(self, member: Member, *, stands_still: bool = False) -> ProcessDump | None:
        """Gets a process ready for the dump; None if it ended."""
        for _ in range(MAX_ATTEMPTS):
            try:
                process = ProcessDump(member, self._memory, self._files, self._site, stands_still=stands_still)
                if not stands_still:
                    self._descriptors.prepare(member.target)
            except LOST_ERRORS:
                if not self.lost(member):
                    return None
                continue
            self._site = self._site or process.capture.site
            self._processes[member.pid] = self._opened.enter_context(process)
            return process
        raise TargetUntraceable(
            f"process {member.pid} calls exec all the time", hint="Try again when it has settled.", pid=member.pid
        )

    def meet_again(self) -> None:
        """After a round that was taken meanwhile: who ended or called exec in it is left out, or prepared anew."""
        for pid, process in list(self._processes.items()):
            member = self._tree.member(pid)
            if member is not process.member or not process.is_current:
                del self._processes[pid]
                if member:
                    self.prepare(member)

    def lost(self, member: Member) -> bool:
        """A process was lost: True if it called exec and goes on, untracked. Raises TargetGone for the root."""
        self._processes.pop(member.pid, None)
        goes_on = self._tree.lost(member)
        if goes_on:
            self._emit(exec_notice(member.pid))
        return goes_on

    def while_running(self, process: ProcessDump, action: Callable[[], T]) -> T | None:
        """What `action` returns; None for a process that ended or called exec, which is prepared anew."""
        try:
            return action()
        except LOST_ERRORS:
            if self.lost(process.member):
                self.prepare(process.member)
            return None

    def each_running(self, action: Callable[[ProcessDump], None]) -> None:
        """Does it for each process while they run, as `while_running`."""
        for process in self:
            self.while_running(process, partial(action, process))

    # ---- in the freeze ----

    def target_of(self, pid: int) -> Target:
        """The Target of a descendant, a new one if it was not known. Raises TargetGone, and as Member."""
        member = self._tree.member(pid)
        if member and member.target.has_ended:
            self._processes.pop(pid, None)
            self._tree.remove(member)
            member = None
        member = member or self._tree.add(pid)
        if member is None:
            raise gone(pid)
        return member.target

    def settle(self, stopped: StoppedProcess) -> None:
        """Gets to know a process as it stands still: it may be new, or have called exec right before."""
        pid = stopped.target.pid
        for _ in range(MAX_ATTEMPTS):
            member = self._tree.member(pid)
            process = self._processes.get(pid) or (member and self.prepare(member, stands_still=True))
            if not process:
                return
            try:
                process.settle(stopped)
                return
            except LOST_ERRORS:
                self.lost(process.member)

    def forget_strays(self) -> None:
        """Those that left the tree before the freeze, and run."""
        for process in self:
            if process.stopped is None:
                self.forget(process)

    def each(self, action: Callable[[ProcessDump], None]) -> None:
        """Does it for each process; one that was killed in the freeze is not part of the dump."""
        for process in self:
            try:
                action(process)
            except LOST_ERRORS:
                self.forget(process)

    def forget(self, process: ProcessDump) -> None:
        """A process is not part of the dump; it is let go of after the freeze. Raises TargetGone if it is the root."""
        if process.member is self._tree.root:
            raise gone(process.member.pid)
        del self._processes[process.member.pid]
        self.left.append(process.member)
