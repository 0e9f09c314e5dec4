"""Whether a round can come back to life, and what stands in the way: told by its manifest alone.

    processes    threads, state, parents, namespaces
    memory       mappings and memory objects
    segments     of System V
    openfiles    descriptors, by kind
    told         what the dump itself names as missing

Each has a table of rules near its top. What is outside of the image (files, free pids, the kernel) is for
`restorer.checks`.
"""

from __future__ import annotations

from formats.manifest import Manifest, RoundKind
from formats.restorable import memory, openfiles, processes, segments, told
from formats.restorable.verdict import Obstacle, Verdict

__all__ = ["Obstacle", "Verdict", "verdict_on"]


def verdict_on(manifest: Manifest) -> Verdict:
    """What keeps the round from coming back, and what would come back otherwise than it was."""
    verdict = Verdict()
    if not manifest.checkpoint_id:
        verdict.stop(None, "images", "they are CRIU's: predump restores its own")
        return verdict
    if manifest.kind is not RoundKind.DUMP:
        verdict.stop(None, f"round {manifest.round}", "a pre-dump has no threads and no open files; dumps have")
        return verdict
    processes.look(manifest, verdict)
    memory.look(manifest, verdict)
    segments.look(manifest, verdict)
    openfiles.look(manifest, verdict)
    told.look(manifest, verdict)
    return verdict
