"""A process as it is now, while it stands still: what a dump would record of it."""

from contextlib import ExitStack

from dumper import lease
from dumper.errors import TargetTracked
from dumper.freeze import StoppedProcess
from dumper.kernel.pages import Scanner, SpanFlag, SpanTable
from dumper.kernel.probes import PAGE_IS_GUARD
from dumper.kernel.runs import RunList
from dumper.memory_map import Vma, spans_while_frozen
from dumper.proc.smaps import shows_guards
from dumper.proc.stat import read_stat
from dumper.state.descriptors import DescriptorCapture
from dumper.state.openfiles import DescriptorRecords
from dumper.state.process import ProcessCapture
from dumper.target import Target
from dumper.tracking import AddressSpace
from dumper.vmflags import VmFlags
from formats import runs
from formats.closing import Closing
from formats.manifest import ANONYMOUS_VMA_KINDS
from formats.processstate import ProcessState
from formats.threadstate import Thread

EVERYTHING = [(0, 1 << 63)]


class Present(Closing):
    """Make it while the process runs, `look` at it once it stands still.

    vmas: its mappings; state, threads, files: as a dump would record them; silence: why some of it could not be asked.
    """

    def __init__(self, target: Target) -> None:
        """Raises TargetGone, TrackingLostError, OSError: ENOENT or ESRCH if the process is gone."""
        self.target = target
        self._space = AddressSpace(target)
        self._scanner = Scanner(target.pagemap_fd)
        self.guards_are_flagged = shows_guards()
        with ExitStack() as opened:
            mappings = [vma.mapping for vma in self._space.read()]
            self._capture = opened.enter_context(ProcessCapture(target, mappings))
            self._descriptors = opened.enter_context(DescriptorCapture())
            self._descriptors.prepare(target)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Closes what was opened for it."""
        self._opened.close()

    def look(self, stopped: StoppedProcess) -> None:
        """Reads everything. Raises as `__init__`, and TargetTracked if it is tracked as a part of a tree."""
        self.stopped = stopped
        self.vmas: list[Vma] = self._space.read()
        self._flags = VmFlags(self.target.tid, stands_still=True)
        if self._flags.are_watched_by_others(EVERYTHING if lease.is_tracked(self.target) else []):
            raise TargetTracked(
                f"the writes of process {self.target.pid} are watched: it is tracked with the tree it is in, or has "
                "a userfaultfd of its own",
                hint="End that first; 'predump detach -p' with the root of the tree drops its tracking.",
                pid=self.target.pid,
            )
        self._capture.read(stopped.threads)
        self._descriptors.read([self.target])
        self.state: ProcessState
        self.threads: list[Thread]
        self.state, self.threads, _ = self._capture.records([vma.mapping for vma in self.vmas])
        self.files: DescriptorRecords = self._descriptors.records({})
        self.parent_pid = read_stat(self.target.pid).ppid

    @property
    def syscall_addr(self) -> int | None:
        """Where a call can be made, None if nowhere."""
        return self._capture.site.syscall_ret_addr if self._capture.site else None

    @property
    def was_asked(self) -> bool:
        """Whether its threads made the calls that they were asked to make, all of them."""
        return len(self._capture.asked_tids()) == len(self.threads)

    def flags_at(self, addr: int) -> set[str]:
        """VmFlags of the mapping there."""
        return set(self._flags.before(addr).split())

    def guards(self) -> list[runs.Range]:
        """Its guard pages."""
        found: list[runs.Range] = []
        if not self._scanner.can_scan_changes:
            return found
        for vma in self.vmas:
            mapping = vma.mapping
            if vma.kind in ANONYMOUS_VMA_KINDS and (
                not self.guards_are_flagged or self._flags.has_guards(mapping.start_addr)
            ):
                found += self._scanner.ranges(mapping.start_addr, mapping.end_addr, PAGE_IS_GUARD)
        return found

    def own_pages(self) -> list[runs.Range]:
        """Pages of private mappings that are the process's own: of a mapped file, those that it has written."""
        vmas = [vma for vma in self.vmas if not vma.mapping.is_shared]
        spans = [span for span in spans_while_frozen(vmas, (), only_changes=False) if not span.flags & SpanFlag.WHOLE]
        present = RunList(1 << 14)
        self._scanner.start(SpanTable(spans), RunList(1), RunList(1))
        self._scanner.all_runs(present, reset=False)
        return list(runs.merge(present.ranges()))
