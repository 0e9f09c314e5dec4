"""Processes that are made and filled from pre-dumps, while the dump that brings their state is still to come.

What cannot be done ahead is left to the restore of the dump, and what turns out otherwise there is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from dumper.kernel.remote import CallFailed
from dumper.state.process import handles_seccomp
from formats.checkpoint import Checkpoint
from formats.closing import Closing
from formats.manifest import Process
from restorer.checks.abilities import needs, try_out
from restorer.checks.host import Host, look_at_host
from restorer.errors import RestoreFailed
from restorer.events import Tell
from restorer.memory.ahead import MemoryAhead
from restorer.memory.layout import Mapper
from restorer.memory.objects import MemoryObjects
from restorer.plan import Node, Plan, make_plan
from restorer.shell import BOOT_BYTES, Channel, boot_address
from restorer.tree import Tree, TreeOptions

_FIRST_FD = 3


@dataclass(slots=True)
class Family:
    """Processes that are there, still without state; `stack` has what ends them."""

    plan: Plan
    tree: Tree
    channel: Channel
    boot_addr: int
    memories: dict[int, MemoryAhead]
    """By the pid that the image has for the process."""
    stack: ExitStack


class Ahead(Closing):
    """What was made ahead, as of the pre-dumps so far; a context manager: it ends with it unless it was taken over.

    For one OS thread.
    """

    def __init__(self, options: TreeOptions, *, own_session: bool, threads: int, tell: Tell) -> None:
        self._options = options
        self._own_session = own_session
        self._threads = threads
        self._tell = tell
        self._family: Family | None = None
        self._has_failed = False
        self.host: Host | None = None
        """This machine as it was before anything was made; None if nothing was."""

    @property
    def has_family(self) -> bool:
        """Whether there are processes, which have their ids already."""
        return self._family is not None

    def close(self) -> None:
        """End what nobody took over. May be called again."""
        if self._family is not None:
            self._family.stack.close()
            self._family = None

    def prepare(self, images: Checkpoint, number: int) -> int:
        """From a pre-dump: processes, their mappings, their pages; how many pages were written.

        What is not possible is left undone. Raises ImageCorrupt, StorageError.
        """
        if self._has_failed:
            return 0
        try:
            return self._prepare(images, number)
        except (RestoreFailed, CallFailed, ProcessLookupError, TimeoutError, OSError):
            self._has_failed = True
            self.close()
            return 0
        except BaseException:
            self.close()
            raise

    def take(self, plan: Plan, used: Iterable[tuple[int, int]], personality: int) -> Family | None:
        """The family, if it is the one of this plan, without personality, with its boot pages outside of `used`.

        It belongs to the caller then. Otherwise it has ended, and its ids are free. Raises CallFailed,
        ProcessLookupError.
        """
        family = self._family
        if family and not personality and not _overlaps(family.boot_addr, used) and _follow(family, plan):
            self._family = None
            return family
        self.close()
        return None

    def _prepare(self, images: Checkpoint, number: int) -> int:
        info = images.round(number)
        processes = info.manifest.processes
        if any(process.lineage is None for process in processes):
            return 0
        plan = make_plan(processes, info.manifest.root_pid, own_session=self._own_session)
        if self._family is not None and not _follow(self._family, plan):
            self.close()
        if self.host is None:
            self.host = look_at_host()
            list(try_out(needs(info.manifest, same_ids=False), self.host.trials))  # so that the dump need not
        if self._family is None:
            self._family = self._make(plan, processes)
        family = self._family
        n_pages = 0
        with MemoryObjects(info, self._threads, self._tell) as objects:
            for process in processes:
                shell = family.tree.shell(process)
                memory = family.memories.setdefault(process.pid, MemoryAhead(shell, self._threads))
                n_pages += memory.bring(Mapper(shell, process, objects), images, info, process)
        return n_pages

    def _make(self, plan: Plan, processes: Iterable[Process]) -> Family:
        used = sorted((vma.start_addr, vma.end_addr) for process in processes for vma in process.vmas)
        with ExitStack() as stack:
            channel = stack.enter_context(Channel(_FIRST_FD))
            boot_addr = boot_address(used)
            tree = stack.enter_context(Tree(plan, boot_addr, channel, self._options))
            tree.make()
            return Family(plan, tree, channel, boot_addr, {}, stack.pop_all())


def ahead_options(*, same_pids: bool, pid_namespace: bool) -> TreeOptions:
    """For processes of which it is not known yet whether they have seccomp filters."""
    return TreeOptions(same_pids=same_pids, pid_namespace=pid_namespace, suspend_seccomp=handles_seccomp())


def _follow(family: Family, plan: Plan) -> bool:
    """Makes it that of a newer plan, if all that has changed is that processes are gone; else nothing is done."""
    before = family.plan.nodes
    gone = before.keys() - plan.nodes.keys()
    if any(pid not in before or _key(before[pid]) != _key(node) for pid, node in plan.nodes.items()):
        return False
    if any((process := before[pid].process) is None or process.zombie is not None for pid in gone):
        return False
    family.tree.follow(plan, sorted(gone, key=lambda pid: before[pid].depth, reverse=True))
    family.plan = plan
    there = {node.process.pid for node in plan.nodes.values() if node.process is not None}
    for pid in family.memories.keys() - there:
        del family.memories[pid]
    return True


def _key(node: Node) -> tuple[int, int, int, int, int, bool]:
    process = node.process
    return (
        node.parent,
        node.session,
        node.group,
        node.exit_signal,
        process.pid if process else 0,
        process is not None and process.zombie is not None,
    )


def _overlaps(boot_addr: int, used: Iterable[tuple[int, int]]) -> bool:
    return any(start < boot_addr + BOOT_BYTES and boot_addr < end for start, end in used)
