"""A process that is made blank, with one of our descriptors."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from dumper.kernel.remote import spawn_blank


def test_the_descriptor_may_get_any_number() -> None:
    reading, writing = os.pipe()
    try:
        free = os.dup(reading)
        os.close(free)  # and so it is the program's, for a moment
        for number in (reading, writing, *range(free, free + 6)):
            process = spawn_blank([], reading, number)
            try:
                kept = Path(f"/proc/{process.tid}/fd/{number}").readlink()
            finally:
                os.kill(process.tid, signal.SIGKILL)
                os.waitpid(process.tid, 0x40000000)  # __WALL
            assert str(kept).startswith("pipe:")
    finally:
        os.close(reading)
        os.close(writing)
