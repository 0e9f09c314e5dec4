"""/proc/PID/mountinfo: proc_pid_mountinfo(5)."""

from pathlib import Path


def parse_mount_types(text: bytes) -> dict[int, str]:
    """The type of file system of each mount, by its id. Raises ValueError, IndexError."""
    found = {}
    for line in text.splitlines():
        before, _, after = line.partition(b" - ")
        found[int(before.split()[0])] = after.split()[0].decode("ascii", "replace")
    return found


def read_mount_types(pid: int) -> dict[int, str]:
    """Of all mounts in the namespace of a process. Raises OSError, ValueError, IndexError."""
    return parse_mount_types(Path(f"/proc/{pid}/mountinfo").read_bytes())
