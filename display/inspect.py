"""A checkpoint as tables: its target, its rounds, the VMAs and threads of one round."""

import shlex
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from display.units import bytes_text, duration_text, pages_cell, pages_text, printable, ratio_text, tail
from formats.chain import Checkpoint, RoundInfo
from formats.manifest import Process, RoundKind

COMMAND_COLUMNS = 300
VMA_NUMBERS_COLUMNS = 60  # of the VMA table, before the last column


def _table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        is_text = column in ("what", "note")  # the only ones that may take more than a line
        table.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=not is_text)
    return table


def target_text(checkpoint: Checkpoint, info: RoundInfo) -> Text:
    """Whose memory it is, taken when, how long frozen, how big, in a few lines."""
    manifest = info.manifest
    process = info.process(manifest.root_pid) or manifest.processes[0]
    rounds = checkpoint.rounds
    taken = datetime.fromtimestamp(manifest.created_ns / 1e9).astimezone()
    stored_bytes = sum(r.manifest.stats.stored_bytes for r in rounds)
    state = (
        f"frozen for {duration_text(manifest.stats.frozen_ns)}"
        if manifest.kind is RoundKind.DUMP
        else "taken while it ran: pages may be torn until a dump"
    )
    build_id = f" (build id {process.exe_build_id})" if process.exe_build_id else ""
    lines = [
        ("process", f"{printable(process.name)}, pid {process.pid}, {len(process.threads)} thread(s)"),
        ("command", printable(shlex.join(process.cmdline))[:COMMAND_COLUMNS] or "-"),
        ("executable", (printable(process.exe) or "-") + build_id),
        (
            "host",
            printable(f"{manifest.host.hostname}, Linux {manifest.host.kernel_release} {manifest.host.machine}"),
        ),
        (
            "round",
            f"{info.number} of {len(rounds)} ({manifest.kind.value}), {taken:%Y-%m-%d %H:%M:%S %Z}, {state}",
        ),
        (
            "memory",
            f"{pages_text(manifest.stats.pages_present)} present, {bytes_text(stored_bytes)} stored in all rounds",
        ),
    ]
    text = Text()
    for name, value in lines:
        text.append(f"{name:<11}", style="bold")
        text.append(value + "\n")
    for gap in process.unreadable:
        text.append(f"not captured: {gap.start_addr:#x}-{gap.end_addr:#x}: {printable(gap.reason)}\n", style="yellow")
    return text


def rounds_table(checkpoint: Checkpoint) -> Table:
    """One line a round."""
    numbers = ("data", "parent", "stored", "ratio", "time", "frozen")
    table = _table("Rounds", "round", "kind", *numbers, "note", right=("round", *numbers))
    for info in checkpoint.rounds:
        stats = info.manifest.stats
        notes = [info.manifest.full_reason] if info.manifest.full else []
        notes += ["streamed while frozen"] if info.manifest.streamed_while_frozen else []
        table.add_row(
            str(info.number),
            info.manifest.kind.value,
            pages_cell(stats.pages_data),
            pages_cell(stats.pages_parent),
            bytes_text(stats.stored_bytes),
            ratio_text(stats.raw_bytes, stats.stored_bytes),
            duration_text(stats.duration_ns),
            duration_text(stats.frozen_ns) if stats.frozen_ns else "-",
            printable("; ".join(notes)),
        )
    return table


def vmas_table(process: Process, columns: int) -> Table:
    """One line a VMA, with its pages by kind; "absent" are holes and clean pages of files."""
    what_columns = max(16, columns - VMA_NUMBERS_COLUMNS)
    numbers = ("size", "data", "zero", "parent", "absent")
    table = _table("VMAs", "start", "perms", *numbers, "what", right=numbers)
    for vma in process.vmas:
        what = vma.path or vma.kind
        notes = [vma.note] if vma.note else []
        notes += ["untracked"] if not vma.tracked and vma.kind != "special" else []
        table.add_row(
            f"{vma.start_addr:012x}",
            vma.perms,
            pages_cell(vma.n_pages),
            pages_cell(vma.pages_data),
            pages_cell(vma.pages_zero),
            pages_cell(vma.pages_parent),
            pages_cell(vma.pages_absent),
            Text(tail(printable(what + (f" ({', '.join(notes)})" if notes else "")), what_columns)),
        )
    return table


def threads_table(process: Process) -> Table:
    """One line a thread; registers stand in dump rounds only."""
    table = _table("Threads", "tid", "name", "rip", "rsp", "fs_base", "xstate", right=("tid", "xstate"))
    for thread in process.threads:
        pointers = [
            f"{thread.registers[name]:#x}" if name in thread.registers else "-" for name in ("rip", "rsp", "fs_base")
        ]
        xstate = f"{len(thread.xstate)} B" if thread.xstate else "-"
        table.add_row(str(thread.tid), Text(printable(thread.name)), *pointers, xstate)
    return table


def whole(checkpoint: Checkpoint, info: RoundInfo, columns: int) -> RenderableType:
    """Everything, the most asked first, for a terminal of so many columns."""
    process = info.process(info.manifest.root_pid) or info.manifest.processes[0]
    return Group(
        target_text(checkpoint, info),
        rounds_table(checkpoint),
        Text(),
        vmas_table(process, columns),
        Text(),
        threads_table(process),
    )
