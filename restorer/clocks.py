"""The clocks of a time namespace: CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from where they were; time_namespaces(7)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from dumper.proc.timens import parse_offsets
from formats.manifest import Manifest
from formats.processstate import ProcessState

_NS_PER_S = 1_000_000_000
_OFFSETS = Path("/proc/self/timens_offsets")


@dataclass(frozen=True, slots=True)
class Readings:
    """What both clocks show to a process."""

    monotonic_ns: int
    boottime_ns: int


def shown_to(state: ProcessState, manifest: Manifest) -> Readings | None:
    """What they showed when the dump was taken; None if the image does not say.

    The image has the clocks of predump, and the offset of the process to those of the machine: a predump that was in
    another time namespace than the process is taken to have been in the machine's.
    """
    clocks = manifest.clocks
    if clocks is None:
        return None
    predumps = {item.kind: item.inode for item in manifest.host.namespaces}.get("time")
    own = {item.kind: item.inode for item in state.namespaces}.get("time")
    if predumps == own:
        return Readings(clocks.monotonic_ns, clocks.boottime_ns)
    return Readings(clocks.monotonic_ns + state.monotonic_offset_ns, clocks.boottime_ns + state.boottime_offset_ns)


def now() -> Readings:
    """What they show to us, and to every process that we make without a time namespace."""
    return Readings(time.monotonic_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def offsets_to_go_on(wanted: Readings) -> str:
    """What /proc/PID/timens_offsets of a new time namespace is to hold, so that the clocks show this now.

    Raises OSError, ValueError: a kernel without time namespaces.
    """
    ours = parse_offsets(_OFFSETS.read_bytes())  # to the clocks of the machine, as those to come
    here = now()
    offsets = (
        wanted.monotonic_ns - here.monotonic_ns + ours[0],
        wanted.boottime_ns - here.boottime_ns + ours[1],
    )
    return "".join(
        f"{name} {ns // _NS_PER_S} {ns % _NS_PER_S}\n"
        for name, ns in zip(("monotonic", "boottime"), offsets, strict=True)
    )
