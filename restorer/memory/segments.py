"""Segments of System V shared memory, made again with their ids and keys in the caller's IPC namespace.

the same segment, and nobody has it attached    its contents are put back
a segment with its id or key, otherwise         refused: it is somebody else's, or in use
none                                            made anew
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from dumper.kernel.segments import (
    HUGE_SHIFT,
    IPC_CREAT,
    IPC_EXCL,
    IPC_PRIVATE,
    SHM_HUGETLB,
    AttachedSegment,
    lock_segment,
    make_segment,
    own_segment,
    remove_segment,
)
from dumper.proc.sysvipc import SegmentStat, read_segments
from formats.closing import Closing
from formats.layout import PAGE_BYTES
from formats.manifest import SHM_DEST, SHM_LOCKED, MemoryObject, Segment
from restorer.errors import RestoreFailed
from restorer.events import Tell
from restorer.memory import hugepages

NEXT_ID = Path("/proc/sys/kernel/shm_next_id")
_PERMISSIONS = 0o777
_TRIES = 10  # somebody else may make a segment at the same moment


def segment_of(held: MemoryObject) -> Segment:
    """Raises RestoreFailed if the image does not have it."""
    if held.segment is None:
        raise RestoreFailed(f"The image does not have key and owner of {held.path} (memory object {held.id}).")
    return held.segment


def is_removed(segment: Segment) -> bool:
    """Whether it goes with the last who has it attached: no key leads to it any more."""
    return bool(segment.mode & SHM_DEST)


def is_there(held: MemoryObject, here: Mapping[int, SegmentStat], *, same_boot: bool) -> bool:
    """Whether the very segment is there and nobody uses it; otherwise it is to be made, and its id and key are free.

    Raises RestoreFailed if they are not.
    """
    wanted = segment_of(held)
    found = here.get(held.inode)
    name = f"{held.inode} (key {wanted.key:#010x})"
    if found is not None:
        hint = f"See 'ipcs -m -i {held.inode}'; 'ipcrm -m {held.inode}' removes it."
        if found.attached:
            message = f"The System V segment {name} is attached by {found.attached} others, who would see it change."
            raise RestoreFailed(message, hint=f"End them. {hint}")
        is_same = (found.key, found.size_bytes, found.uid, found.gid) == (
            wanted.key,
            wanted.size_bytes,
            wanted.uid,
            wanted.gid,
        )
        if not (same_boot and is_same):
            message = f"There is another System V segment with the id of segment {name}, or an earlier life of it."
            raise RestoreFailed(message, hint=hint)
        return True
    if wanted.key != IPC_PRIVATE and not is_removed(wanted):
        taken = next((one.id for one in here.values() if one.key == wanted.key), None)
        if taken is not None:
            message = f"The key of the System V segment {name} is that of segment {taken}."
            raise RestoreFailed(message, hint=f"See 'ipcs -m -i {taken}'; 'ipcrm -m {taken}' removes it.")
    return False


class Segments(Closing):
    """Those of a restore, each made when somebody asks; a context manager: what was made goes with it unless kept."""

    def __init__(self, *, same_boot: bool, tell: Tell) -> None:
        self._same_boot = same_boot
        self._tell = tell
        self._ours: dict[int, AttachedSegment] = {}
        self._made: list[int] = []

    def close(self) -> None:
        """Detach them, and remove what was made anew. May be called again."""
        for number in self._made:
            with suppress(OSError):
                remove_segment(number)
        self._made.clear()
        for one in self._ours.values():
            one.close()
        self._ours.clear()

    def keep(self) -> None:
        """They stay: who uses them runs."""
        self._made.clear()

    def make(self, held: MemoryObject, fill: Callable[[memoryview], None]) -> int:
        """Its id, which it had; `fill` writes its contents into zeros. Raises RestoreFailed, OSError, and as `fill`."""
        if held.id in self._ours:
            return held.inode
        segment = segment_of(held)
        huge_page_bytes = hugepages.page_bytes(held.device, held.size_bytes) if held.kind == "hugetlb" else 0
        unit_bytes = huge_page_bytes or PAGE_BYTES
        if segment.size_bytes + -segment.size_bytes % unit_bytes != held.pages_end_bytes:
            raise RestoreFailed(f"System V segment {held.inode} of the image has a size that its pages do not have.")
        is_new = not is_there(held, read_segments(), same_boot=self._same_boot)
        if is_new:
            self._make(held, segment, huge_page_bytes)
        self._ours[held.id] = ours = AttachedSegment(held.inode, held.pages_end_bytes)
        if is_new and is_removed(segment):
            remove_segment(held.inode)  # goes with us, should we end; until then its id leads to it
            self._made.remove(held.inode)
        if not is_new:
            ours.clear()
        fill(ours.memory)
        if segment.mode & SHM_LOCKED:
            try:
                lock_segment(held.inode)
            except PermissionError:
                self._tell(f"lock of the System V segment {held.inode} in memory")
        return held.inode

    def _make(self, held: MemoryObject, segment: Segment, huge_page_bytes: int) -> None:
        key = IPC_PRIVATE if is_removed(segment) else segment.key
        flags = IPC_CREAT | IPC_EXCL | 0o600
        if huge_page_bytes:
            flags |= SHM_HUGETLB | huge_page_bytes.bit_length() - 1 << HUGE_SHIFT
        for _ in range(_TRIES):
            NEXT_ID.write_text(str(held.inode))
            number = make_segment(key, segment.size_bytes, flags)
            if number == held.inode:
                self._made.append(number)
                own_segment(number, segment.uid, segment.gid, segment.mode & _PERMISSIONS)
                return
            remove_segment(number)
        raise RestoreFailed(
            f"No System V segment can have the id {held.inode} here: another one has its place.",
            hint="'ipcs -m' lists them.",
        )
