"""/proc/PID/cgroup: cgroups(7)."""

import contextlib
import re
from pathlib import Path

from dumper.proc import GONE_ERRORS

UNIFIED_PREFIX = "0::"
UNIFIED_ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
MADE_NAME = re.compile(r"predump-throttle-(?P<pid>[0-9]+)-(?P<start>[0-9]+)(?P<enabled>-enabled)?")
"""A cgroup that predump makes for a while, below the one that the process is in: whose it is, and whether the cpu
controller was enabled for it."""


def parse_cgroups(text: bytes) -> list[str]:
    """Its lines, `hierarchy:controllers:path`. Raises ValueError."""
    # A path may hold anything but a newline, which the kernel writes as \012.
    lines = [line.decode("utf-8", "surrogateescape") for line in text.split(b"\n") if line]
    for line in lines:
        if line.count(":") < 2 or not line.split(":")[0].isdigit():
            raise ValueError(f"not a line of /proc/PID/cgroup: {line!r}")
    return lines


def at_home(line: str) -> str:
    """A line of it as it was before predump moved the process into a cgroup of its own, and will be after it."""
    above, _, name = line.rpartition("/")
    if not MADE_NAME.fullmatch(name):
        return line
    return above if not above.endswith(":") else f"{above}/"


def frozen_cgroup(pid: int) -> str:
    """The path of the cgroup that keeps the process frozen (cgroup.freeze), or ""; also "" if the process is gone."""
    with contextlib.suppress(*GONE_ERRORS):
        for line in parse_cgroups(Path(f"/proc/{pid}/cgroup").read_bytes()):
            if line.startswith(UNIFIED_PREFIX):
                path = line.removeprefix(UNIFIED_PREFIX)
                for root in UNIFIED_ROOTS:
                    events = Path(root + path) / "cgroup.events"
                    if events.is_file() and "frozen 1" in events.read_text().splitlines():
                        return path
    return ""
