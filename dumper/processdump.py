"""One process on its way into a dump: prepared while it runs, copied and asked in the freeze, recorded after it."""

import contextlib
from dataclasses import replace

from dumper import describe
from dumper.describe import ProcessPart
from dumper.freeze import StoppedProcess
from dumper.kernel.copy import FileMaps, PageBuffer, Source
from dumper.kernel.pages import SpanTable
from dumper.kernel.probes import PAGE_IS_GUARD
from dumper.kernel.ptrace import InjectionSite
from dumper.kernel.state import leave_vdso
from dumper.memory_map import Vma, VmaKind, is_object, spans_while_frozen, spans_while_running
from dumper.objects import MappedFiles, ObjectSet, SharedObject
from dumper.output import ImageOutput
from dumper.proc.maps import Mapping
from dumper.proc.smaps import GUARD_FLAG, parse_smaps_flags, read_smaps, shows_guards
from dumper.proc.stat import read_stat
from dumper.staging import Staging
from dumper.state.openfiles import DescriptorRecords
from dumper.state.process import ProcessCapture
from dumper.tree import Member
from formats.closing import Closing
from formats.manifest import Missing, PageRange

OUR_FLAG = "uw"  # registered for write-protection: gone with the tracking
ANONYMOUS = (VmaKind.ANON, VmaKind.HEAP, VmaKind.STACK)

VmFlags = dict[tuple[int, int], str]


def read_vm_flags(tid: int) -> VmFlags:
    """VmFlags by range, without what tracking adds. It walks the page tables, so it is not for the freeze."""
    flags = {(start, end): text for start, end, text in parse_smaps_flags(read_smaps(tid))}
    return {span: " ".join(flag for flag in text.split() if flag != OUR_FLAG) for span, text in flags.items()}


