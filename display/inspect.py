"""A checkpoint for people, section by section: the summary, the rounds, the tree, and the details of one process."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.console import RenderableType

from analysis.subject import Subject
from display.descriptors import descriptors_table
from display.environment import environment_block
from display.listing import apart, line
from display.memory import objects_table, vmas_table
from display.missing import missing_table
from display.openfiles import OpenFiles
from display.restorable import restorable_tables
from display.rounds import rounds_table, stats_block
from display.signals import dispositions_table, pending_block, timers_block
from display.summary import summary
from display.threads import threads_table
from display.tree import tree_table
from display.units import clip
from display.view import View
from formats.restorable import verdict_on

_NAME_MAX = 15

_Section = Callable[[Subject, View], Iterable[RenderableType | None]]


def _whose(subject: Subject) -> str:
    """Behind titles: of which process of a tree it is."""
    process = subject.process
    is_tree = len(subject.manifest.processes) > 1
    return f" of {process.pid} ({clip(process.name, _NAME_MAX)})" if is_tree else ""


def _threads(subject: Subject, view: View) -> Iterator[RenderableType | None]:
    process = subject.process
    if process.zombie:
        yield line(f"Process {process.pid} is a zombie: it has no memory, threads or files left.")
    yield threads_table(process, _whose(subject), view.columns, view.rows())


def _files(subject: Subject, view: View) -> Iterator[RenderableType | None]:
    files = OpenFiles(subject.manifest)
    yield descriptors_table(subject.process, files, _whose(subject), view.columns, view.rows())


def _signals(subject: Subject, view: View) -> Iterator[RenderableType | None]:
    yield dispositions_table(subject.process, _whose(subject), view.rows())
    yield pending_block(subject.process, _whose(subject))
    yield timers_block(subject.process, _whose(subject))


def _restore(subject: Subject, view: View) -> list[RenderableType | None]:
    return restorable_tables(verdict_on(subject.manifest), subject.manifest, view.rows())


_SECTIONS: dict[str, _Section] = {
    "summary": lambda subject, view: [summary(subject, view)],
    "missing": lambda subject, view: [missing_table(subject.manifest, view.rows())],
    "restore": _restore,
    "rounds": lambda subject, view: [rounds_table(subject.survey.rounds, view.rows())],
    "stats": lambda subject, _view: [stats_block(subject.manifest)],
    "tree": lambda subject, view: [tree_table(subject.manifest, view.rows())],
    "threads": _threads,
    "files": _files,
    "signals": _signals,
    "objects": lambda subject, view: [objects_table(subject.manifest, view.rows())],
    "vmas": lambda subject, view: [vmas_table(subject, _whose(subject), view)],
    "environment": lambda subject, _view: [environment_block(subject.manifest, subject.process, _whose(subject))],
}


def shown(subject: Subject, view: View, sections: Sequence[str]) -> RenderableType:
    """These sections, in their order; one that has nothing to show is left out."""
    pieces = [piece for name in sections for piece in _SECTIONS[name](subject, view) if piece is not None]
    return apart(pieces) if pieces else line(f"There is nothing to show: {', '.join(sections)}.")
