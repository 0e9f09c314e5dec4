"""/proc/PID/timens_offsets: time_namespaces(7)."""

import re

LINE = re.compile(rb"(monotonic|boottime) +(-?\d+) +(\d+)")
NS_PER_S = 1_000_000_000


def parse_offsets(text: bytes) -> tuple[int, int]:
    """What is added to CLOCK_MONOTONIC and to CLOCK_BOOTTIME, in ns. Raises ValueError."""
    offsets: dict[bytes, int] = {}
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if not match:
            raise ValueError(f"not a line of /proc/PID/timens_offsets: {line!r}")
        offsets[match[1]] = int(match[2]) * NS_PER_S + int(match[3])
    if len(offsets) != 2:
        raise ValueError(f"not /proc/PID/timens_offsets: {text!r}")
    return offsets[b"monotonic"], offsets[b"boottime"]
