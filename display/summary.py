"""Of whom a checkpoint is, and its rounds."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from rich.console import RenderableType

from display.listing import CELL_MAX, ROWS_MAX, Column, block, listing, numbers
from display.units import bytes_text, clip, counted, duration_text, pages_cell, pages_text, ratio_text
from formats.images import Images, Round
from formats.manifest import Host, Manifest, Process, RoundKind, Stats

COMMAND_COLUMNS = 300
_COMMAND_WORDS = 100


def time_text(realtime_ns: int) -> str:
    """A CLOCK_REALTIME in local time."""
    try:
        moment = datetime.fromtimestamp(realtime_ns // 10**9, UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        return f"{realtime_ns} ns after 1970"  # an image may claim any number
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"


def _who(manifest: Manifest, process: Process) -> str:
    text = f"{clip(process.name, 40)}, pid {process.pid}, {counted(len(process.threads), 'thread')}"
    n_processes = len(manifest.processes)
    if n_processes == 1:
        return text
    n_threads = sum(len(item.threads) for item in manifest.processes)
    return f"{text}; root of {counted(n_processes, 'process', 'processes')} with {counted(n_threads, 'thread')}"


def _host_text(host: Host) -> str:
    """Its name and its system, as far as they are known: CRIU's images have the machine only."""
    system = " ".join(part for part in ("Linux", host.kernel_release, host.machine) if part)
    return f"{host.hostname}, {system}" if host.hostname else system


class RoundSummary(NamedTuple):
    """What is shown of every round."""

    number: int
    kind: RoundKind
    stats: Stats
    notes: str


def round_summaries(images: Images) -> list[RoundSummary]:
    """Of all rounds, ascending; raises what `Images.rounds` raises."""
    return [_summary(info) for info in images.rounds]


def _summary(info: Round) -> RoundSummary:
    notes = [clip(info.manifest.full_reason, CELL_MAX)] if info.manifest.full else []
    notes += ["streamed while frozen"] if info.manifest.streamed_while_frozen else []
    return RoundSummary(info.number, info.manifest.kind, info.manifest.stats, "; ".join(notes))


def target_block(info: Round, rounds: Sequence[RoundSummary]) -> RenderableType | None:
    """Whose memory it is, taken when, how long frozen, how big, in a few lines."""
    manifest = info.manifest
    process = info.process(manifest.root_pid) or manifest.processes[0]
    stored_bytes = sum(item.stats.stored_bytes for item in rounds)
    how = (
        f"frozen for {duration_text(manifest.stats.frozen_ns)}"
        if manifest.kind is RoundKind.DUMP
        else "taken while it ran: pages may be torn until a dump, which also takes the state"
    )
    build_id = f" (build id {process.exe_build_id})" if process.exe_build_id else ""
    values = [
        ("process", _who(manifest, process)),
        ("command", clip(shlex.join(process.cmdline[:_COMMAND_WORDS]), COMMAND_COLUMNS) or "-"),
        ("executable", (clip(process.exe, COMMAND_COLUMNS) or "-") + build_id),
        ("host", _host_text(manifest.host)),
        ("round", f"{info.number} ({manifest.kind.value}), {time_text(manifest.created_ns)}, {how}"),
        (
            "memory",
            f"{pages_text(manifest.stats.pages_present)} present, {bytes_text(stored_bytes)} stored in all rounds",
        ),
    ]
    if manifest.kind is RoundKind.DUMP and (phases := phases_text(manifest.stats)):
        values.append(("freeze", f"by {manifest.freeze_by}: {phases}" if manifest.freeze_by else phases))
    return block("", values)


def phases_text(stats: Stats) -> str:
    """What a freeze consisted of, in its order."""
    return ", ".join(f"{name} {duration_text(ns)}" for name, ns in stats.phases().items() if ns)


def rounds_table(rounds: Sequence[RoundSummary]) -> RenderableType | None:
    """One line a round, the last ones where there are too many."""
    figures = ("data", "parent", "stored", "ratio", "time", "frozen")
    columns = (*numbers("round"), Column("kind"), *numbers(*figures), Column("note", wraps=True))
    n_earlier = max(len(rounds) - ROWS_MAX, 0)
    title = f"Rounds (after {counted(n_earlier, 'earlier one')})" if n_earlier else "Rounds"
    rows = []
    for number, kind, stats, notes in rounds[n_earlier:]:
        rows.append(
            (
                str(number),
                kind.value,
                pages_cell(stats.pages_data),
                pages_cell(stats.pages_parent),
                bytes_text(stats.stored_bytes),
                ratio_text(stats.raw_bytes, stats.stored_bytes),
                duration_text(stats.duration_ns) if stats.duration_ns else "-",
                duration_text(stats.frozen_ns) if stats.frozen_ns else "-",
                notes,
            )
        )
    return listing(title, columns, rows, len(rows))
