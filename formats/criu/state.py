"""What a round says of its processes beside their pages, in CRIU's image files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.message import Message

from formats.criu.files import FileTable
from formats.criu.framing import Magic, write_messages
from formats.criu.leftout import left_out_of_process, left_out_of_round
from formats.criu.memory import left_out_of_memory, memory_of
from formats.criu.processes import Ids, SeccompTable, inventory, stats, time_namespace, tree_entries
from formats.criu.threads import core_of_thread, core_of_zombie
from formats.errors import ImageCorrupt
from formats.images import Round
from formats.manifest import Missing, Process


def write_state(info: Round, directory: Path) -> list[Missing]:
    """Write all files of a round into a directory but for those of its pages.

    Returns what of the round has no place in them. Raises ImageCorrupt for values that no kernel tells, StorageError.
    """
    try:
        return _StateWriter(info, directory).write()
    except ValueError as error:  # of a message that has no room for a value
        raise ImageCorrupt(
            f"The manifest of round {info.number} has a value that cannot be: {error}.", path=str(info.path)
        ) from error


class _StateWriter:
    """Writes what a round says of its processes."""

    def __init__(self, info: Round, directory: Path) -> None:
        self._manifest = info.manifest
        self._directory = directory
        self._objects = {item.id: item for item in info.manifest.objects}
        self._table = FileTable(info.manifest)
        self._seccomp = SeccompTable()
        self._ids = Ids()
        self._tids = {process.pid for process in info.manifest.processes if process.zombie is not None}
        root = info.process(info.manifest.root_pid)
        assert root is not None  # as every manifest has it
        self._root = root

    def write(self) -> list[Missing]:
        """Returns what is left out; raises ValueError, StorageError."""
        manifest, root = self._manifest, self._root
        left_out = list(left_out_of_round(manifest))
        self._put("inventory.img", Magic.INVENTORY, [inventory(self._ids.of_dumper(root))])
        self._put("pstree.img", Magic.PSTREE, tree_entries(manifest.processes, root.pid))
        for process in manifest.processes:
            self._write_process(process)
            left_out += self._left_out(process)
        self._put("files.img", Magic.FILES, self._table.messages)
        self._put("pipes-data.img", Magic.PIPES_DATA, self._table.pipes())
        self._put("seccomp.img", Magic.SECCOMP, [self._seccomp.message])
        clocks = time_namespace(manifest, root)
        if clocks is not None:
            self._put("timens-0.img", Magic.TIMENS, [clocks])
        self._put("stats-dump", Magic.STATS, [stats(manifest.stats)])
        return left_out

    def _write_process(self, process: Process) -> None:
        pid = process.pid
        if process.zombie is not None:
            self._put(f"core-{pid}.img", Magic.CORE, [core_of_zombie(process, process.zombie.exit_code)])
            return
        ids = self._ids.of_process(process)
        self._put(f"ids-{pid}.img", Magic.IDS, [ids])
        for thread in process.threads:
            if thread.tid in self._tids:
                raise ValueError(f"thread {thread.tid} is of two processes")
            self._tids.add(thread.tid)
            core = core_of_thread(process, thread, ids, self._seccomp.newest_of(process, thread))
            self._put(f"core-{thread.tid}.img", Magic.CORE, [core])
        self._put(f"mm-{pid}.img", Magic.MM, [memory_of(process, self._objects, self._table)])
        self._put(f"fdinfo-{ids.descriptors}.img", Magic.FDINFO, self._table.descriptors(process))
        state = process.state
        if state is not None:
            directories = self._table.directories(state.cwd, state.root, state.umask)
            self._put(f"fs-{pid}.img", Magic.FS, [directories])

    def _left_out(self, process: Process) -> Iterator[Missing]:
        whose = f" of process {process.pid}" if len(self._manifest.processes) > 1 else ""
        for found in (
            left_out_of_process(process, self._root),
            left_out_of_memory(process, self._objects),
            self._table.left_out(process),
        ):
            for item in found:
                yield Missing(what=item.what + whose, reason=item.reason)

    def _put(self, name: str, magic: Magic, messages: Iterable[Message | bytes]) -> None:
        write_messages(self._directory / name, magic, messages)
