"""One process on its way into a dump: prepared while it runs, copied and asked in the freeze, recorded after it."""

import time
from concurrent.futures import Executor
from dataclasses import replace

from dumper import describe
from dumper.cloning import Cloning
from dumper.describe import ProcessPart
from dumper.errors import HandoverFailed, TargetUntraceable
from dumper.freeze import StoppedProcess
from dumper.freezeplan import CopyWork, FreezeWish, choose
from dumper.kernel.clone import Caller
from dumper.kernel.copy import FileMaps, PageBuffer, Source
from dumper.kernel.pages import SpanTable
from dumper.kernel.probes import PAGE_IS_GUARD
from dumper.kernel.ptrace import InjectionSite, StopError
from dumper.kernel.recheck import Recheck
from dumper.kernel.state import leave_vdso
from dumper.memory_map import VmaKind, is_object, spans_while_frozen, spans_while_running
from dumper.objects import MappedFiles, ObjectSet, SharedObject
from dumper.output import ImageOutput
from dumper.proc.fds import USERFAULTFD, read_fds
from dumper.proc.maps import Mapping
from dumper.proc.smaps import shows_guards
from dumper.proc.stat import read_stat
from dumper.snapshot import Snapshot
from dumper.staging import Staging
from dumper.state.openfiles import DescriptorRecords
from dumper.state.process import ProcessCapture
from dumper.state.segments import SegmentTables
from dumper.tree import Member
from dumper.vmflags import VmFlags
from formats.closing import Closing
from formats.manifest import FreezeBy, Missing, PageRange

ANONYMOUS = (VmaKind.ANON, VmaKind.HEAP, VmaKind.STACK)


