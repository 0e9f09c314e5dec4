"""Conducts a restore: from a dump round to processes that run.

    shells      bare processes with their ids
    memory      mappings, pages, boundaries
    threads     and what is theirs
    files       what is open
    rest        signals, timers, directories, limits
    who         credentials and filters: nothing that needs the caller's privileges comes after
    go          registers, and they are let go

Until the last step everything is ours and ends with us: a restore that fails leaves nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from dumper.kernel.remote import CallFailed, Sys
from dumper.proc.status import read_thread_status
from dumper.state.threads import credentials
from formats.chain import MemoryView
from formats.checkpoint import Checkpoint
from formats.closing import Closing
from formats.errors import UsageError
from formats.faults import Point, reached
from formats.manifest import Process, RoundKind
from formats.processstate import ProcessState
from restorer import surroundings, threads, timers
from restorer.ahead import Ahead
from restorer.blocked import blocked
from restorer.checks import CheckOptions, Findings, check_restore
from restorer.clocks import shown_to
from restorer.credentials import set_credentials, set_dumpable, set_seccomp
from restorer.errors import RestoreFailed
from restorer.events import Restored, Tell
from restorer.files.choices import FileChoices
from restorer.files.control import foreground_pid, has_lost_terminal
from restorer.files.openfiles import OpenFiles
from restorer.memory.ahead import MemoryAhead
from restorer.memory.boundaries import set_boundaries
from restorer.memory.fill import fill
from restorer.memory.layout import Mapper
from restorer.memory.lazy.server import Lazy, start_server
from restorer.memory.objects import MemoryObjects
from restorer.memory.tracking import Tracking
from restorer.memory.userfault import make_lazy
from restorer.memory.vdso import map_kernel_pages
from restorer.plan import make_plan
from restorer.shell import Channel, Shell, boot_address
from restorer.signals import queue_for_process, queue_for_thread, set_dispositions
from restorer.tree import Tree, TreeOptions

READ_IMPLIES_EXEC = 0x0400000  # personality(2): it would change mappings that are made


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """How they come back.

    same_pids: with the ids that they had; pid_namespace: in a new pid namespace, where all ids are free;
    time_namespace: in a new time namespace, where clocks that count from the boot go on from where they were;
    own_session: what had its session outside of the tree gets one of its own instead of the caller's, so that it
    outlives that; stopped: left stopped by SIGSTOP; lazy: they run before their pages are there, which another
    process brings; track: their writes are tracked for the next round of the checkpoint; trust: whoever wrote the
    image; threads: that decompress and fill; files: choices about what is open.
    """

    same_pids: bool = True
    pid_namespace: bool = False
    time_namespace: bool = False
    own_session: bool = False
    stopped: bool = False
    lazy: bool = False
    trust: bool = False
    track: bool = False
    threads: int = 2
    files: FileChoices = field(default_factory=FileChoices)


@dataclass(slots=True)
class _Member:
    """A process on its way."""

    process: Process
    state: ProcessState
    shell: Shell

    def new_tids(self) -> dict[int, int]:
        """The id that each thread has for itself, by the one that it had."""
        return {threads.own_tid(thread): self.shell.own_tids[thread.tid] for thread in self.process.threads}


class Restoration(Closing):
    """Processes that are being made; a context manager: what was not let go by `release` ends with it.

    For one OS thread.
    """

    def __init__(
        self,
        images: Checkpoint,
        number: int | None,
        options: RestoreOptions,
        tell: Tell,
        *,
        ahead: Ahead | None = None,
    ) -> None:
        """`ahead` has what was made from earlier rounds of the same images.

        Raises UsageError for a round that is no dump, ImageCorrupt, ImageVersionUnsupported, StorageError."""
        self._images = images
        self._info = images.round(number)
        self._manifest = self._info.manifest
        self._options = options
        self._tell_one = tell
        self._stack = ExitStack()
        self._members: list[_Member] = []
        self._pages_filled = 0
        self._memory_ns = 0
        self._ahead = ahead
        self._memories: dict[int, MemoryAhead] = {}
        self._tree: Tree
        self._files: OpenFiles
        self._objects: MemoryObjects
        self._lazy: list[Lazy] = []
        self._server_waits = ExitStack()
        if self._manifest.kind is not RoundKind.DUMP:
            raise UsageError(
                f"Round {self._info.number} of {images.path} is a pre-dump: it has no threads and no open files.",
                hint="Restore a round that 'predump dump' or 'predump run' took at its end.",
                round=self._info.number,
            )

        self._tracking = self._stack.enter_context(Tracking(images, self._info)) if options.track else None

    @property
    def pids(self) -> list[int]:
        """Of the processes, as we see them; the root first."""
        return [member.shell.pid for member in self._members]

    def close(self) -> None:
        """End what was not let go. May be called again."""
        for one in self._lazy:
            os.close(one.uffd)
        self._lazy.clear()
        self._stack.close()
        self._server_waits.close()

    def check(self) -> Findings:
        """All that speaks against it, outside of the image as well. Raises ImageCorrupt, StorageError."""
        options = self._options
        has_ids = self._ahead is not None and self._ahead.has_family
        return check_restore(
            self._images,
            self._info.number,
            CheckOptions(
                same_pids=options.same_pids and not has_ids,
                pid_namespace=options.pid_namespace,
                time_namespace=options.time_namespace,
                own_session=options.own_session,
                trust=options.trust,
                files=options.files,
            ),
            self._ahead.host if self._ahead else None,
        )

    def build(self) -> None:
        """Make everything; it stands still.

        Raises NotTrusted and CannotRestore before anything is made; RestoreFailed, ImageCorrupt, StorageError.
        """
        findings = self.check()
        findings.demand()
        self._tell([one.message.rstrip(".") for one in findings.warnings])
        with _failures():
            objects = MemoryObjects(self._info, self._options.threads, self._tell_one)
            self._objects = self._stack.enter_context(objects)
            self._make_shells()
            start_ns = time.monotonic_ns()
            for member in self._members:
                self._build_memory(member, objects)
            if self._lazy:
                made_fd = start_server(self._images, self._info.number, self._lazy, self._options.threads)
                self._lazy.clear()
                self._server_waits.callback(os.close, made_fd)
            self._memory_ns = time.monotonic_ns() - start_ns
            for member in self._members:
                self._build_threads(member)
            self._open_files(objects)
            for member in self._members:
                self._build_rest(member)
            objects.seal()
            for member in self._members:
                member.shell.call(Sys.CLOSE, member.shell.channel.fd)
            for member in self._members:
                self._set_credentials(member)
            reached(Point.RESTORE_BUILT)
            for member in self._members:
                timers.arm_timers(member.shell, member.state.posix_timers, member.state.interval_timers)

    def release(self, started_ns: int) -> Restored:
        """Let all of them go; `started_ns` is when the restore began (CLOCK_MONOTONIC). Raises RestoreFailed."""
        start_ns = time.monotonic_ns()
        with _failures():
            for member in self._members:
                member.shell.leave_boot_pages()
                for thread in member.process.threads:
                    threads.let_registers_be(member.shell, thread)
            if self._tracking:
                self._tracking.begin()
            reached(Point.RESTORE_SET)
            self._files.release()
            stopped = [one for one in self._members if self._options.stopped or one.state.stopped]
            with blocked(signal.valid_signals()):  # what is begun here is done
                self._tree.let_go({member.shell.pid for member in stopped})
                self._server_waits.close()
                self._objects.keep()
                self._files.keep()
            reached(Point.RESTORED)
        now_ns = time.monotonic_ns()
        return Restored(
            round=self._info.number,
            pids=self.pids,
            pages_filled=self._pages_filled,
            duration_ns=now_ns - started_ns,
            memory_ns=self._memory_ns,
            resume_ns=now_ns - start_ns,
        )

    @property
    def waited_for(self) -> int:
        """The caller's child that ends when the root process does, and with its status; known when they are built."""
        return self._tree.waited_for

    @property
    def job(self) -> int:
        """The process whose group is to have the caller's terminal, where they are of one session."""
        wanted = foreground_pid(self._manifest)
        return next(member.shell.pid for member in self._members if member.process.pid == wanted)

    def _make_shells(self) -> None:
        processes = [item for item in self._manifest.processes if item.zombie is None]
        used = [(vma.start_addr, vma.end_addr) for item in processes for vma in item.vmas]
        fds = [one.fd for item in processes if item.state for one in item.state.descriptors]
        channel_fd = max(fds, default=2) + 1
        options = self._options
        as_job = options.files.tty and not options.own_session and has_lost_terminal(self._manifest)
        root_pid = self._manifest.root_pid
        plan = make_plan(self._manifest.processes, root_pid, own_session=options.own_session, as_job=as_job)
        states = {item.pid: state_of(item) for item in processes}
        personality = states[self._manifest.root_pid].personality & ~READ_IMPLIES_EXEC
        family = self._ahead.take(plan, used, personality) if self._ahead else None
        if family is not None:
            self._stack.push(family.stack)
            self._tree, self._memories = family.tree, family.memories
            self._tree.move_channel(channel_fd)
        else:
            tree_options = TreeOptions(
                same_pids=options.same_pids,
                pid_namespace=options.pid_namespace,
                suspend_seccomp=any(state.seccomp_filters for state in states.values()),
                personality=personality,
                clocks=shown_to(states[self._manifest.root_pid], self._manifest) if options.time_namespace else None,
            )
            channel = self._stack.enter_context(Channel(channel_fd))
            self._tree = self._stack.enter_context(Tree(plan, boot_address(sorted(used)), channel, tree_options))
            self._tree.make()
        self._tell(self._tree.refused)
        alive = (node.process for node in plan.processes() if node.process is not None)
        for process in alive:
            if process.zombie is None:
                shell = self._tree.shell(process)
                self._members.append(_Member(process, states[process.pid], shell))
        reached(Point.RESTORE_SHELLS)

    def _build_memory(self, member: _Member, objects: MemoryObjects) -> None:
        mapper = Mapper(member.shell, member.process, objects)
        memory = self._memories.get(member.process.pid)
        if memory is not None:
            self._pages_filled += memory.bring(mapper, self._images, self._info, member.process)
        else:
            mapper.map_all()
            self._fill(member)
        if self._tracking:
            self._tracking.add(member.shell, member.process)
        mapper.finish()
        self._tell([set_boundaries(member.shell, member.process, member.state)])

    def _fill(self, member: _Member) -> None:
        with MemoryView(self._images, self._info.number, member.process.pid) as view, ExitStack() as stack:
            map_kernel_pages(member.shell, member.process, view)
            options = self._options
            if options.lazy:
                self._lazy.append(make_lazy(member.shell, member.process))
            rounds = self._images.levels_of(member.process, self._info.number)
            levels = [stack.enter_context(level) for level in rounds]
            self._pages_filled += fill(member.shell, view, levels, options.threads, is_lazy=options.lazy)

    def _build_threads(self, member: _Member) -> None:
        member.shell.name_leader(member.process.pid)
        for thread in member.process.threads:
            if thread.tid != member.process.pid:
                self._tree.add_thread(member.shell, thread.tid, threads.own_tid(thread))
        for thread in member.process.threads:
            self._tell(threads.set_thread(member.shell, thread))
            if not self._options.same_pids:
                threads.renumber(member.shell, thread)

    def _open_files(self, objects: MemoryObjects) -> None:
        """Before limits are set, which may be below the descriptors that a process has."""
        shells = {member.process.pid: member.shell for member in self._members}
        ids = {tid: one.tid for shell in shells.values() for tid, one in shell.threads.items()}
        files = OpenFiles(self._manifest, objects, self._options.files, self._tell_one)
        self._files = self._stack.enter_context(files)
        files.open_all(ids | {pid: shell.pid for pid, shell in shells.items()})
        for member in self._members:
            files.hand_to(member.shell, member.process)
        files.finish(shells)

    def _build_rest(self, member: _Member) -> None:
        shell, state = member.shell, member.state
        set_dispositions(shell, state.dispositions)
        timers.make_timers(shell, state.posix_timers, member.new_tids())
        for thread in member.process.threads:
            remote = shell.threads[thread.tid]
            queue_for_thread(shell, remote, shell.own_pid, shell.own_tids[thread.tid], thread.pending)
        queue_for_process(shell, shell.own_pid, state.pending)
        shell.call(Sys.PERSONALITY, state.personality)
        self._tell(surroundings.set_proc_files(shell.pid, state))
        self._tell(surroundings.set_prctls(shell, state))
        self._tell(surroundings.set_limits(shell, state))
        surroundings.set_directories(shell, state)

    def _set_credentials(self, member: _Member) -> None:
        shell, state = member.shell, member.state
        has = credentials(read_thread_status(shell.pid))
        is_orphan = self._options.own_session and member.process.pid == self._manifest.root_pid
        for thread in member.process.threads:
            wanted = thread.credentials or state.credentials
            remote = shell.threads[thread.tid]
            set_credentials(shell, remote, has, wanted, state.prctl.get("securebits", 0))
            threads.set_parent_death_signal(shell, thread, is_orphan=is_orphan)
            set_seccomp(shell, remote, thread, state.seccomp_filters, wanted.no_new_privs)
        set_dumpable(shell, state.prctl.get("dumpable", 1))

    def _tell(self, differences: list[str]) -> None:
        for what in filter(None, differences):
            self._tell_one(what)


def state_of(process: Process) -> ProcessState:
    """Raises RestoreFailed if the image does not have it."""
    if process.state is None:
        raise RestoreFailed(f"The image does not have the state of process {process.pid}.", pid=process.pid)
    if all(thread.tid != process.pid for thread in process.threads):
        raise RestoreFailed(
            f"The main thread of process {process.pid} had ended before the others, and cannot be made like that.",
            pid=process.pid,
        )
    return process.state


@contextmanager
def _failures() -> Iterator[None]:
    """What the kernel refuses becomes an error of ours."""
    try:
        yield
    except CallFailed as error:
        raise RestoreFailed(
            f"The kernel refused what a process needs to come back: {error}.",
            hint="Nothing was left behind. Run it with the privileges that the process had.",
            errno=error.errno or 0,
        ) from error
    except (ProcessLookupError, TimeoutError) as error:
        raise RestoreFailed(
            f"A process that was being restored was ended by somebody else, or did not answer: {error}.",
            hint="Nothing was left behind; try again.",
        ) from error
