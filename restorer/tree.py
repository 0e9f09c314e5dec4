"""The processes of a plan, made one by another while they are blank."""

from __future__ import annotations

import errno
import itertools
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from dumper.kernel.remote import CallFailed, RemoteThread, Sys, adopt_orphans, detach
from formats.closing import Closing
from formats.manifest import Process
from restorer.clocks import Readings, offsets_to_go_on
from restorer.errors import RestoreFailed
from restorer.freepids import wait_until_free, when_free
from restorer.plan import OUTSIDE, Do, Plan, Step
from restorer.shell import PR_SET_NAME, WALL, Channel, Shell

CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
PR_SET_CHILD_SUBREAPER = 36
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 1 << 18
SIG_DFL, SIG_IGN = 0, 1
_SIGSET_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOptions:
    """same_pids: the ids that they had; pid_namespace: in a new one, where all are free; personality: of the first;
    clocks: what they are to show at first in a new time namespace, None without one.
    """

    same_pids: bool = True
    pid_namespace: bool = False
    suspend_seccomp: bool = False
    personality: int = 0
    clocks: Readings | None = None


class Tree(Closing):
    """All processes of a plan; a context manager: they end with the block unless let go. For one OS thread."""

    def __init__(self, plan: Plan, boot_addr: int, channel: Channel, options: TreeOptions) -> None:
        self._plan = plan
        self._options = options
        self._channel = channel
        self._boot_addr = boot_addr
        self._adopted_before = adopt_orphans(True)
        self._shells: dict[int, Shell] = {}
        self._init: Shell | None = None
        self._has_let_go = False
        self._spare_ids = itertools.count(max(plan.ids()) + 1)
        self.refused: list[str] = []
        """What the caller may not have, in words."""

    def close(self) -> None:
        """End all that were not let go, and wait until they are gone. May be called again."""
        # The first of a pid namespace ends when all others are gone and waited for, so it comes last.
        shells = [*([self._init] if self._init else []), *self._shells.values()]
        self._shells = {}
        self._init = None
        for shell in reversed(shells):
            shell.close()
        for shell in (
            () if self._has_let_go else shells
        ):  # those whose parent was gone before it could wait for them are ours
            with suppress(ChildProcessError):
                os.waitpid(shell.pid, WALL)
        adopt_orphans(self._adopted_before)

    def make(self) -> None:
        """All processes, with their sessions and groups, and what the ended ones left.

        Raises RestoreFailed, CallFailed, OSError.
        """
        if self._options.same_pids and not self._options.pid_namespace:
            wait_until_free(self._plan.ids())
        self._make_root()
        for step in self._plan.steps:
            self._do(step)
        self._end_zombies()

    def shell(self, process: Process) -> Shell:
        """The process that is made for one of the image that is not a zombie."""
        return next(
            self._shells[pid]
            for pid, node in self._plan.nodes.items()
            if node.process is not None and node.process.pid == process.pid
        )

    def follow(self, plan: Plan, gone: Sequence[int] = ()) -> None:
        """A newer plan, of the same processes but for those that are `gone`, children before their parents.

        Who had made these knows nothing of it. Raises CallFailed, ProcessLookupError.
        """
        for pid in gone:
            node = self._plan.nodes[pid]
            self._leave(pid)
            if node.exit_signal:
                _forget_signal(self._shells[node.parent], node.exit_signal)
        self._plan = plan

    def move_channel(self, fd: int) -> None:
        """To a number that no process of the image uses. Raises CallFailed."""
        if fd == self._channel.fd:
            return
        for shell in [*self._shells.values(), *([self._init] if self._init else [])]:
            shell.call(Sys.DUP3, self._channel.fd, fd, 0)
            shell.call(Sys.CLOSE, self._channel.fd)
        self._channel.fd = fd

    def add_thread(self, shell: Shell, tid: int, own_tid: int) -> None:
        """Another thread, the image's `tid`, which was `own_tid` to itself. Raises RestoreFailed, CallFailed."""
        when_free(own_tid, lambda: shell.add_thread(tid, self._ids(own_tid)))

    @property
    def waited_for(self) -> int:
        """The process that ends with the root, and is the caller's child."""
        return self._init.pid if self._init else self._shells[self._plan.root].pid

    def let_go(self, stopped: set[int]) -> None:
        """All go on, those in `stopped` (as we see them) with SIGSTOP. The caller has set their registers.

        No signal may interrupt it.
        """
        if self._init is not None:
            self._init.run_init(self._shells[self._plan.root].own_pid)
        threads: list[RemoteThread] = []
        signals: list[int] = []
        everybody = [*([self._init] if self._init else []), *self._shells.values()]
        self._has_let_go = True
        for shell in everybody:
            of_shell = shell.disown()
            threads += of_shell
            signals += [signal.SIGSTOP if shell.pid in stopped else 0] * len(of_shell)
        detach(threads, signals)

    def _ids(self, number: int) -> list[int]:
        return [number] if self._options.same_pids else []

    def _make_root(self) -> None:
        root = self._plan.root
        first = root if not self._options.pid_namespace else 1
        flags = CLONE_NEWPID | CLONE_NEWNS if self._options.pid_namespace else 0
        shell = when_free(first, lambda: self._spawn(first, flags))
        if self._options.pid_namespace:
            self._mount_proc(shell)
            if root != first:
                self._init = shell
                self._shells[root] = shell.fork(self._ids(root), signal.SIGCHLD)
                return
        self._shells[root] = shell

    def _spawn(self, own_pid: int, clone_flags: int) -> Shell:
        try:
            return Shell.first(
                self._ids(own_pid),
                self._boot_addr,
                self._channel,
                clone_flags=clone_flags,
                personality=self._options.personality,
                time_offsets=offsets_to_go_on(self._options.clocks) if self._options.clocks else "",
                suspend_seccomp=self._options.suspend_seccomp,
            )
        except OSError as error:
            if error.errno != errno.ERANGE:
                raise
            raise RestoreFailed("The clocks of the image show what no clock here can.") from error

    def _mount_proc(self, shell: Shell) -> None:
        """/proc of the new namespace, which nobody outside sees."""
        root_addr, name_addr = shell.put(b"/\0"), shell.put(b"proc\0", 16)
        place_addr = shell.put(b"/proc\0", 32)
        try:
            shell.call(Sys.MOUNT, 0, root_addr, 0, MS_REC | MS_PRIVATE, 0)
            shell.call(Sys.MOUNT, name_addr, place_addr, name_addr, MS_NOSUID | MS_NODEV | MS_NOEXEC, 0)
        except CallFailed as error:
            self.refused.append(f"/proc, which shows the processes outside of the pid namespace ({error.strerror})")

    def _do(self, step: Step) -> None:
        match step.do:
            case Do.FORK:
                self._shells[step.pid] = self._fork(self._shells[step.other], step.pid)
            case Do.ADOPT:
                self._adopt(step.pid, self._shells[step.other])
            case Do.LEAD_SESSION:
                self._shells[step.pid].call(Sys.SETSID)
            case Do.JOIN_GROUP:
                self._shells[step.pid].call(Sys.SETPGID, 0, self._shells[step.other].own_pid)
            case Do.LEAVE:
                self._leave(step.pid)

    def _fork(self, parent: Shell, pid: int) -> Shell:
        exit_signal = self._plan.nodes[pid].exit_signal
        return when_free(pid, lambda: parent.fork(self._ids(pid), exit_signal))

    def _adopt(self, pid: int, giver: Shell) -> None:
        reaper = self._shells[self._plan.nodes[pid].parent]
        reaper.call(Sys.PRCTL, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with self._fork_passing(giver) as passing:
            self._shells[pid] = self._fork(passing, pid)
            passing.end(0)
            self._reap(passing, giver)
        reaper.call(Sys.PRCTL, PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def _fork_passing(self, giver: Shell) -> Shell:
        """With an id that nobody else is to have."""
        for number in self._spare_ids:
            try:
                return giver.fork(self._ids(number), 0)
            except FileExistsError:
                continue
        raise AssertionError("numbers do not end")

    def _leave(self, pid: int) -> None:
        self._end(pid, 0)
        with self._shells.pop(pid) as shell:
            self._reap(shell, self._shells[self._plan.nodes[pid].parent])

    def _reap(self, ended: Shell, parent: Shell) -> None:
        parent.call(Sys.WAIT4, ended.own_pid, 0, WALL, 0)

    def _end(self, pid: int, status: int) -> None:
        try:
            self._shells[pid].end(status)
        except ValueError as error:
            raise RestoreFailed(f"Process {pid} of the image has ended with status {status:#x}: {error}.") from error

    def _end_zombies(self) -> None:
        """They end as they did, and their parents, who know nothing of it yet, get no signal for it."""
        told: set[tuple[int, int]] = set()
        for pid, node in self._plan.nodes.items():
            if node.process is not None and node.process.zombie is not None:
                shell = self._shells[pid]
                shell.call(Sys.PRCTL, PR_SET_NAME, shell.put(os.fsencode(node.process.name) + b"\0"))
                self._end(pid, node.process.zombie.exit_code)
                told.add((node.parent, node.exit_signal))
        for parent, number in told:
            if parent != OUTSIDE and number:
                _forget_signal(self._shells[parent], number)


def _forget_signal(shell: Shell, number: int) -> None:
    """One that waits is dropped when it comes to be ignored: rt_sigaction(2)."""
    for handler in (SIG_IGN, SIG_DFL):
        addr = shell.put(handler.to_bytes(8, "little") + bytes(24))
        shell.call(Sys.RT_SIGACTION, number, addr, 0, _SIGSET_BYTES)
