"""What the dump itself names as missing: which of it stands in the way of a restore, and which does not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from formats.manifest import Manifest
from formats.restorable.verdict import Verdict

HARMLESS: Sequence[tuple[str, str]] = (
    (r"environment", r""),  # pages of the stack have it
    (r"descriptor \d+ .*", r"sequence numbers and bytes in flight of TCP connections are not captured.*"),
)
"""Told already by the rule of what it is missing of, or not needed. Both are whole texts; no reason: whatever it is."""
DIFFERING: Sequence[tuple[str, str]] = (
    (r"thread \d+", r"it stands inside the vdso"),
    (r"guard.*", r"they were made around the freeze"),
    (r"umask of thread \d+", r""),
    (r"cgroup of thread \d+", r""),
    (r"scheduling of thread \d+", r""),
    (r"cgroups|resource limits|personality|OOM score adjustment|core dump filter|clock offsets", r""),
    (r"\w+ namespace", r""),
    (r"descriptor \d+ .*", r"\d+ connections waiting to be accepted are not captured"),
    (r"queued messages of .*", r"they cannot be read without being taken out"),
    (r"upper layer of .*", r""),
    (r"events of descriptor .*", r"those not read yet are not captured"),
    (r"input waiting in .*", r""),
    (r"writes of .* in the freeze", r"hardware does not stop with the process"),
)
"""What comes back without it, and a process must be ready for that. Whatever is in neither table stops a restore."""
_TEXT_MAX = 4096  # characters that are compared: the rest is an image's wish to be slow


def look(manifest: Manifest, verdict: Verdict) -> None:
    """Of all processes."""
    for process in manifest.processes:
        for item in process.missing:
            if _is_in(HARMLESS, item.what, item.reason):
                continue
            weigh = verdict.differ if _is_in(DIFFERING, item.what, item.reason) else verdict.stop
            weigh(process.pid, item.what, item.reason)


def _is_in(table: Sequence[tuple[str, str]], what: str, reason: str) -> bool:
    return any(
        re.fullmatch(whats, what[:_TEXT_MAX], re.DOTALL) and (not reasons or re.fullmatch(reasons, reason[:_TEXT_MAX]))
        for whats, reasons in table
    )
