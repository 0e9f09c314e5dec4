"""What the page knows, as JSON: figures and names of the rounds, and of each process its mappings, cells and threads.

Page counts are numbers of pages, addresses are numbers of pages, too (JavaScript's numbers are exact for these), times
are nanoseconds. Every text is cut, and has escapes in the place of characters that might drive what shows it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from analysis.history.history import History, ProcessHistory, RoundSeen
from analysis.history.regions import Region
from analysis.history.writecount import RegionTotals
from analysis.places import Places, vma_name
from display.missing import missing_of
from display.program import command_text, host_text
from display.threads import call_text, process_cpus, thread_notes
from display.tree import wait_status_text
from display.units import clip, counted, printable, tail, time_text
from formats.checkpoint import Checkpoint
from formats.layout import PAGE_BYTES
from formats.manifest import Process, Vma
from formats.threadstate import Thread

Json = dict[str, object]

_TEXT_MAX = 160  # characters of a path, a name, a note
_THREADS_MAX = 2000
_MISSING_MAX = 500
_MEMBERS_MAX = 2000
_COLUMNS = (
    *("start", "n_pages", "name", "perms", "kind", "note", "gone", "untracked"),
    *("data", "zero", "parent", "absent", "written", "written_rounds", "stored", "cell_pages", "n_cells"),
)
"""Of a region, as they stand in its row; name, perms, kind and note are positions in lists beside the rows."""


def report_data(checkpoint: Checkpoint, history: History, processes: list[ProcessHistory]) -> Json:
    """All of it; `processes` are those of the history."""
    manifest = history.last.manifest
    missing = missing_of(manifest)
    return {
        "version": _text(manifest.tool_version),
        "checkpoint": _path(str(checkpoint.path.absolute())),
        "host": _text(host_text(manifest.host)),
        "round": history.last.number,
        "rounds": [_round(one) for one in history.rounds],
        "rounds_left_out": history.rounds_left_out,
        "processes": [_process(one) for one in processes],
        "members": [_member(one) for one in manifest.processes[:_MEMBERS_MAX]],
        "n_members": len(manifest.processes),
        "missing": [{"what": _text(one.what), "why": _text(one.reason)} for one in missing[:_MISSING_MAX]],
        "n_missing": len(missing),
    }


def _text(text: str) -> str:
    return clip(printable(text[: _TEXT_MAX + 1]), _TEXT_MAX)


def _path(path: str) -> str:
    """Of a path the end says most."""
    return tail(printable(path[-_TEXT_MAX - 1 :]), _TEXT_MAX)


def _round(seen: RoundSeen) -> Json:
    figures, stats = seen.figures, seen.figures.stats
    notes = [_text(figures.full_reason)] if figures.full and figures.full_reason else []
    notes += ["streamed while frozen"] if figures.streamed_while_frozen else []
    notes += [f"{counted(stats.pages_deferred, 'hot page')} left for the freeze"] if stats.pages_deferred else []
    return {
        "number": figures.number,
        "kind": figures.kind.value,
        "time": time_text(figures.created_ns),
        "full": figures.full,
        "note": "; ".join(notes),
        "present": stats.pages_present,
        "written": stats.pages_written,
        "data": stats.pages_data,
        "zero": stats.pages_zero,
        "parent": stats.pages_parent,
        "raw": stats.raw_bytes,
        "stored": stats.stored_bytes,
        "duration_ns": stats.duration_ns,
        "frozen_ns": stats.frozen_ns,
        "predicted_ns": stats.predicted_freeze_ns,
        "copied_frozen": stats.pages_copied_frozen,
        "freeze_by": seen.freeze_by.value if seen.freeze_by else "",
        "phases": [[name, ns] for name, ns in stats.phases().items() if ns > 0],
    }


def _member(process: Process) -> Json:
    """A process of the round, whether its memory is looked at or not."""
    return {
        "pid": process.pid,
        "ppid": process.ppid,
        "name": _text(process.name),
        "command": command_text(process),
        "n_threads": len(process.threads),
        "present": process.pages_present,
        "written": process.pages_written,
        "note": _zombie_note(process),
    }


def _zombie_note(process: Process) -> str:
    return f"zombie, {wait_status_text(process.zombie.exit_code)}" if process.zombie else ""


def _process(history: ProcessHistory) -> Json:
    process = history.process
    places = Places(process.vmas)
    cpus = process_cpus(process)
    own = [vma for vma in process.vmas if vma.object is None]
    return {
        "pid": process.pid,
        "ppid": process.ppid,
        "name": _text(process.name),
        "command": command_text(process),
        "note": _zombie_note(process),
        "threads": [_thread(one, cpus, places) for one in process.threads[:_THREADS_MAX]],
        "n_threads": len(process.threads),
        "pages": {
            "data": process.pages_data,
            "zero": process.pages_zero,
            "parent": process.pages_parent,
            "absent": sum(max(vma.pages_absent, 0) for vma in own),
            "shared": sum(vma.n_pages for vma in process.vmas if vma.object is not None),
            "stored": sum(total.stored_bytes for total in history.totals),
        },
        "regions": _regions(history.regions, history.totals),
        "regions_left_out": history.regions_left_out,
        "elsewhere": history.elsewhere_pages,
        "presence": [one.value for one in history.presence],
        "cells": base64.b64encode(b"".join(history.cells)).decode("ascii"),
    }


def _thread(thread: Thread, cpus: list[int], places: Places) -> Json:
    rip = thread.registers.get("rip")
    where = "" if rip is None else places.name(rip) or f"{rip:#x}"
    has_state = rip is not None
    return {
        "tid": thread.tid,
        "name": _text(thread.name),
        "where": _text(where),
        "call": _text(call_text(thread.system_call)) if has_state else "",
        "notes": clip(printable("; ".join(thread_notes(thread, cpus))), 2 * _TEXT_MAX) if has_state else "",
    }


class _Shared:
    """Values that many rows have: each is written once."""

    def __init__(self) -> None:
        self._positions: dict[object, int] = {}

    def position(self, value: object) -> int:
        """Where it stands in the list."""
        return self._positions.setdefault(value, len(self._positions))

    @property
    def values(self) -> list[object]:
        """The list."""
        return list(self._positions)


def _regions(regions: Iterable[Region], totals: Iterable[RegionTotals]) -> Json:
    names, perms, kinds, notes = _Shared(), _Shared(), _Shared(), _Shared()

    def row(region: Region, total: RegionTotals) -> list[int]:
        vma = region.vma
        pages = (0, 0, 0, 0) if region.gone else (vma.pages_data, vma.pages_zero, vma.pages_parent, _absent(vma))
        return [
            region.start_addr // PAGE_BYTES,
            region.n_pages,
            names.position((_text(vma_name(vma)), _path(vma.path))),
            perms.position(_text(vma.perms)),
            kinds.position(_text(vma.kind)),
            notes.position(_note(region)),
            int(region.gone),
            int(not vma.tracked),
            *pages,
            total.written_pages,
            total.written_rounds,
            total.stored_bytes,
            region.cell_pages,
            region.n_cells,
        ]

    rows = [row(region, total) for region, total in zip(regions, totals, strict=True)]
    return {
        "columns": _COLUMNS,
        "rows": rows,
        "names": names.values,
        "perms": perms.values,
        "kinds": kinds.values,
        "notes": notes.values,
    }


def _absent(vma: Vma) -> int:
    return max(vma.pages_absent, 0) if vma.object is None else 0


def _note(region: Region) -> str:
    vma = region.vma
    notes = ["unmapped since"] if region.gone else []
    notes += [f"shared memory, object {vma.object}"] if vma.object is not None else []
    notes += [_text(vma.note)] if vma.note else []
    notes += ["untracked"] if not vma.tracked else []
    return ", ".join(notes)


def title_of(process: Process) -> str:
    """What the page is called."""
    return f"{_text(process.name)} ({process.pid}) – predump report"
