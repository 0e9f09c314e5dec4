"""Conducts a rewind: a live process gets the memory and the registers that it had in an earlier dump of itself.

    freeze      it stands still
    compare     everything is read, checked and found to be possible: until here nothing is changed
    guard       should we die from here on, the process stops and does not run
    change      mappings, state, pages, files; an error undoes what was done
    let go      registers; what was mapped since is unmapped

A process that was left half way, stopped, can be rewound again like any other.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NoReturn

from dumper import describe, lease
from dumper.dump import wait_until_stopped
from dumper.errors import TargetGone
from dumper.freeze import Freeze
from dumper.kernel.ptrace import O_SUSPEND_SECCOMP
from dumper.kernel.remote import Sys
from dumper.proc import GONE_ERRORS
from dumper.target import Target, gone
from dumper.tracking import TrackingLostError
from formats.chain import MemoryView
from formats.checkpoint import Checkpoint, RoundInfo
from formats.errors import UsageError
from formats.faults import Point, reached
from formats.manifest import RoundKind
from formats.threadstate import Thread
from restorer.blocked import blocked
from restorer.checks import look_at_owner
from restorer.errors import RestoreFailed
from restorer.rewind import state
from restorer.rewind.files import FileSet, set_files
from restorer.rewind.findings import Findings, RewindFailed
from restorer.rewind.guarded import GuardedProcess
from restorer.rewind.mappings import Remapper
from restorer.rewind.plan import Plan, Progress, Then
from restorer.rewind.present import Present
from restorer.rewind.sharing import SharedMode
from restorer.shell import SCRATCH_BYTES, boot_address


@dataclass(frozen=True, slots=True, kw_only=True)
class RewindOptions:
    """How it is put back.

    check: change nothing; stopped: leave it stopped by SIGSTOP; shared: of memory that others may use; trust: whoever
    wrote the image; threads: that decompress.
    """

    check: bool = False
    trust: bool = False
    stopped: bool = False
    shared: SharedMode = SharedMode.ALONE
    threads: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewound:
    """What was done, or, with `check`, what would be.

    stopped: it does not run: so it was wanted, or it was stopped before; pages_put_back: that differed; mappings_added,
    mappings_removed: parts of mappings; left: what stays as it is; frozen_ns: for how long it stood still; changing_ns:
    of that, from its first change on.
    """

    round: int
    pid: int
    changed: bool
    stopped: bool
    pages_put_back: int
    mappings_added: int
    mappings_removed: int
    left: list[str] = field(default_factory=list)
    frozen_ns: int
    changing_ns: int


def _no_progress(_done: int, _total: int) -> None:
    pass


def rewind(
    images: Checkpoint, number: int | None, pid: int, options: RewindOptions, on_progress: Progress = _no_progress
) -> Rewound:
    """Puts process `pid` back to a dump round, the last one by default.

    Raises UsageError for a round that is no dump or does not have it; TargetGone if it is not the one that was dumped
    any more; PermissionDenied, TargetUntraceable, TargetTracked, TargetBusy; RewindRefused; NotTrusted; ImageCorrupt,
    ParentMissing, ImageVersionUnsupported, StorageError: in each case it goes on untouched. RewindFailed says how it
    was left.
    """
    info = _dump_round(images, number)
    if not options.trust:
        look_at_owner(images, info.number).demand()
    then = _then(images, info, pid)
    try:
        with (
            Target(pid) as target,
            lease.exclusive(target),
            MemoryView(images, info.number, pid) as view,
        ):
            if target.start_time_ticks != then.process.start_time_ticks:
                raise _another(pid, info.number)
            with Present(target) as present:
                return _Rewind(present, then, view, options, on_progress).run()
    except (TrackingLostError, *GONE_ERRORS):
        raise gone(pid) from None


def _dump_round(images: Checkpoint, number: int | None) -> RoundInfo:
    if number is None and images.selected == images.numbers[-1]:
        dumps = (one for one in reversed(images.numbers) if images.outline(one).manifest.kind is RoundKind.DUMP)
        number = next(dumps, None)
    info = images.round(number)
    if info.manifest.kind is not RoundKind.DUMP:
        raise UsageError(
            f"Round {info.number} of {images.path} is a pre-dump: it has no threads and no open files.",
            hint="Rewind to a round that 'predump dump' took.",
            round=info.number,
        )
    return info


def _then(images: Checkpoint, info: RoundInfo, pid: int) -> Then:
    process = info.process(pid)
    if process is None or process.state is None:
        raise UsageError(
            f"Round {info.number} of {images.path} has no process {pid}.",
            hint="A process can be put back to a dump of itself only; 'predump restore' makes new ones.",
            pid=pid,
            round=info.number,
        )
    manifest = info.manifest
    if manifest.host.boot_id != describe.host().boot_id:
        raise _another(pid, info.number)
    files = FileSet.of(manifest.open_files, manifest.pipes, process.state.descriptors)
    return Then(info, process, process.state, files)


def _another(pid: int, number: int) -> TargetGone:
    return TargetGone(
        f"process {pid} is not the one that round {number} is of: that one has ended, and its pid was given away",
        hint="'predump restore' makes a new process of the round.",
        pid=pid,
        round=number,
    )


class _Rewind:
    """One rewind of one process, from the freeze on. For one OS thread: it owns ptrace."""

    def __init__(
        self, present: Present, then: Then, view: MemoryView, options: RewindOptions, on_progress: Progress
    ) -> None:
        self._present = present
        self._then = then
        self._view = view
        self._options = options
        self._on_progress = on_progress
        self._changing_ns = 0
        self._left: list[str] = []

    def run(self) -> Rewound:
        present, then, options = self._present, self._then, self._options
        freeze = Freeze(present.target, optional=O_SUSPEND_SECCOMP)
        with freeze:
            (stopped,) = freeze.processes
            present.look(stopped)
            with Plan(present, then, options.shared, Findings()) as plan:
                plan.compare_state()
                self._refuse(plan)
                plan.compare_pages(self._view, options.threads, self._on_progress)
                self._refuse(plan)
                reached(Point.REWIND_PLANNED)
                self._left += plan.findings.left
                if not options.check:
                    with blocked(signal.valid_signals()):  # they wait until the process is whole
                        self._change(plan)
        is_stopped = stopped.threads.in_stop or (options.stopped and not options.check)
        if is_stopped:
            wait_until_stopped([present.target.pid])
        return Rewound(
            round=then.info.number,
            pid=present.target.pid,
            changed=not options.check,
            stopped=is_stopped,
            pages_put_back=plan.changes.n_pages,
            mappings_added=len(plan.mappings.added),
            mappings_removed=len(plan.mappings.removed),
            left=self._left,
            frozen_ns=freeze.frozen_ns,
            changing_ns=self._changing_ns,
        )

    def _refuse(self, plan: Plan) -> None:
        plan.findings.refuse(self._present.target.pid, self._then.info.number)

    def _change(self, plan: Plan) -> None:
        present, then = self._present, self._then
        used = [(one.mapping.start_addr, one.mapping.end_addr) for one in present.vmas]
        used += [(vma.start_addr, vma.end_addr) for vma in then.process.vmas]
        since_ns = time.monotonic_ns()
        with GuardedProcess(present, boot_address(used)) as process:
            plan.place.write_to = process.write
            undo = ExitStack()
            try:
                undo.callback(self._set_registers, process, present.threads, lambda thread: thread.registers)
                undo.callback(_remove_scratch, process)
                process.guard()
                self._carry_out(plan, process, undo)
            except (OSError, RestoreFailed) as error:
                self._undo(process, undo, error)
            self._finish(plan, process)
        self._changing_ns = time.monotonic_ns() - since_ns

    def _carry_out(self, plan: Plan, process: GuardedProcess, undo: ExitStack) -> None:
        """All that can be undone. Raises OSError, RestoreFailed."""
        now, then = self._present, self._then
        states = now.state, then.state
        threads = now.threads, then.process.threads
        remapper = Remapper(process, plan.mappings, undo)
        remapper.prepare()
        reached(Point.REWIND_MAPPED)
        state.set_process(process, *states, undo)
        state.set_threads(process, *threads, undo)
        set_files(process, plan.files_now, plan.files_then, undo)
        plan.changes.make(process.calls, undo)
        remapper.finish()
        reached(Point.REWIND_WRITTEN)
        state.set_signals_and_timers(process, states, threads, undo)

    def _finish(self, plan: Plan, process: GuardedProcess) -> None:
        """What cannot be undone. Raises TargetGone."""
        try:
            self._left += Remapper(process, plan.mappings, ExitStack()).remove()
            _remove_scratch(process)
            self._set_registers(process, self._then.process.threads, state.registers_then)
            process.let_go(stopped=self._options.stopped)
        except ProcessLookupError:
            raise gone(self._present.target.pid) from None

    def _undo(self, process: GuardedProcess, undo: ExitStack, error: Exception) -> NoReturn:
        """Makes it as it was before the first change, and lets it go. Raises RewindFailed, TargetGone."""
        pid = self._present.target.pid
        try:
            undo.close()
            process.let_go(stopped=False)
        except ProcessLookupError:
            raise gone(pid) from None
        except (OSError, RestoreFailed) as second:
            raise RewindFailed(
                f"process {pid} could not be put back ({error}), nor made as it was ({second}): it is stopped half way",
                hint="Rewind it again, to this round or to another one, or kill it: it makes no sense as it is.",
                pid=pid,
            ) from error
        raise RewindFailed(
            f"process {pid} could not be put back: {error}",
            hint="It goes on as it was.",
            pid=pid,
        ) from error

    @staticmethod
    def _set_registers(
        process: GuardedProcess, threads: Sequence[Thread], registers: Callable[[Thread], dict[str, int]]
    ) -> None:
        process.set_threads([(thread, registers(thread)) for thread in threads])


def _remove_scratch(process: GuardedProcess) -> None:
    process.call(Sys.MUNMAP, process.scratch_addr, SCRATCH_BYTES)
