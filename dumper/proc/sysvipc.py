"""/proc/sysvipc/shm: the System V shared memory segments of the calling thread's IPC namespace; sysvipc(7)."""

from dataclasses import dataclass
from pathlib import Path

SEGMENTS = Path("/proc/sysvipc/shm")


@dataclass(frozen=True, slots=True)
class SegmentStat:
    """A line of it. `mode` has SHM_DEST and SHM_LOCKED beside the permissions; `attached` counts mappings."""

    key: int
    id: int
    mode: int
    size_bytes: int
    attached: int
    uid: int
    gid: int


def parse_segments(text: str) -> dict[int, SegmentStat]:
    """By their ids; the first line has headings. Raises ValueError, IndexError."""
    found = {}
    for line in text.splitlines()[1:]:
        words = line.split()
        key, number, size_bytes, attached, uid, gid = (int(words[at]) for at in (0, 1, 3, 6, 7, 8))
        found[number] = SegmentStat(
            key=key & 0xFFFFFFFF,
            id=number,
            mode=int(words[2], 8),
            size_bytes=size_bytes,
            attached=attached,
            uid=uid,
            gid=gid,
        )
    return found


def read_segments() -> dict[int, SegmentStat]:
    """Of the calling thread's namespace. Raises OSError: ENOENT without System V IPC."""
    return parse_segments(SEGMENTS.read_text(encoding="ascii"))
