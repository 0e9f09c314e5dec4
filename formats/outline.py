"""As much of a manifest as a look at many rounds needs: `formats.manifest` has the whole, under the same names.

Reading it costs a fraction of that, since threads, open files and all else that only the round itself is asked for is
left as it was parsed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from formats.manifest import FileEntry, FreezeBy, Manifest, Parent, RoundKind, Stats


@dataclass(slots=True, kw_only=True)
class VmaOutline:
    """Where a mapping is, and how many of its pages the round has anew."""

    start_addr: int
    end_addr: int
    pages_data: int = 0
    pages_zero: int = 0


@dataclass(slots=True, kw_only=True)
class ProcessOutline:
    """A process and its mappings."""

    pid: int
    start_time_ticks: int
    vmas: list[VmaOutline]


@dataclass(slots=True, kw_only=True)
class ManifestOutline:
    """A round. Only what is here has been checked for its type, and `files` for their names."""

    checkpoint_id: str
    round: int
    kind: RoundKind
    created_ns: int
    features: list[str] = field(default_factory=list)
    parent: Parent | None = None
    full: bool
    full_reason: str = ""
    stands_for: list[str] = field(default_factory=list)
    streamed_while_frozen: bool = False
    freeze_by: FreezeBy | None = None
    processes: list[ProcessOutline]
    stats: Stats
    files: list[FileEntry] = field(default_factory=list)


def outline_of(manifest: Manifest) -> ManifestOutline:
    """The same of a whole one, which need not be held for it."""
    return ManifestOutline(
        **{name: getattr(manifest, name) for name in _AS_THEY_ARE},
        processes=[
            ProcessOutline(
                pid=process.pid,
                start_time_ticks=process.start_time_ticks,
                vmas=[
                    VmaOutline(
                        start_addr=vma.start_addr,
                        end_addr=vma.end_addr,
                        pages_data=vma.pages_data,
                        pages_zero=vma.pages_zero,
                    )
                    for vma in process.vmas
                ],
            )
            for process in manifest.processes
        ],
    )


_AS_THEY_ARE = [one.name for one in fields(ManifestOutline) if one.name != "processes"]
