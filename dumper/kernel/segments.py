"""System V shared memory segments: shmget(2), shmat(2), shmctl(2)."""

from dumper.kernel.native import checked, ffi, lib
from formats.closing import Closing

IPC_PRIVATE = 0
IPC_CREAT, IPC_EXCL, SHM_HUGETLB = 0o1000, 0o2000, 0o4000
HUGE_SHIFT = 26  # SHM_HUGE_SHIFT


def make_segment(key: int, n_bytes: int, flags: int) -> int:
    """Its id: shmget(2). Raises OSError: EEXIST, ENOSPC, ENOMEM."""
    return checked(lib.pd_segment_make(key, n_bytes, flags))


def own_segment(number: int, uid: int, gid: int, mode: int) -> None:
    """Gives it owner and permissions: IPC_SET. Raises OSError."""
    checked(lib.pd_segment_own(number, uid, gid, mode))


def lock_segment(number: int) -> None:
    """Keeps it in memory: SHM_LOCK. Raises OSError: EPERM."""
    checked(lib.pd_segment_lock(number))


def remove_segment(number: int) -> None:
    """It goes with the last who has it attached: IPC_RMID. Raises OSError."""
    checked(lib.pd_segment_remove(number))


class AttachedSegment(Closing):
    """A segment in our own memory until it is closed; its `memory` may not be looked at afterwards."""

    def __init__(self, number: int, n_bytes: int) -> None:
        """Raises OSError: EACCES, EINVAL if there is none."""
        self._addr = checked(lib.pd_segment_attach(number))
        self._n_bytes = n_bytes
        self.memory = memoryview(ffi.buffer(ffi.cast("uint8_t *", self._addr), n_bytes))

    def clear(self) -> None:
        """Zeros, which take no memory. Raises OSError."""
        checked(lib.pd_segment_clear(self._addr, self._n_bytes))

    def close(self) -> None:
        """Detaches it; a second call does nothing."""
        if self._addr:
            self.memory.release()
            lib.pd_segment_detach(self._addr)
            self._addr = 0
