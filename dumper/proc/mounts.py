"""/proc/PID/mountinfo: proc_pid_mountinfo(5)."""

import re
from pathlib import Path


def parse_mount_types(text: bytes) -> dict[int, str]:
    """The type of file system of each mount, by its id. Raises ValueError, IndexError."""
    found = {}
    for line in text.splitlines():
        before, _, after = line.partition(b" - ")
        found[int(before.split()[0])] = after.split()[0].decode("ascii", "replace")
    return found


def parse_mount_points(text: bytes) -> list[tuple[str, str]]:
    """Device ("08:01") and mount point of each mount. Raises ValueError, IndexError."""
    found = []
    for line in text.splitlines():
        words = line.split()
        major, minor = words[2].split(b":")
        path = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), words[4])
        found.append((f"{int(major):02x}:{int(minor):02x}", path.decode("utf-8", "surrogateescape")))
    return found


def read_mount_points(pid: int) -> list[tuple[str, str]]:
    """Of all mounts in the namespace of a process. Raises OSError, ValueError, IndexError."""
    return parse_mount_points(Path(f"/proc/{pid}/mountinfo").read_bytes())


def read_mount_types(pid: int) -> dict[int, str]:
    """Of all mounts in the namespace of a process. Raises OSError, ValueError, IndexError."""
    return parse_mount_types(Path(f"/proc/{pid}/mountinfo").read_bytes())
