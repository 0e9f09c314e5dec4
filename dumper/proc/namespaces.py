"""/proc/PID/ns/*: namespaces(7)."""

import re

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
