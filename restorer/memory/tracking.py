"""Write tracking of processes from their first instruction on: the next round of their checkpoint is a small one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

from dumper import lease, origins
from dumper.kernel.pages import Scanner, SpanTable
from dumper.kernel.runs import RunList
from dumper.kernel.uffd import TRACKING_FEATURES
from dumper.lease import Chained, ChainState, Lease
from dumper.memory_map import spans_while_running
from dumper.target import Target
from dumper.tracking import AddressSpace, Tracker
from formats.checkpoint import Checkpoint, RoundInfo
from formats.closing import Closing
from formats.errors import UsageError
from formats.manifest import Process
from restorer.memory.userfault import make_userfaultfd
from restorer.shell import Shell


class Tracking(Closing):
    """Userfaultfds of all processes, and the keeper that gets them; a context manager.

    Continuity is claimed for the last round of a checkpoint only: what a later round says belongs to another life.
    """

    def __init__(self, images: Checkpoint, info: RoundInfo) -> None:
        """Raises UsageError if it is not the last round, and what reading the round's lineage raises."""
        if info.number != images.numbers[-1]:
            raise UsageError(
                f"Round {info.number} of {images.path} is not the last one: no round can build on it any more.",
                hint="Restore it without --track, and dump it into another directory.",
                round=info.number,
            )
        self._info = info
        self._full_round = [one.number for one in images.lineage(info.number)][-1]
        self._uffds: list[tuple[Process, Shell, int]] = []
        self._lease: Lease | None = None

    def close(self) -> None:
        """Let go of what is ours; without a commit nobody is tracked. May be called again."""
        for _, _, fd in self._uffds:
            os.close(fd)
        self._uffds.clear()
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    def add(self, shell: Shell, process: Process) -> None:
        """Track a process, while it can make calls for that. Raises RestoreFailed, OSError."""
        self._uffds.append((process, shell, make_userfaultfd(shell, TRACKING_FEATURES)))

    def begin(self) -> None:
        """From now on each write is seen: all that is there is what the round has. Raises OSError, PredumpError."""
        with ExitStack() as stack:
            targets = [stack.enter_context(Target(shell.pid)) for _, shell, _ in self._uffds]
            self._lease = lease.start_keeper(targets[0])
            for target, (_, _, fd) in zip(targets, self._uffds, strict=True):
                _protect(target, fd)
            keys = [(target.pid, target.start_time_ticks) for target in targets]
            self._lease.hold([(key, fd) for key, (_, _, fd) in zip(keys, self._uffds, strict=True)])
            self._note_origins(targets)
            self._lease.commit(
                ChainState(
                    self._info.manifest.checkpoint_id,
                    self._info.number,
                    self._info.sha256,
                    {key: Chained(self._full_round) for key in keys},
                )
            )

    def _note_origins(self, targets: Sequence[Target]) -> None:
        boot_id = self._info.manifest.host.boot_id
        for target, (process, _, _) in zip(targets, self._uffds, strict=True):
            origins.note(target, origins.Origin(process.start_time_ticks, boot_id))


def _protect(target: Target, fd: int) -> None:
    """All its pages count as not written from now on."""
    vmas = Tracker(target, AddressSpace(target), fd).refresh()
    scanner = Scanner(target.pagemap_fd)
    scanner.start(SpanTable(spans_while_running(vmas)), RunList(1), RunList(1))
    scanner.all_runs(RunList(1 << 12), reset=True)
