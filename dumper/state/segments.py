"""What /proc/sysvipc/shm says of the segments that processes have attached, each in its IPC namespace."""

import os
import threading
from contextlib import suppress
from pathlib import Path

from dumper.kernel import files
from dumper.proc.sysvipc import SegmentStat, read_segments
from formats.manifest import Segment


class SegmentTables:
    """Of all IPC namespaces that come up, each read once."""

    def __init__(self) -> None:
        self._tables: dict[int, dict[int, SegmentStat]] = {}

    def of(self, tid: int, number: int) -> Segment | None:
        """The segment with this id in the namespace of a thread; None if it cannot be seen (CAP_SYS_ADMIN)."""
        with suppress(OSError):
            path = Path(f"/proc/{tid}/ns/ipc")
            inode = path.stat().st_ino
            if inode not in self._tables:
                is_ours = inode == Path("/proc/self/ns/ipc").stat().st_ino
                self._tables[inode] = _read() if is_ours else _read_of(path)
            stat = self._tables[inode].get(number)
            if stat is not None:
                return Segment(
                    key=stat.key,
                    size_bytes=stat.size_bytes,
                    mode=stat.mode,
                    uid=stat.uid,
                    gid=stat.gid,
                    attached=stat.attached,
                )
        return None


def _read() -> dict[int, SegmentStat]:
    with suppress(OSError, ValueError, IndexError):
        return read_segments()
    return {}


def _read_of(path: Path) -> dict[int, SegmentStat]:
    """By a thread that ends there: ours stay where they are."""
    found: dict[int, SegmentStat] = {}

    def read() -> None:
        with suppress(OSError):
            files.join_namespace(namespace_fd)
            found.update(_read())

    namespace_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(RuntimeError):
            thread = threading.Thread(target=read)
            thread.start()
            thread.join()
    finally:
        os.close(namespace_fd)
    return found
