"""/proc/PID/timers: proc_pid_timers(5), show_timer in fs/proc/base.c."""

import re
from dataclasses import dataclass

SIGEV_THREAD_ID = 4
NOTIFY = {b"signal": 0, b"none": 1, b"thread": 2}  # SIGEV_*
TIMER = re.compile(
    rb"ID: (\d+)\nsignal: (\d+)/([0-9a-f]+)\nnotify: (signal|none|thread)/(pid|tid)\.(-?\d+)\nClockID: (-?\d+)\n"
)
ID = re.compile(rb"^ID: (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Timer:
    """How timer_create(2) was called: `notify` is SIGEV_*; `tid` is the thread that gets the signal, 0 for any."""

    id: int
    signal: int
    value: int
    notify: int
    tid: int
    clock: int


def timer_ids(text: bytes) -> list[int]:
    """The ids only, which is fast."""
    return [int(number) for number in ID.findall(text)]


def parse_timers(text: bytes) -> list[Timer]:
    """All timers. Raises ValueError."""
    found = []
    at = 0
    while at < len(text):
        match = TIMER.match(text, at)
        if not match:
            raise ValueError(f"not a timer of /proc/PID/timers: {text[at : at + 100]!r}")
        number, signal, value, how, whom, tid, clock = match.groups()
        one_thread = whom == b"tid"
        found.append(
            Timer(
                id=int(number),
                signal=int(signal),
                value=int(value, 16),
                notify=NOTIFY[how] | (SIGEV_THREAD_ID if one_thread else 0),
                tid=int(tid) if one_thread else 0,
                clock=int(clock),
            )
        )
        at = match.end()
    return found
