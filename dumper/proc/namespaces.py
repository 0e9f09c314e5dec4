"""/proc/PID/ns/*: namespaces(7)."""

import re
from contextlib import suppress
from pathlib import Path

KINDS = (
    "cgroup",
    "ipc",
    "mnt",
    "net",
    "pid",
    "pid_for_children",
    "time",
    "time_for_children",
    "user",
    "uts",
)
LINK = re.compile(r"[a-z]+:\[(\d+)\]")


def parse_inode(link: str) -> int:
    """The inode number in what such a link says. Raises ValueError."""
    match = LINK.fullmatch(link)
    if not match:
        raise ValueError(f"not a link of /proc/PID/ns: {link!r}")
    return int(match[1])


def read_own() -> dict[str, int]:
    """The namespaces of this process: inode number by kind; without those that the kernel does not have."""
    found = {}
    for kind in KINDS:
        with suppress(OSError, ValueError):
            found[kind] = parse_inode(str(Path(f"/proc/self/ns/{kind}").readlink()))
    return found
