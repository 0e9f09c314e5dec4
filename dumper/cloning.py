"""Whether a process can be cloned in the freeze, what a clone of it would not have, and the clone."""

import errno
from collections.abc import Collection, Sequence
from dataclasses import replace

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


def foresee_work(tid: int, mappings: int) -> CloneWork | None:
    """What it would take to clone the process of a live thread; None if what copy-on-write may take is not free.

    Raises OSError: ENOENT or ESRCH if the process is gone.
    """
    anonymous_bytes = read_memory(tid).anonymous_bytes
    if free_bytes(tid) < HEADROOM_SHARE * anonymous_bytes:
        return None
    return CloneWork(anonymous_bytes // PAGE_BYTES, mappings)


class Cloning:
    """Of one process: `foresee` and `prepare` while it runs, `work` and `make` in the freeze.

    expected_work: what it takes to clone it, None if it cannot be; not_held: addresses that a clone does not have,
    ascending.
    """

    def __init__(self, target: Target, flags: VmFlags) -> None:
        self._target = target
        self._flags = flags
        self._held: list[Vma] = []
        self._is_prepared = False
        self.expected_work: CloneWork | None = None
        self.not_held: list[Range] = []

    def foresee(self, mappings: int) -> None:
        """Finds out whether it can be cloned. Raises OSError: ENOENT or ESRCH if the process is gone."""
        self.expected_work = foresee_work(self._target.tid, mappings)

    def prepare(self, vmas: Sequence[Vma], objects: Collection[Mapping]) -> bool:
        """Gets ready for a clone; `objects` are mappings whose file is dumped as a memory object.

        False if there can be none.
        """
        # A userfaultfd that is not ours may have to answer for the fork, and its reader stands still.
        tracked = [(vma.mapping.start_addr, vma.mapping.end_addr) for vma in vmas if vma.tracked]
        if not self._flags.are_watched_by_others(tracked):
            self._is_prepared = True
            self.look(vmas, objects)
        return self._is_prepared

    def look(self, vmas: Sequence[Vma], objects: Collection[Mapping]) -> None:
        """Takes down what a clone would have of these mappings."""
        if not self._is_prepared:
            return
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

    def work(self, staging: Staging, room_pages: int) -> CloneWork | None:
        """What it takes now, None if it cannot be done."""
        if self.expected_work is None or not self._is_prepared:
            return None
        left_pages = staging.pages_to_copy_in(self.not_held)
        return replace(self.expected_work, copied=CopyWork(left_pages, room_pages))

    def make(self, caller: Caller, announce_fd: int) -> Snapshot | None:
        """The clone; None where the process may have none (see inject_clone). Raises OSError: ESRCH."""
        try:
            clone = inject_clone(caller, announce_fd)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise
            return None
        reached(Point.CLONED)
        # What the call touched in the clone is copied from the process, where it was put back.
        touched = [(start & -PAGE_BYTES, -(-end & -PAGE_BYTES)) for start, end in clone.touched]
        self.not_held = list(merge(sorted(self.not_held + touched)))
        return Snapshot(self._target.pid, clone, caller.site, self._held)
