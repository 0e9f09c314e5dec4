"""A receiver that takes nothing, in a process of its own: says its port, then how a session ended and what it took.

`python -m tests.link.overrun WINDOW_MIB`
"""

from __future__ import annotations

import sys
from pathlib import Path

from streams.errors import StreamCorrupt
from streams.link import LinkOptions, listen
from tests.link.peers import HASTY


def resident_bytes(field: str) -> int:
    """A field of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


def main() -> None:
    options = LinkOptions(timing=HASTY, window_bytes=int(sys.argv[1]) << 20)
    with listen("127.0.0.1:0", options, lambda _: 0) as listener:
        before_bytes = resident_bytes("VmRSS")
        print(listener.address.port, flush=True)
        with listener.accept() as incoming:
            sys.stdin.readline()  # until then everything waits to be taken
            taken = 0
            try:
                while incoming.receive() is not None:
                    taken += 1
            except StreamCorrupt as error:
                print(f"{resident_bytes('VmHWM') - before_bytes} {taken} {error.message}", flush=True)


if __name__ == "__main__":
    main()
