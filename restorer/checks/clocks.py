"""Clocks that count from the boot of a machine: CLOCK_MONOTONIC and CLOCK_BOOTTIME."""

from __future__ import annotations

from collections.abc import Iterator

from formats.manifest import Manifest
from restorer.checks.findings import Problem, Subject
from restorer.clocks import Readings, shown_to

_HINT = "With --time-namespace they go on from where they were."


def look(manifest: Manifest, here: Readings, *, time_namespace: bool) -> Iterator[Problem]:
    """`here`: what they show to a process that comes back without a time namespace: later is no harm, earlier is."""
    shown = {process.pid: shown_to(process.state, manifest) for process in manifest.processes if process.state}
    for_root = shown.get(manifest.root_pid)
    if time_namespace and for_root is None:
        yield Problem(Subject.IMAGE, "The image does not have the clocks of its processes.")
        return
    for pid, before in shown.items():
        if before is None:
            continue
        name = f"The clocks of process {pid} that count from the boot (CLOCK_MONOTONIC)"
        back_ns = before.monotonic_ns - here.monotonic_ns
        if time_namespace and before != for_root:
            yield Problem(Subject.SURROUNDINGS, f"{name} are those of the root process by then.", stops=False)
        elif not time_namespace and back_ns > 0:
            yield Problem(Subject.SURROUNDINGS, f"{name} go back by {back_ns / 1e9:.0f} s.", _HINT, stops=False)
