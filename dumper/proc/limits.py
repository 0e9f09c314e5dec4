"""/proc/PID/limits: proc_pid_limits(5)."""

import re

INFINITY = (1 << 64) - 1
UNLIMITED = b"unlimited"
# By RLIMIT_* number: lnames in fs/proc/base.c.
NAMES = (
    b"Max cpu time",
    b"Max file size",
    b"Max data size",
    b"Max stack size",
    b"Max core file size",
    b"Max resident set",
    b"Max processes",
    b"Max open files",
    b"Max locked memory",
    b"Max address space",
    b"Max file locks",
    b"Max pending signals",
    b"Max msgqueue size",
    b"Max nice priority",
    b"Max realtime priority",
    b"Max realtime timeout",
)
LINE = re.compile(rb"(Max [a-z ]*?) +(unlimited|\d+) +(unlimited|\d+)(?: +[a-z]+)? *")


def _value(text: bytes) -> int:
    return INFINITY if text == UNLIMITED else int(text)


def parse_limits(text: bytes) -> list[tuple[int, int, int]]:
    """RLIMIT_*, soft limit, hard limit of each, 2^64 - 1 for infinity. Raises ValueError."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith(b"Limit "):
        raise ValueError(f"not /proc/PID/limits: {text[:100]!r}")
    found = []
    for line in lines[1:]:
        match = LINE.fullmatch(line)
        if not match or match[1] not in NAMES:
            raise ValueError(f"not a line of /proc/PID/limits: {line!r}")
        found.append((NAMES.index(match[1]), _value(match[2]), _value(match[3])))
    return found
