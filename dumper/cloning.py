"""Whether a process can be cloned in the freeze, what a clone of it would not have, and the clone."""

import errno
from collections.abc import Collection, Sequence

from dumper.freezeplan import CloneWork, CopyWork
from dumper.headroom import free_bytes
from dumper.kernel.clone import Caller, inject_clone
from dumper.memory_map import Vma, is_object
from dumper.proc.maps import Mapping
from dumper.proc.status import read_memory
from dumper.snapshot import Snapshot, is_held
from dumper.staging import Staging
from dumper.target import Target
from dumper.vmflags import VmFlags
from formats.faults import Point, reached
from formats.layout import PAGE_BYTES
from formats.runs import merge

HEADROOM_SHARE = 1.25  # of what copy-on-write may take at most: others need some memory, too

Range = tuple[int, int]


class Cloning:
    """Of one process: `foresee` while it runs, `work` and `make` in the freeze.

    refusal: why there can be no clone, "" if there can; resident_pages: anonymous ones; not_held: addresses that a
    clone does not have, ascending.
    """

    def __init__(self, target: Target, flags: VmFlags) -> None:
        self._target = target
        self._flags = flags
        self.resident_pages = 0
        self._mappings = 0
        self._held: list[Vma] = []
        self.refusal = "it was not foreseen"
        self.not_held: list[Range] = []

    def foresee(self, vmas: Sequence[Vma], objects: Collection[Mapping]) -> None:
        """Decides whether it can be cloned; `objects` are mappings whose file is dumped as a memory object.

        Raises OSError: ENOENT or ESRCH if the process is gone.
        """
        memory = read_memory(self._target.tid)
        self.resident_pages = memory.anonymous_bytes // PAGE_BYTES
        tracked = {vma.mapping.start_addr for vma in vmas if vma.tracked}
        if self._flags.are_watched_by_others(tracked):
            self.refusal = "a userfaultfd that is not ours may have to answer for the fork"
        elif free_bytes(self._target.tid) < HEADROOM_SHARE * memory.anonymous_bytes:
            self.refusal = "what copy-on-write may take is not free"
        else:
            self.refusal = ""
            self.look(vmas, objects)

    def look(self, vmas: Sequence[Vma], objects: Collection[Mapping]) -> None:
        """Takes down what a clone would have of these mappings."""
        if self.refusal:
            return
        self._mappings = len(vmas)
        self._held = []
        left: list[Range] = []
        for vma in vmas:
            mapping = vma.mapping
            is_read_otherwise = is_object(vma) and mapping not in objects  # from page tables, where others write
            if is_held(vma, self._flags.before(mapping.start_addr)) and not is_read_otherwise:
                self._held.append(vma)
            else:
                left.append((mapping.start_addr, mapping.end_addr))
        self.not_held = list(merge(left))

    def expected_work(self) -> CloneWork | None:
        """What it will take, None if it cannot be done."""
        return None if self.refusal else CloneWork(self.resident_pages, self._mappings)

    def work(self, staging: Staging, room_pages: int) -> CloneWork | None:
        """What it takes now, None if it cannot be done."""
        if self.refusal:
            return None
        left_pages = staging.pages_to_copy_in(self.not_held)
        return CloneWork(self.resident_pages, self._mappings, CopyWork(left_pages, room_pages))

    def make(self, caller: Caller, announce_fd: int) -> Snapshot | None:
        """The clone; None if the process may have no more, and `refusal` says why. Raises OSError: ESRCH."""
        try:
            clone = inject_clone(caller, announce_fd)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise
            self.refusal = str(error)
            return None
        reached(Point.CLONED)
        # What the call touched in the clone is copied from the process, where it was put back.
        touched = [(start & -PAGE_BYTES, -(-end & -PAGE_BYTES)) for start, end in clone.touched]
        self.not_held = list(merge(sorted(self.not_held + touched)))
        return Snapshot(self._target.pid, clone, caller.site, self._held)
