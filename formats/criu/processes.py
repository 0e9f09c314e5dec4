"""What CRIU's images say of all processes together: pstree, ids, inventory, seccomp, timens, stats-dump."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from formats.criu.images_pb2 import (
    DumpStats,
    Inventory,
    SeccompFilter,
    SeccompFilters,
    SharedIds,
    Stats,
    TimeNamespace,
    Timespec,
    TreeEntry,
)
from formats.manifest import Manifest, Process
from formats.manifest import Stats as StatsRecord
from formats.threadstate import Thread

_IMAGE_VERSION = 2
_NO_NUMBER = (1 << 32) - 1
_NS = 10**9
_NS_PER_US = 1000
_NAMESPACES = {
    "pid": "pid_namespace",
    "net": "net_namespace",
    "ipc": "ipc_namespace",
    "uts": "uts_namespace",
    "mnt": "mnt_namespace",
    "user": "user_namespace",
    "cgroup": "cgroup_namespace",
    "time": "time_namespace",
}


def tree_entries(processes: list[Process], root_pid: int) -> Iterator[TreeEntry]:
    """One for each process, parents first.

    The parent of a process whose parent is none of them is the root. Raises ValueError for values that the messages
    have no room for.
    """
    by_pid = {process.pid: process for process in processes}
    parents = {pid: process.ppid if process.ppid in by_pid else root_pid for pid, process in by_pid.items()}
    parents[root_pid] = 0
    children: dict[int, list[int]] = {}
    for pid, ppid in parents.items():
        children.setdefault(ppid, []).append(pid)
    queue = deque([root_pid])
    while queue:
        pid = queue.popleft()
        yield _tree_entry(by_pid.pop(pid), parents[pid])
        queue += children.get(pid, ())
    # What no path leads to from the root is a circle; no round of predump's has one.
    yield from (_tree_entry(process, root_pid) for process in by_pid.values())


def _tree_entry(process: Process, ppid: int) -> TreeEntry:
    lineage = process.lineage
    tids = [thread.tid for thread in process.threads if thread.tid != process.pid]
    return TreeEntry(
        pid=process.pid,
        ppid=ppid,
        process_group=lineage.process_group if lineage else 0,
        session=lineage.session if lineage else 0,
        tids=[process.pid, *tids],
    )


class Ids:
    """Numbers for what processes may share. Memory, descriptors, directories and dispositions are each one's own."""

    def __init__(self) -> None:
        self._namespaces: dict[tuple[str, int], int] = {}
        self._processes = 1  # 1 is whoever dumps

    def of_process(self, process: Process) -> SharedIds:
        """New ones, but for namespaces that were met before."""
        self._processes += 1
        return self._ids(self._processes, process)

    def of_dumper(self, root: Process) -> SharedIds:
        """Those of whoever dumps: CRIU restores no namespace that is also one of his."""
        return self._ids(1, root)

    def _ids(self, number: int, process: Process) -> SharedIds:
        ids = SharedIds(memory=number, descriptors=number, directories=number, dispositions=number)
        for namespace in process.state.namespaces if process.state else ():
            name = _NAMESPACES.get(namespace.kind)
            if name is not None:
                key = namespace.kind, namespace.inode
                setattr(ids, name, self._namespaces.setdefault(key, len(self._namespaces) + 1))
        return ids


def inventory(root_ids: SharedIds) -> Inventory:
    """Of a dump. It lacks what CRIU asks for before it continues one: nothing tracks the target for it."""
    return Inventory(
        image_version=_IMAGE_VERSION,
        descriptors_per_id=True,
        root_ids=root_ids,
        namespaces_per_id=True,
        security_module=0,
        network_lock_method=0,
    )


class SeccompTable:
    """seccomp.img in the making: each filter once for all threads that have the same ones before it."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, bytes], int] = {}
        self.message = SeccompFilters()
        """What goes into seccomp.img."""

    def newest_of(self, process: Process, thread: Thread) -> int | None:
        """The index of the newest filter of a thread, None if it has none."""
        number = -1
        for position in thread.seccomp_filters if process.state else ():
            assert process.state is not None
            number = self._add(number, process.state.seccomp_filters[position])
        return None if number < 0 else number

    def _add(self, previous: int, program: bytes) -> int:
        key = previous, program
        if key not in self._numbers:
            self._numbers[key] = len(self.message.filters)
            self.message.filters.append(SeccompFilter(program=program, previous=None if previous < 0 else previous))
        return self._numbers[key]


def time_namespace(manifest: Manifest, root: Process) -> TimeNamespace | None:
    """The clocks of the root process at the dump, None where they are not known."""
    if manifest.clocks is None or root.state is None:
        return None
    return TimeNamespace(
        monotonic=_timespec(manifest.clocks.monotonic_ns + root.state.monotonic_offset_ns),
        boottime=_timespec(manifest.clocks.boottime_ns + root.state.boottime_offset_ns),
    )


def _timespec(time_ns: int) -> Timespec:
    return Timespec(s=time_ns // _NS, ns=time_ns % _NS)


def stats(record: StatsRecord) -> Stats:
    """What the dump cost."""

    def us(time_ns: int) -> int:
        return min(max(0, time_ns) // _NS_PER_US, _NO_NUMBER)

    return Stats(
        dump=DumpStats(
            stop_us=us(record.stop_ns),
            frozen_us=us(record.frozen_ns),
            copy_us=us(record.scan_ns + record.copy_ns),
            write_us=us(record.stream_ns),
            pages_scanned=record.pages_present,
            pages_parent=record.pages_parent,
            pages_data=record.pages_data,
            pages_lazy=0,
        )
    )
