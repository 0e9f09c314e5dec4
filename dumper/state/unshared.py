"""Threads that do not share with their process what threads usually share: only the process's own is recorded."""

import contextlib
import os
from pathlib import Path

from dumper.proc import GONE_ERRORS
from dumper.state.files import LINKS
from dumper.state.notes import Notes
from dumper.target import Target

COMPARED_LINKS = tuple(name for name in LINKS if not name.endswith("_for_children"))
NOT_THE_PROCESS_S = "it differs from that of the process, which alone is recorded"


def _shared(directory: str) -> dict[str, str]:
    found = {}
    for name in COMPARED_LINKS:
        with contextlib.suppress(PermissionError, *GONE_ERRORS):
            found[name] = os.readlink(f"{directory}/{name}")  # noqa: PTH115 - ten times as fast, for each thread
    with contextlib.suppress(PermissionError, *GONE_ERRORS):
        found["cgroup"] = Path(f"{directory}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    return found


def note_unshared(target: Target, notes: Notes) -> None:
    """Notes threads with a directory, namespace or cgroup of their own, as of now: unshare(2), setns(2), cgroups(7).

    Raises OSError: ENOENT if the process is gone.
    """
    of_process = _shared(f"/proc/{target.tid}")
    for name in os.listdir(f"/proc/{target.pid}/task"):  # noqa: PTH208 - as above
        if int(name) != target.tid:
            for what, value in _shared(f"/proc/{target.pid}/task/{name}").items():
                if value != of_process.get(what, value):
                    notes.add(f"{what} of thread {name}", NOT_THE_PROCESS_S)
