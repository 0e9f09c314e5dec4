"""/proc/PID/fd: proc_pid_fd(5)."""

from pathlib import Path

USERFAULTFD = "anon_inode:[userfaultfd]"


def read_fds(pid: int) -> dict[int, str]:
    """What each open descriptor refers to. Raises OSError: EACCES, ENOENT."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


def lowest_free(fds: dict[int, str]) -> int:
    """The number that the next open(2) returns."""
    free = 0
    while free in fds:
        free += 1
    return free
