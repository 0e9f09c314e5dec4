"""/proc/tty/drivers: which device numbers are terminals."""

from pathlib import Path

TtyDevices = tuple[tuple[int, int, int], ...]


def parse_tty_drivers(text: bytes) -> TtyDevices:
    """(major, first minor, last minor) of each driver. Raises ValueError."""
    found = []
    for line in text.splitlines():
        major, minors, _kind = line.split()[-3:]  # the name in front may hold blanks
        first, _, last = minors.partition(b"-")
        found.append((int(major), int(first), int(last or first)))
    return tuple(found)


def read_tty_drivers() -> TtyDevices:
    """Empty where the kernel does not say."""
    try:
        return parse_tty_drivers(Path("/proc/tty/drivers").read_bytes())
    except (OSError, ValueError):
        return ()