class ProcessDump(Closing):
    """`look` and `micro_round` while it runs; `settle`, `ask` and `copy` in the freeze; `part` after it.

    staging: its pages; vmas, objects: its mappings, and the memory objects behind them; stopped: it in the freeze;
    copied_pages, maps_ns, holes_ns, clone_ns: in the freeze; cloning: whether it can be cloned; snapshot: its clone;
    output: where its pages are written; recheck: compares older copies in the freeze.
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

        Raises one of tree.LOST_ERRORS, TargetUntraceable.
        """
        self.member = member
        self._scanner = member.scanner
        self.staging = Staging(member.scanner, member.base.covered, memory)
        self.objects: dict[Mapping, SharedObject] = {}
        self.missing: list[Missing] = []
        self.guards: list[PageRange] = []
        self._memory = memory
        self._files = files
        self.output: ImageOutput | None = None
        self.stopped: StoppedProcess | None = None
        self.copied_pages = 0
        self._last_written_pages: int | None = None
        self.maps_ns = 0
        self.holes_ns = 0
        self.clone_ns = 0
        self.freeze_by = FreezeBy.COPY
        self.snapshot: Snapshot | None = None
        self.recheck: Recheck | None = None
        self.look()
        self.unseen_writers = member.unseen_writers()
        self.identity = describe.identify(member.target)
        self._mapped_files = [] if stands_still else member.files.look(self.vmas, afresh=True)
        self._guards_are_flagged = shows_guards()  # tried here, since that is nothing for the freeze
        self._flags = VmFlags(member.target.tid, stands_still=stands_still)
        self._demand_pages()
        self.cloning = Cloning(member.target, self._flags)
        mappings = [vma.mapping for vma in self.vmas]
        self.capture = ProcessCapture(member.target, mappings, hint, stands_still=stands_still)

    def _demand_pages(self) -> None:
        """Raises TargetUntraceable if another process brings its pages: those that lack are not zeros."""
        member = self.member
        if self._flags.are_brought and USERFAULTFD not in read_fds(member.target.tid).values():
            raise TargetUntraceable(
                f"pages of process {member.pid} are not there yet: another process brings them by userfaultfd",
                hint="What 'predump restore --lazy' has let run can be dumped as soon as all of its memory is there.",
                pid=member.pid,
            )

    def look(self) -> None:
        """Reads the mappings and decides how each is looked at. Raises TargetGone."""
        member = self.member
        self.vmas = member.space.read()
        self._shared = [(v, self._files.fd(member.target.tid, v.mapping)) for v in self.vmas if is_object(v)]
        only_changes = self.staging.has_picture and member.scanner.can_scan_changes
        self._with_object = {vma.mapping for vma, fd in self._shared if fd >= 0}
        self._spans = SpanTable(spans_while_frozen(self.vmas, self._with_object, only_changes=only_changes))

    def close(self) -> None:
        """Closes what was opened for the freeze, and ends the clone."""
        self.capture.close()
        if self.snapshot:
            self.snapshot.close()

    def micro_round(self) -> int:
        """Copies what was written since the last one; returns the number of pages. Raises one of tree.LOST_ERRORS."""
        member = self.member
        if member.tracker is None:
            return 0
        self.staging.scan(SpanTable(spans_while_running(member.tracker.refresh())))
        self.unseen_writers = self.unseen_writers or member.unseen_writers()
        copied_pages = self.staging.copy(member.running)
        self._last_written_pages = copied_pages + self.staging.pages_not_copied
        return copied_pages

    @property
    def is_current(self) -> bool:
        """Whether the memory of the process is still the one that was prepared for; a round may have found another."""
        return self._scanner is self.member.scanner

    def renew_flags(self) -> None:
        """Reads the VmFlags anew if the mappings have changed since. Raises one of tree.LOST_ERRORS."""
        self.look()
        self._flags.renew(self.member.target.tid, self._ranges)

    def build_on_round(self) -> None:
        """Takes the place of a micro-round, after a round of the running process. Raises one of tree.LOST_ERRORS."""
        member = self.member
        if member.tracker and not member.base.is_full:
            self.staging.build_on(member.base.covered)
            self.unseen_writers = self.unseen_writers or member.unseen_writers()

    def foresee(self, wish: FreezeWish) -> FreezeBy:
        """How its last pages will probably be got. Raises one of tree.LOST_ERRORS."""
        cloning = self.cloning
        cloning.foresee(len(self.vmas))
        resident_pages = cloning.expected_work.resident_pages if cloning.expected_work else 0
        pages = resident_pages if self._last_written_pages is None else self._last_written_pages
        doubt = resident_pages if self.recheck else 0
        copy = CopyWork(pages, self._room_pages, doubt, self.staging.ns_per_page)
        by = choose(wish, copy, cloning.expected_work)
        if by is FreezeBy.CLONE and not cloning.prepare(self.vmas, self._with_object):
            by = FreezeBy.COPY
        return by

    @property
    def _room_pages(self) -> int:
        return self._memory.size_pages - self._memory.n_pages

    def withdraw(self) -> None:
        """There will be no dump: what only the staging memory holds is to be copied by the next round."""
        member = self.member
        if member.tracker and self.staging.has_picture:
            writers = [writer.text for writer in self.unseen_writers]
            member.base = member.base.without(self.staging.picture, writers)

    @property
    def is_in_doubt(self) -> bool:
        """Whether copies made before the freeze may be older than they should."""
        member = self.member
        return member.tracker is not None and bool(self.unseen_writers or member.base.unseen_writers)

    # ---- in the freeze -----------------------------------------------------------------------------------------

    def settle(self, stopped: StoppedProcess) -> None:
        """Lets threads finish what they do in the vdso: it cannot be taken up again on another kernel.

        Raises one of tree.LOST_ERRORS.
        """
        self.member.scanner.check_memory()
        self.stopped = stopped
        vdso = next((vma.mapping for vma in self.vmas if vma.mapping.path == "[vdso]"), None)
        if vdso:
            for tid in self._leave_vdso(stopped, vdso):
                self.missing.append(Missing(what=f"thread {tid}", reason="it stands inside the vdso"))

    def _leave_vdso(self, stopped: StoppedProcess, vdso: Mapping) -> list[int]:
        try:
            return leave_vdso(stopped.threads, vdso.start_addr, vdso.end_addr)
        except StopError as error:
            raise TargetUntraceable(
                f"thread {error.tid} of process {self.member.pid} did not stop again when it had left the vdso",
                hint="Everything goes on untouched: try again.",
                pid=self.member.pid,
                tid=error.tid,
            ) from None

    def scan(self, objects: ObjectSet) -> None:
        """Finds out what is left to copy. Raises one of tree.LOST_ERRORS."""
        member = self.member
        since_ns = time.monotonic_ns()
        # A file that could not be opened may have been a mapping that changed just then.
        if member.space.has_changed() or any(fd < 0 for _, fd in self._shared):
            self.look()
            self.cloning.look(self.vmas, self._with_object)
        self.objects = objects.add_mappings([(vma, fd) for vma, fd in self._shared if fd >= 0])
        objects.add_mapped_pages(member.scanner, self.objects)
        self.maps_ns = time.monotonic_ns() - since_ns
        self.staging.final_scan(self._spans)
        since_ns = time.monotonic_ns()
        self._find_guards()
        self.holes_ns = time.monotonic_ns() - since_ns

    def look_at_segments(self, tables: SegmentTables) -> None:
        """Asks what its segments of System V are, before clones have them, too. Raises one of tree.LOST_ERRORS."""
        for mapping, one in self.objects.items():
            if mapping.is_sysv and one.segment is None:
                one.segment = tables.of(self.member.target.tid, mapping.inode)

    def copy(self) -> None:
        """Copies what is left. Raises one of tree.LOST_ERRORS."""
        self.copied_pages = self.staging.final_copy(self.source(), self.recheck)

    def choose(self, wish: FreezeWish) -> None:
        """Decides how to get what is left."""
        staging, room_pages = self.staging, self._room_pages
        doubt = staging.pages_with_older_copy if self.recheck else 0
        copy = CopyWork(staging.pages_to_copy, room_pages, doubt, staging.ns_per_page)
        self.freeze_by = choose(wish, copy, self.cloning.work(staging, room_pages))

    def clone(self, announce_fd: int) -> bool:
        """Leaves it to a clone: False if none could be made. Raises one of tree.LOST_ERRORS."""
        caller = self._caller()
        if caller is None:
            return False
        since_ns = time.monotonic_ns()
        self.snapshot = self.cloning.make(caller, announce_fd)
        self.clone_ns = time.monotonic_ns() - since_ns
        if self.snapshot is None:
            return False
        self.copied_pages = self.staging.leave_to_clone(self.cloning.not_held, self.source(), self.recheck)
        return True

    def _caller(self) -> Caller | None:
        """A thread that can make a call: one that was asked."""
        assert self.stopped is not None
        site, tids, target = self.capture.site, self.capture.asked_tids(), self.member.target
        if site is None or not tids:
            return None
        tid = target.pid if target.pid in tids else tids[0]
        return Caller(target.pid, tid, target.mem_fd, site, self.stopped.threads.seccomp_suspended)

    def source(self) -> Source:
        """Where its pages come from while it stands still."""
        target = self.member.target
        return Source(target.tid, target.mem_fd, FileMaps(), self._memory)

    def open_clone(self) -> None:
        """Gets what was left to the clone ready to be read. Raises SnapshotLostError, OSError ESRCH if it is gone."""
        if self.snapshot:
            self.snapshot.open()
            if self.recheck:
                source = self.snapshot.source(self._memory)
                self.staging.compare_with_clone(self.cloning.not_held, source, self.recheck)

    def _find_guards(self) -> None:
        """Guard pages are looked for where the flags speak of some, or everywhere on a kernel without that flag."""
        scanner = self.member.scanner
        if not scanner.can_scan_changes:  # the kernel has no category for them
            return
        if self._guards_are_flagged and not self._flags.has_any_guards:
            return
        for vma in self.vmas:
            mapping = vma.mapping
            if vma.kind in ANONYMOUS and (not self._guards_are_flagged or self._flags.has_guards(mapping.start_addr)):
                ranges = scanner.ranges(mapping.start_addr, mapping.end_addr, PAGE_IS_GUARD)
                self.guards += [PageRange(start_addr=start, end_addr=end) for start, end in ranges]

    def ask(self) -> None:
        """Reads its state. Raises one of tree.LOST_ERRORS."""
        assert self.stopped is not None
        self.capture.read(self.stopped.threads)
        self.identity = replace(self.identity, ppid=read_stat(self.member.pid).ppid)

    # ---- after it ----------------------------------------------------------------------------------------------

    @property
    def has_flags(self) -> bool:
        """Whether the VmFlags from before the freeze are those of its mappings, and cannot have changed with these."""
        return self._flags.is_of(self._ranges)

    def confirm_flags(self) -> None:
        """Where `part` did without the second reading of `read_flags_aside`. Raises HandoverFailed."""
        for start, end in self._flags.changed()[:1]:
            raise HandoverFailed(
                f"process {self.member.pid} changed the flags of its memory {start:#x}-{end:#x} before the freeze",
                hint="It goes on here. Try again.",
            )

    @property
    def _ranges(self) -> list[tuple[int, int]]:
        return [(vma.mapping.start_addr, vma.mapping.end_addr) for vma in self.vmas]

    def read_flags_aside(self, by: Executor) -> None:
        """Begins to read the VmFlags again, of a process that stands still: for `part`, or for `confirm_flags`."""
        self._flags.read_aside(self.member.target.tid, by)

    def read_flags(self) -> None:
        """Reads the VmFlags again. It runs by now: some may not be those of the freeze."""
        self._flags.read_again(self.member.target.tid, stands_still=False)

    def _late_guards(self) -> list[Missing]:
        """Mappings with guard pages at the second look only: which pages is not known."""
        late = (vma.mapping for vma in self.vmas if self._flags.got_guards(vma.mapping.start_addr))
        places = (f"guard pages of memory {one.start_addr:#x}-{one.end_addr:#x}" for one in late)
        return [Missing(what=place, reason="they were made around the freeze") for place in places]

    def written(self) -> ImageOutput:
        """Where its pages were written."""
        assert self.output is not None
        return self.output

    def part(self, files: DescriptorRecords, shared: dict[str, int], *, early_flags: bool) -> ProcessPart:
        """What the round holds of it, once its pages are written; `shared`: with other processes.

        Raises one of tree.LOST_ERRORS if it was killed.
        """
        pid = self.member.pid
        state, threads, missing = self.capture.records([vma.mapping for vma in self.vmas])
        if not early_flags:
            self._flags.read_again(self.member.target.tid, stands_still=True)  # nothing new if it runs
        notes = {vma.mapping.start_addr: describe.NO_FD_NOTE for vma, fd in self._shared if fd < 0}
        flags = {}
        for addr in (vma.mapping.start_addr for vma in self.vmas):
            flags[addr], note = self._flags.of(addr)
            if note:
                notes.setdefault(addr, note)
        missing += self._late_guards()
        return ProcessPart(
            member=self.member,
            identity=self.identity,
            output=self.written(),
            vmas=self.vmas,
            threads=threads,
            objects=self.objects,
            notes=notes,
            flags=flags,
            guards=self.guards,
            mapped_files=self._mapped_files,
            state=replace(
                state,
                descriptors=files.descriptors.get(pid, []),
                locks=files.locks.get(pid, []),
                shared=shared,
            ),
            missing=self.missing + missing + describe.still_written(self.unseen_writers) + files.missing.get(pid, []),
            later_writers=[writer.text for writer in self.unseen_writers],
        )
