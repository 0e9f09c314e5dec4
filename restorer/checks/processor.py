"""Whether this processor has what the programs found on the other: registers and instructions."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from formats.manifest import Manifest
from restorer.checks.findings import Problem, Subject

_XCR0_OFFSET, _XSTATE_BV_OFFSET, _HEADER_END = 464, 512, 576  # as in formats.xstate
_HINT = "Restore it on a machine with the same kind of processor."
COMPONENTS: Mapping[int, str] = {
    2: "AVX",
    3: "MPX",
    4: "MPX",
    5: "AVX-512",
    6: "AVX-512",
    7: "AVX-512",
    9: "protection keys",
    17: "AMX",
    18: "AMX",
    19: "APX",
}
"""Names of components by their bit in XCR0: Intel SDM vol. 1, 13.1."""


def look(manifest: Manifest, xstate: bytes, instructions: frozenset[str]) -> Iterator[Problem]:
    """`xstate`: NT_X86_XSTATE of a process of this machine, `instructions` as Host has them."""
    here = _masks(xstate)[0]
    told = set()
    for process in manifest.processes:
        for thread in process.threads:
            enabled, used = _masks(thread.xstate)
            lacking = (enabled | used) & ~here
            if lacking and lacking not in told:
                told.add(lacking)
                names = _names(lacking)
                message = f"Process {process.pid} was started with {names}, which this processor lacks."
                yield Problem(Subject.PROCESSOR, message, _HINT)
            elif not lacking and thread.xstate and len(thread.xstate) != len(xstate) and 0 not in told:
                told.add(0)
                sizes = f"{len(xstate)} bytes here, and took {len(thread.xstate)} there"
                message = f"The extended state of threads takes {sizes}: its components lie elsewhere."
                yield Problem(Subject.PROCESSOR, message, _HINT)
    missing = sorted(set(manifest.host.instructions) - instructions) if instructions else []
    if missing:
        message = f"The processor lacks instructions that the programs may have found: {', '.join(missing)}."
        yield Problem(Subject.PROCESSOR, message, _HINT)


def _masks(xstate: bytes) -> tuple[int, int]:
    """XCR0 and XSTATE_BV."""
    if len(xstate) < _HEADER_END:
        return 0, 0
    (enabled,), (used,) = (struct.unpack_from("<Q", xstate, at) for at in (_XCR0_OFFSET, _XSTATE_BV_OFFSET))
    return enabled, used


def _names(mask: int) -> str:
    bits = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    return ", ".join(dict.fromkeys(COMPONENTS.get(bit, f"component {bit}") for bit in bits))
