"""A checkpoint for people: its target and its rounds, the tree, and the details of one process of one round."""

from collections.abc import Iterator

from rich.console import RenderableType

from display.descriptors import descriptors_table
from display.environment import environment_block
from display.listing import apart, line
from display.memory import objects_table, vmas_table
from display.missing import missing_table
from display.openfiles import OpenFiles
from display.signals import dispositions_table, pending_block, timers_block
from display.summary import round_summaries, rounds_table, target_block
from display.threads import threads_table
from display.tree import tree_table
from display.units import clip
from formats.errors import UsageError
from formats.images import Images, Round
from formats.manifest import Process

_NAME_MAX = 15
_PIDS_IN_HINT = 10


def _process(images: Images, info: Round, pid: int | None) -> Process:
    processes = info.manifest.processes
    process = info.process(info.manifest.root_pid if pid is None else pid)
    if process is not None:
        return process
    if pid is None:
        return processes[0]
    pids = ", ".join(str(item.pid) for item in processes[:_PIDS_IN_HINT])
    more = ", ..." if len(processes) > _PIDS_IN_HINT else ""
    raise UsageError(
        f"Round {info.number} of {images.path} has no process {pid}.",
        hint=f"Its processes are {pids}{more}.",
        path=str(images.path),
        round=info.number,
        pid=pid,
    )


def _sections(images: Images, info: Round, process: Process, columns: int) -> Iterator[RenderableType | None]:
    manifest = info.manifest
    is_tree = len(manifest.processes) > 1
    whose = f" of {process.pid} ({clip(process.name, _NAME_MAX)})" if is_tree else ""
    rounds = round_summaries(images)
    yield target_block(info, rounds)
    yield missing_table(manifest)
    yield rounds_table(rounds)
    yield tree_table(manifest)
    if process.zombie:
        yield line(f"Process {process.pid} is a zombie: it has no memory, threads or files left.")
    yield threads_table(process, whose, columns)
    yield descriptors_table(process, OpenFiles(manifest), whose, columns)
    yield dispositions_table(process, whose)
    yield pending_block(process, whose)
    yield timers_block(process, whose)
    yield objects_table(manifest)
    yield vmas_table(process, whose, columns)
    yield environment_block(manifest, process, whose)


def whole(images: Images, info: Round, columns: int, pid: int | None = None) -> RenderableType:
    """Everything, the most asked first, for a terminal of so many columns.

    The details are those of process `pid`, by default of the root. Raises UsageError if the round has no such process,
    and what `Images.rounds` raises.
    """
    process = _process(images, info, pid)
    return apart(_sections(images, info, process, columns))
