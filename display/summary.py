"""A checkpoint on one screen: what one asks first, the largest mappings, and where there is more."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.mappings import Order, PageKind
from analysis.selection import VmaSelection
from analysis.subject import Subject
from analysis.survey import RoundFigures
from display.listing import Column, line, listing, numbers, safe_text
from display.memory import stored_text, vma_text, writers_text, written_text
from display.missing import missing_briefly
from display.pagebar import bar_legend, page_bar
from display.program import command_text, host_text
from display.restorable import restorable_briefly
from display.rounds import phases_text
from display.units import bytes_text, counted, duration_text, pages_cell, pages_text, ratio_text, time_text
from display.view import View
from formats.manifest import RoundKind
from formats.restorable import Verdict, verdict_on

_LINES = 23  # of a screen, but for the prompt
_LINES_BESIDES = 6  # blank ones, heads, the legend, and where there is more
_MAPPINGS_MIN, _MAPPINGS_MAX = 3, 8
_NAMES_COLUMNS = 7
_NAME_MAX = 24
_MISSING_LINES = 3
_PROBLEMS_SHOWN = 2
_NUMBERS_COLUMNS = 52  # of the table of mappings, before its bar and last column
_BAR_MIN, _BAR_MAX = 10, 32

_Fact = tuple[str, str, str]
"""Its name, what it is, and the style of that."""


def summary(subject: Subject, view: View) -> RenderableType:
    """What one asks first, in the lines of a usual terminal."""
    verdict = verdict_on(subject.manifest)
    facts = list(_facts(subject, view, verdict))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="bold", min_width=_NAMES_COLUMNS, no_wrap=True)
    grid.add_column(max_width=max(view.columns - _NAMES_COLUMNS - 1, 1), no_wrap=True, overflow="ellipsis")
    for name, value, style in facts:
        text = safe_text(value)
        text.stylize(style)
        grid.add_row(name, text)
    n_rows = _LINES - len(facts) - _LINES_BESIDES
    largest = _largest(subject, view, max(_MAPPINGS_MIN, min(n_rows, _MAPPINGS_MAX)))
    return Group(grid, *largest, Text(), line(_more(subject, verdict)))


def _facts(subject: Subject, view: View, verdict: Verdict) -> Iterator[_Fact]:
    manifest, process = subject.manifest, subject.process
    stats = manifest.stats
    yield "process", _who(subject), "bold"
    yield "command", command_text(process, view.columns) or "-", ""
    yield "taken", f"{time_text(manifest.created_ns)} on {host_text(manifest.host)}", ""
    if manifest.kind is RoundKind.DUMP:
        foretold = f", predicted {duration_text(stats.predicted_freeze_ns)}" if stats.predicted_freeze_ns else ""
        how = f" (by {manifest.freeze_by.value})" if manifest.freeze_by else ""
        yield "frozen", f"for {duration_text(stats.frozen_ns)}{how}{foretold}", ""
        if phases := phases_text(stats):
            yield "", phases, ""
    else:
        yield (
            "frozen",
            "never: pages may be torn until a dump, which also takes the state",
            "yellow",
        )
    yield "rounds", _rounds(subject), ""
    yield "size", _size(subject), ""
    yield from _wholeness(subject)
    name = "missing"
    for text in missing_briefly(manifest, _MISSING_LINES):
        yield name, text, "yellow"
        name = ""
    if manifest.kind is RoundKind.DUMP:
        yield "restore", restorable_briefly(verdict, manifest), "green" if verdict.is_restorable else "yellow"
    if process.unseen_writers:
        yield "unseen", f"writes by {writers_text(process)}: pages may be older than the round", "yellow"


def _who(subject: Subject) -> str:
    process, processes = subject.process, subject.manifest.processes
    n_children = sum(item.ppid == process.pid for item in processes)
    parts = [f"{process.name[:_NAME_MAX]}, pid {process.pid}", counted(len(process.threads), "thread")]
    parts += [counted(n_children, "child", "children")] if n_children else []
    text = ", ".join(parts)
    if process.zombie:
        text = f"{parts[0]}, a zombie: it has no memory, threads or files left"
    if len(processes) == 1:
        return text
    n_threads = sum(len(item.threads) for item in processes)
    tree = f"{counted(len(processes), 'process', 'processes')} with {counted(n_threads, 'thread')}"
    return f"{text}; {'root' if process.pid == subject.manifest.root_pid else 'one'} of {tree}"


def _rounds(subject: Subject) -> str:
    rounds = subject.survey.rounds
    n_dumps = sum(item.kind is RoundKind.DUMP for item in rounds)
    kinds = [counted(len(rounds) - n_dumps, "pre-dump")] if len(rounds) > n_dumps else []
    kinds += [counted(n_dumps, "dump")] if n_dumps else []
    text = f"{len(rounds):,} ({', '.join(kinds)})"
    first = rounds[0] if rounds else None
    if first is not None and len(rounds) > 1:
        text += f" since {time_text(first.created_ns)}; this is {subject.info.number}"
    return text


def _size(subject: Subject) -> str:
    rounds = subject.survey.rounds
    raw_bytes, stored_bytes = (sum(each) for each in zip(*map(_bytes_of, rounds), strict=True)) if rounds else (0, 0)
    parts = [f"{pages_text(subject.manifest.stats.pages_present)} present"]
    where = "in all rounds" if len(rounds) > 1 else "in the round"
    parts.append(f"{bytes_text(raw_bytes)} raw, {bytes_text(stored_bytes)} stored {where}")
    return f"{'; '.join(parts)} ({ratio_text(raw_bytes, stored_bytes)})"


def _bytes_of(figures: RoundFigures) -> tuple[int, int]:
    return figures.stats.raw_bytes, figures.stats.stored_bytes


def _wholeness(subject: Subject) -> Iterator[_Fact]:
    survey = subject.survey
    if survey.is_whole:
        there = counted(len(subject.images.numbers), "round")
        # A manifest of CRIU's images names no files, and `verify` is not for them.
        files = f"{counted(survey.files, 'file')} by size and index; 'verify' reads every byte"
        yield "whole", f"yes: {there}, {files if survey.files else 'as far as sizes tell'}", "green"
        return
    yield "whole", f"NO: {counted(survey.n_findings, 'problem')}; 'verify' reads every byte", "bold red"
    for finding in survey.findings[:_PROBLEMS_SHOWN]:
        yield "", finding.message.replace(f"{subject.images.path}/", "", 1), "red"


def _largest(subject: Subject, view: View, rows_max: int) -> list[RenderableType]:
    """The mappings with most content, and what their bars mean."""
    chosen = subject.mappings.chosen(VmaSelection(), Order.PRESENT)[:rows_max]
    bar_columns = max(_BAR_MIN, min(view.columns - 2 * _NUMBERS_COLUMNS, _BAR_MAX))
    what_columns = max(view.columns - _NUMBERS_COLUMNS - bar_columns, _BAR_MIN)
    kinds: set[PageKind] = set()
    rows = []
    for position, item in enumerate(map(subject.mappings.mapping, chosen)):
        if position and not item.pages_present:
            break  # clean pages of files, and what was never touched
        kinds.update(kind for kind, n_pages in item.pages.items() if n_pages)
        rows.append(
            (
                f"{item.vma.start_addr:012x}",
                vma_text(item.vma, what_columns),
                pages_cell(item.vma.n_pages),
                pages_cell(item.pages_present),
                stored_text(item.stored_bytes),
                written_text(item.times_written),
                page_bar(item.pages, bar_columns, plain=view.plain),
            )
        )
    head = (Column("start"), Column("mapping"), *numbers("size", "present", "stored", "written"), Column("pages"))
    table = listing("", head, rows, len(rows))
    return [Text(), table, line(bar_legend(kinds, plain=view.plain))] if table is not None else []


def _more(subject: Subject, verdict: Verdict) -> str:
    """Which sections there are, and of how much."""
    manifest, process = subject.manifest, subject.process
    n_files = len(process.state.descriptors) if process.state else 0
    n_missing = sum(len(item.missing) + len(item.unreadable) for item in manifest.processes)
    counts = {
        "rounds": len(subject.survey.rounds),
        "vmas": len(process.vmas),
        "threads": len(process.threads),
        "files": n_files,
        "tree": len(manifest.processes) if len(manifest.processes) + len(manifest.ended) > 1 else 0,
        "objects": len(manifest.objects),
        "missing": n_missing,
        "restore": len(verdict.obstacles) + len(verdict.warnings),
    }
    sections = [f"{name} ({n:,})" for name, n in counts.items() if n]
    sections += ["signals"] if process.state else []
    return f"More: --show {', '.join([*sections, 'stats', 'environment'])} or all"
