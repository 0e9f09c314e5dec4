"""What somebody looks at in images: one process as of a round, some of its mappings, and the rounds around it."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.mappings import Mappings, Order
from analysis.selection import VmaSelection
from analysis.survey import Survey, survey
from formats.errors import UsageError
from formats.images import Images, Round
from formats.manifest import Manifest, Process

_PIDS_IN_HINT = 10


@dataclass(frozen=True, slots=True)
class Subject:
    """A process of a round; `chosen` are the mappings that are meant, in the order that is wanted."""

    images: Images
    info: Round
    process: Process
    survey: Survey
    mappings: Mappings
    chosen: list[int]

    @property
    def manifest(self) -> Manifest:
        """What the round says of itself."""
        return self.info.manifest


def subject_of(
    images: Images,
    number: int | None = None,
    pid: int | None = None,
    selection: VmaSelection | None = None,
    order: Order = Order.ADDRESS,
) -> Subject:
    """Process `pid` (the root) as of round `number` (the selected one).

    Raises UsageError for a round or process that is not there, ImageCorrupt, ImageVersionUnsupported, StorageError for
    the round itself; what is wrong with others the survey has.
    """
    info = images.round(number)
    process = process_of(images, info, pid)
    surveyed = survey(images, process)
    mappings = Mappings(info, process, surveyed.written)
    return Subject(images, info, process, surveyed, mappings, mappings.chosen(selection or VmaSelection(), order))


def process_of(images: Images, info: Round, pid: int | None) -> Process:
    """Process `pid` (the root) of a round. Raises UsageError if the round has no such process."""
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