class ProcessDump(Closing):
    """`look` and `micro_round` while it runs; `settle`, `ask` and `copy` in the freeze; `part` after it.

    staging: its pages; vmas, objects: its mappings, and the memory objects behind them; stopped: it in the freeze;
    copied_pages: in the freeze; output: where its pages are written.
    """

    def __init__(
        self,
        member: Member,
        memory: PageBuffer,
        files: MappedFiles,
        hint: InjectionSite | None,
        *,
        stands_still: bool,
    ) -> None:
        """`hint`: where calls can be injected into a process like it; `stands_still`: it was found in the freeze.

        Raises one of tree.LOST_ERRORS.
        """
        self.member = member
        self.staging = Staging(member.scanner, member.base.covered, memory)
        self.objects: dict[Mapping, SharedObject] = {}
        self.missing: list[Missing] = []
        self.guards: list[PageRange] = []
        self._memory = memory
        self._files = files
        self._flags_before: VmFlags = {}
        self._flags: VmFlags = {}
        self._flags_are_exact = False
        self.output: ImageOutput | None = None
        self.stopped: StoppedProcess | None = None
        self.copied_pages = 0
        self.look()
        self.identity = describe.identify(member.target)
        mappings = [vma.mapping for vma in self.vmas]
        self.capture = ProcessCapture(member.target, mappings, hint, stands_still=stands_still)
        self._look_at_flags(stands_still=stands_still)

    def look(self) -> None:
        """Reads the mappings and decides how each is looked at. Raises TargetGone."""
        member = self.member
        self.vmas = member.space.read()
        self._shared = [(v, self._files.fd(member.target.tid, v.mapping)) for v in self.vmas if is_object(v)]
        only_changes = self.staging.has_picture and member.scanner.can_scan_changes
        mapped = {vma.mapping for vma, fd in self._shared if fd >= 0}
        self._spans = SpanTable(spans_while_frozen(self.vmas, mapped, only_changes=only_changes))

    def close(self) -> None:
        """Closes what was opened for the freeze."""
        self.capture.close()

    def _look_at_flags(self, *, stands_still: bool) -> None:
        """Reads the VmFlags: while it runs, they are those of the freeze only where they are so after it, too."""
        self._flags_are_exact = stands_still
        with contextlib.suppress(PermissionError):
            self._flags_before = read_vm_flags(self.member.target.tid)

    def micro_round(self) -> int:
        """Copies what was written since the last one; returns the number of pages. Raises one of tree.LOST_ERRORS."""
        tracker = self.member.tracker
        if tracker is None:
            return 0
        spans = SpanTable(spans_while_running(tracker.refresh()))
        return self.staging.micro_round(spans, self.member.running)

    # ---- in the freeze -----------------------------------------------------------------------------------------

    def settle(self, stopped: StoppedProcess) -> None:
        """Lets threads finish what they do in the vdso: it cannot be taken up again on another kernel.

        Raises one of tree.LOST_ERRORS.
        """
        self.member.scanner.check_memory()
        self.stopped = stopped
        vdso = next((vma.mapping for vma in self.vmas if vma.mapping.path == "[vdso]"), None)
        if vdso:
            for tid in leave_vdso(stopped.threads, vdso.start_addr, vdso.end_addr):
                self.missing.append(Missing(what=f"thread {tid}", reason="it stands inside the vdso"))

    def copy(self, objects: ObjectSet) -> None:
        """Copies what is left. Raises one of tree.LOST_ERRORS."""
        member = self.member
        if member.space.has_changed():
            self.look()
        self.copied_pages = self.staging.final_round(self._spans, self.source())
        self.objects = objects.add_mappings([(vma, fd) for vma, fd in self._shared if fd >= 0])
        objects.add_mapped_pages(member.scanner, self.objects)
        self._find_guards()

    def source(self) -> Source:
        """Where its pages come from while it stands still."""
        target = self.member.target
        return Source(target.tid, target.mem_fd, FileMaps(), self._memory)

    def _find_guards(self) -> None:
        """Guard pages are looked for where the flags speak of some, or everywhere on a kernel without that flag."""
        scanner = self.member.scanner
        if not scanner.can_scan_changes:  # the kernel has no category for them
            return
        known = shows_guards()
        suspects = [
            vma.mapping
            for vma in self.vmas
            if vma.kind in ANONYMOUS and (not known or GUARD_FLAG in self._flags_of(vma, self._flags_before).split())
        ]
        self.guards = [
            PageRange(start_addr=start, end_addr=end)
            for mapping in suspects
            for start, end in scanner.ranges(mapping.start_addr, mapping.end_addr, PAGE_IS_GUARD)
        ]

    def ask(self) -> None:
        """Reads its state. Raises one of tree.LOST_ERRORS."""
        assert self.stopped is not None
        self.capture.read(self.stopped.threads)
        self.identity = replace(self.identity, ppid=read_stat(self.member.pid).ppid)

    # ---- after it ----------------------------------------------------------------------------------------------

    def check_flags(self, *, stands_still: bool) -> None:
        """Reads the VmFlags again. If it runs by now, those that are not as before the freeze are not known."""
        before = after = self._flags_before
        if not self._flags_are_exact:
            after = {}
            with contextlib.suppress(OSError):  # it may have ended by now
                after = read_vm_flags(self.member.target.tid)
            before = after if stands_still else before
        self._flags = {span: flags for span, flags in after.items() if before.get(span) == flags}
        unknown = sum(1 for vma in self.vmas if not self._flags_of(vma, self._flags))
        if unknown:
            self.missing.append(
                Missing(what=f"VmFlags of {unknown} mapping(s)", reason="they changed around the freeze")
            )

    def written(self) -> ImageOutput:
        """Where its pages were written."""
        assert self.output is not None
        return self.output

    def part(self, files: DescriptorRecords) -> ProcessPart:
        """What the round holds of it, once its pages are written. Raises one of tree.LOST_ERRORS if it was killed."""
        pid = self.member.pid
        state, threads, missing = self.capture.records([vma.mapping for vma in self.vmas])
        without_fd = [vma for vma, fd in self._shared if fd < 0]
        return ProcessPart(
            member=self.member,
            identity=self.identity,
            output=self.written(),
            vmas=self.vmas,
            threads=threads,
            objects=self.objects,
            notes={vma.mapping.start_addr: describe.NO_FD_NOTE for vma in without_fd},
            flags={vma.mapping.start_addr: self._flags_of(vma, self._flags) for vma in self.vmas},
            guards=self.guards,
            state=replace(state, descriptors=files.descriptors.get(pid, []), locks=files.locks.get(pid, [])),
            missing=self.missing + missing + files.missing.get(pid, []),
        )

    @staticmethod
    def _flags_of(vma: Vma, flags: VmFlags) -> str:
        return flags.get((vma.mapping.start_addr, vma.mapping.end_addr), "")
