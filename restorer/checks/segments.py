"""Segments of System V: whether their ids and keys are free, and may be given, in the caller's IPC namespace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from dumper.proc.sysvipc import SegmentStat, read_segments
from formats.manifest import Manifest
from restorer.checks.findings import Problem, Subject
from restorer.errors import RestoreFailed
from restorer.memory.segments import NEXT_ID, is_there


def look(manifest: Manifest, boot_id: str) -> Iterator[Problem]:
    """`boot_id`: of this machine."""
    wanted = [held for held in manifest.objects if held.segment]
    here: dict[int, SegmentStat] = {}
    if wanted:
        with suppress(OSError, ValueError, IndexError):  # none, where the kernel has no System V IPC
            here = read_segments()
    is_any_new = False
    for held in wanted:
        try:
            is_any_new |= not is_there(held, here, same_boot=manifest.host.boot_id == boot_id)
        except RestoreFailed as error:
            yield Problem(Subject.SURROUNDINGS, error.message, error.hint)
    if is_any_new and not os.access(NEXT_ID, os.W_OK):
        message = "This user may not give System V segments the ids that they had (/proc/sys/kernel/shm_next_id)."
        yield Problem(Subject.PRIVILEGE, message, "Run it as root or with CAP_CHECKPOINT_RESTORE.")
