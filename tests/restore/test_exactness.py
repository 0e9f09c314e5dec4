"""What comes back is compared with what was dumped: every byte of memory, every register, every record of its state."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.checkpoint import Checkpoint
from formats.threadstate import Thread
from restorer.threads import registers_of
from tests.alive import Alive, Lives
from tests.harness import Event, number, predump

RSEQ_BYTES = 32
# Parts by program, all where there is none; a timer that ticks has ticked once more by the time that it is stopped.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "alive-memory": (),
    "alive-threads": (),
    "alive-signals": ("pending", "timers", "dispositions"),
    "alive-calls": ("deeds", "left", "times"),
    "alive-process": (),
}
# How a thread goes on, which is compared with what it is to go on with; open files, which have tests of their own.
COMPARED_APART = ("registers.", "system_call", "rseq.", "ppid", "stopped")


def threads_of(checkpoint: Path) -> dict[int, Thread]:
    (process,) = Checkpoint.open(checkpoint).round().manifest.processes
    return {thread.tid: thread for thread in process.threads}


def is_in_rseq_area(event: Event, threads: dict[int, Thread]) -> bool:
    """Whether the kernel writes there by itself, on which CPU the thread runs."""
    start, end = number(event, "addr"), number(event, "addr") + number(event, "length")
    areas = [thread.rseq.addr for thread in threads.values() if thread.rseq]
    return any(area <= start and end <= area + RSEQ_BYTES for area in areas)


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_is_the_same_to_the_last_bit(program: str, lives: Lives, home: Path, tmp_path: Path) -> None:
    target = Alive(lives, home / "target", program, *PROGRAMS[program])
    target.die(tmp_path / "before")
    target.come_back(tmp_path / "before", "--stopped")
    predump("dump", "-t", target.pid, "-D", tmp_path / "after", "--no-pre-dump", "--leave-stopped")

    before, after = threads_of(tmp_path / "before"), threads_of(tmp_path / "after")
    assert list(before) == list(after)
    for tid, thread in before.items():
        assert after[tid].registers == registers_of(thread)
        assert after[tid].xstate == thread.xstate

    events = predump("diff", tmp_path / "before", tmp_path / "after", "--bytes", "--json").events
    changed = [event for event in events if event["type"] == "bytes" and not is_in_rseq_area(event, before)]
    assert changed == []
    assert number(events[-1], "pages_added") == 0
    of_files = [event for event in events if event["type"] == "mapping" and number(event, "pages_gone")]
    assert all(event["path"] and "s" in str(event["perms"]) for event in of_files)  # the file has them
    state = [
        (event["subject"], event["name"], event["field"], event["before"], event["after"])
        for event in events
        if event["type"] == "state"
        and event["subject"] != "file"
        and not str(event["field"]).startswith(COMPARED_APART)
        and "remaining" not in str(event["field"])
    ]
    assert state == []
