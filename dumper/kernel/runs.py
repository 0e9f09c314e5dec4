"""Lists of page runs in C memory: what scans yield, copies consume and images store."""

from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import Any

from dumper.kernel.native import ffi, lib, new_array
from formats.layout import PAGE_BYTES

END_ADDR = 1 << 63  # of user space
RUN_BYTES = 24  # struct pd_run; also the record of a pagemap file (formats.layout.RUN)


class RunKind(IntEnum):
    """What becomes of the pages of a run. The first three stand in image files (formats.layout)."""

    DATA = lib.PD_RUN_DATA
    ZERO = lib.PD_RUN_ZERO
    PARENT = lib.PD_RUN_PARENT
    COPY = lib.PD_RUN_COPY
    STAGED = lib.PD_RUN_STAGED


ALL_PAGES = (1 << 64) - 1


class Sweep:
    """A walk through the runs of a list, from the first on, in step with the walk through another."""

    def __init__(self, runs: "RunList") -> None:
        self._runs = runs  # a sweep does not keep its runs alive
        self.c = runs.sweep()

    @property
    def runs_left(self) -> int:
        """Runs that it has not passed."""
        return int(self.c.n_runs - self.c.next)


class RunList:
    """A sorted list of runs with room for `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        self.c = ffi.new("struct pd_run_list *")
        self._reserve(capacity)

    def _reserve(self, capacity: int) -> None:
        runs = new_array("struct pd_run", capacity)
        if self.c.n_runs:
            ffi.memmove(runs, self.c.runs, self.c.n_runs * RUN_BYTES)
        self._memory = runs  # self.c.runs does not keep it alive
        self.c.runs = runs
        self.c.capacity = capacity

    def __len__(self) -> int:
        return int(self.c.n_runs)

    @property
    def capacity(self) -> int:
        """Most runs that fit."""
        return int(self.c.capacity)

    def reserve(self, capacity: int) -> None:
        """Makes room for at least `capacity` runs; those in the list stay."""
        if capacity > self.capacity:
            self._reserve(max(capacity, 2 * self.capacity))

    def clear(self) -> None:
        """Empties the list and keeps its memory."""
        self.c.n_runs = 0

    def packed(self) -> bytes:
        """The runs as records of a pagemap file."""
        return bytes(ffi.buffer(self.c.runs, len(self) * RUN_BYTES))

    def extend_packed(self, records: bytes | memoryview) -> None:
        """Appends records of a pagemap file (a multiple of RUN_BYTES bytes)."""
        count = len(records) // RUN_BYTES
        self.reserve(len(self) + count)
        ffi.memmove(self.c.runs + len(self), records, count * RUN_BYTES)
        self.c.n_runs += count

    def pages_of(self, kind: RunKind) -> int:
        """Pages of the runs of one kind."""
        return int(lib.pd_pages_of_kind(self.c.runs, len(self), int(kind)))

    def part(self, kinds: Sequence[RunKind], first: int, n_pages: int) -> "RunList":
        """Those of the pages of some kinds that have the numbers [first, first + n_pages) among them, as COPY runs."""
        part = RunList(n_pages)
        lib.pd_part_of_runs(self.c, sum(1 << kind for kind in kinds), first, n_pages, part.c)
        return part

    def split_at_page(self, kind: RunKind, number: int) -> tuple["RunList", "RunList"]:
        """Uses them up: what lies before the page of this number among those of one kind, and it with all behind it."""
        addr = int(lib.pd_address_of_page(self.c.runs, len(self), int(kind), number))
        before, behind = RunList(len(self) + 1), RunList(len(self) + 1)
        position = self.move_out(0, 0, addr, 0, before)
        self.move_out(position, addr, END_ADDR, 0, behind)
        return before, behind

    def change_kind(self, old: RunKind, new: RunKind) -> None:
        """Runs of one kind become runs of another."""
        lib.pd_change_kind(self.c, int(old), int(new))

    def pages_within(self, kind: RunKind, start_addr: int, end_addr: int) -> int:
        """Pages of the runs of one kind in a range of addresses."""
        return int(lib.pd_pages_within(self.c.runs, len(self), int(kind), start_addr, end_addr))

    def ranges(self) -> list[tuple[int, int]]:
        """(start_addr, end_addr) of each run: for short lists only, it is Python work per run."""
        runs = self.c.runs
        return [
            (int(runs[i].start_addr), int(runs[i].start_addr + runs[i].n_pages * PAGE_BYTES)) for i in range(len(self))
        ]

    def move_out(self, first: int, start_addr: int, end_addr: int, delta: int, out: "RunList") -> int:
        """Appends the part in [start_addr, end_addr), moved by `delta`, to `out`, and uses it up.

        `first` is what the call for the range before returned, 0 to begin with; ranges ascend.
        """
        position = ffi.new("uint64_t *", first)
        while lib.pd_move_runs(self.c, position, start_addr, end_addr, delta % (1 << 64), out.c):
            out.reserve(2 * out.capacity)
        return int(position[0])

    def move_all_out(self, out: "RunList") -> None:
        """Appends all of them to `out`."""
        out.reserve(len(out) + len(self))
        ffi.memmove(out.c.runs + len(out), self.c.runs, len(self) * RUN_BYTES)
        out.c.n_runs += len(self)

    def united_with(self, other: "RunList") -> "RunList":
        """All pages of both, as COPY runs."""
        united = RunList(max(1, len(self) + len(other)))
        lib.pd_unite_runs(self.c, other.c, united.c)
        return united

    def without(self, taken: "RunList", kinds: Sequence[RunKind]) -> "RunList":
        """These runs but for the pages that `taken` has in runs of some kinds."""
        rest = RunList(max(1, len(self) + len(taken)))
        lib.pd_subtract_runs(self.c, taken.c, sum(1 << kind for kind in kinds), rest.c)
        return rest

    def only(self, kind: RunKind) -> "RunList":
        """The pages of one kind, as COPY runs."""
        found = RunList(max(1, len(self)))
        lib.pd_part_of_runs(self.c, 1 << kind, 0, ALL_PAGES, found.c)
        return found

    @staticmethod
    def common(lists: Collection["RunList"], least: int) -> "RunList":
        """The pages that at least so many of the lists have, as COPY runs."""
        sweeps = ffi.new("struct pd_sweep[]", [{"runs": one.c.runs, "n_runs": len(one), "next": 0} for one in lists])
        found = RunList(max(1, 2 * sum(map(len, lists))))
        lib.pd_common_runs(sweeps, len(lists), least, found.c)
        return found

    def deferring(self, hot: "Sweep", known: "Sweep", before: "Sweep", deferred: "RunList") -> "RunList":
        """These runs of a scan without the hot pages, which are added to `deferred`; pd_defer says more."""
        room = 2 * (len(self) + hot.runs_left + known.runs_left + before.runs_left) + 1
        settled = RunList(room)
        deferred.reserve(len(deferred) + room)
        lib.pd_defer(self.c, hot.c, known.c, before.c, settled.c, deferred.c)
        return settled

    def changes_since(self, known: "RunList", *, in_doubt: bool) -> tuple["RunList", "RunList"]:
        """What a write watch tells of these runs, the yield of a scan with SpanFlag.WATCH and `known` as covered.

        Returns what changed (COPY runs), and what is known from now on (PARENT runs); pd_find_changes says more.
        """
        room = max(1, 2 * (len(self) + len(known)))
        changed, known_now = RunList(room), RunList(room)
        lib.pd_find_changes(known.c, self.c, in_doubt, changed.c, known_now.c)
        return changed, known_now

    def sweep(self) -> Any:
        """A struct pd_sweep over the runs, from the first on; valid while the list stays as it is."""
        return ffi.new("struct pd_sweep *", {"runs": self.c.runs, "n_runs": len(self), "next": 0})
