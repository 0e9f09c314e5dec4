"""What comes between getting ready and the freeze, so that little is left for it; and how long it will take.

micro-rounds    scan, reset, copy into the staging memory; again while each is clearly smaller
rounds ahead    in their place where processes stand still until the dump has been sent: what is copied is sent, too
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from dumper.convergence import another_micro_round, another_round_ahead
from dumper.destination import Destination
from dumper.dumpedprocesses import DumpedProcesses
from dumper.events import Emit, MicroRound
from dumper.freezeplan import FreezeWish
from dumper.kernel.copy import StagingMemory
from dumper.output import Figures
from dumper.prediction import Pace, Size, forecast
from dumper.processdump import ProcessDump
from dumper.recheck import recheck_with_nothing
from dumper.rounds import unseen_notice
from dumper.sizing import measure_slowness
from dumper.tree import Tree
from dumper.undertaker import Undertaker
from formats.faults import Point, reached
from formats.manifest import FreezeBy

STOP_AND_SCAN_NS = 500_000  # for so long a target still writes after a prediction


class BeforeFreeze:
    """All runs meanwhile. `undertaker` waits for clones to bury, None if there will be none."""

    def __init__(
        self, tree: Tree, processes: DumpedProcesses, memory: StagingMemory, since_ns: int, emit: Emit
    ) -> None:
        """`since_ns`: when the written pages were last reset, CLOCK_MONOTONIC."""
        self.undertaker: Undertaker | None = None
        self._tree = tree
        self._processes = processes
        self._memory = memory
        self._emit = emit
        self._scanned_ns = since_ns
        self._pace = Pace(0, 0, 0, 0)

    def prepare_rechecks(self, destination: Destination, threads: int) -> None:
        """Takes down what earlier rounds hold of processes whose pages may have been written unseen since.

        Raises ParentMissing, ImageCorrupt, StorageError.
        """
        for process in self._processes:
            base, pid = process.member.base, process.member.pid
            if process.recheck or not process.is_in_doubt:
                continue
            if not base.unseen_writers:
                self._emit(unseen_notice(pid, process.unseen_writers))
            if base.is_full:
                process.recheck = recheck_with_nothing()
            else:
                process.recheck = destination.recheck(pid, threads)

    def rounds_ahead(self, take_round: Callable[[], Pace]) -> None:
        """Rounds with everything prepared: the freeze follows on the last one at once, so that little is left to send.

        They take the place of micro-rounds, whose copies would be sent in the freeze.
        """
        history: list[int] = []
        while any(member.tracker for member in self._tree.members) and another_round_ahead(history):
            self._scanned_ns = time.monotonic_ns()
            self._pace = take_round()
            history.append(self._pace.pages_written)
            if another_round_ahead(history):
                self._processes.each_running(ProcessDump.renew_flags)
        self._processes.meet_again()
        self._processes.each_running(ProcessDump.build_on_round)

    def micro_rounds(self, figures: Figures) -> None:
        """Copies into the staging memory: each holds what was written during the one before."""
        history: list[int] = []
        while any(p.member.tracker for p in self._processes) and another_micro_round(history):
            since_ns, last_scanned_ns = time.monotonic_ns(), self._scanned_ns
            self._scanned_ns = since_ns
            history.append(sum(self._processes.while_running(p, p.micro_round) or 0 for p in self._processes))
            reached(Point.MICRO_ROUND)
            stagings = [process.staging for process in self._processes]
            scan_ns, copy_ns = sum(one.scan_ns for one in stagings), sum(one.copy_ns for one in stagings)
            written = history[-1] + sum(one.pages_not_copied for one in stagings)
            copy_ns = copy_ns * written // max(1, history[-1])
            self._pace = Pace(written, since_ns - last_scanned_ns, scan_ns, copy_ns)
            self._emit(
                MicroRound(
                    pid=self._tree.root.pid,
                    pages_written=history[-1],
                    duration_ns=time.monotonic_ns() - since_ns,
                )
            )
            if not all(process.staging.fits for process in self._processes):
                break
        figures.micro_rounds = len(history)

    def prepare_clones(self, wish: FreezeWish, undertaken: ExitStack) -> None:
        """Has somebody ready to bury them, if there will be any."""
        if wish is FreezeWish.COPY:
            return
        processes = list(self._processes)
        plans = [self._processes.while_running(process, partial(process.foresee, wish)) for process in processes]
        if FreezeBy.CLONE in plans:
            undertaker = undertaken.enter_context(Undertaker())
            if undertaker.wait_ready():
                self.undertaker = undertaker
        reached(Point.FORESEEN)

    def predict(self, size: Size) -> int:
        """The frozen time that is to come, in ns."""
        pace = self._pace
        pages = pace.pages_within(time.monotonic_ns() - self._scanned_ns + STOP_AND_SCAN_NS)
        pages += sum(process.staging.pages_not_copied for process in self._processes)
        staged_pages = self._memory.n_pages
        room_pages = self._memory.size_pages - staged_pages
        size = replace(size, room_pages=room_pages, staged_pages=staged_pages, slowness=measure_slowness())
        return forecast(size if self.undertaker else replace(size, clone_ns=None), pace, pages).total_ns
