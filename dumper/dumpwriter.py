"""The pages of a dump into its round: out of the staging memory, of processes that stand still, and of clones."""

from dumper.dumpedprocesses import DumpedProcesses
from dumper.events import Emit, Notice
from dumper.kernel.copy import FileMaps, Source, StagingMemory
from dumper.objects import ObjectSet
from dumper.output import ImageOutput, RoundOutput
from dumper.processdump import ProcessDump
from dumper.snapshot import Snapshot
from dumper.staging import Staging
from dumper.undertaker import Undertaker


class DumpWriter:
    """`object_outputs` are those of memory objects that were written, by their id."""

    def __init__(self, processes: DumpedProcesses, objects: ObjectSet, memory: StagingMemory, emit: Emit) -> None:
        self.object_outputs: dict[int, ImageOutput] = {}
        self._processes = processes
        self._objects = objects
        self._memory = memory
        self._emit = emit

    def fits(self) -> bool:
        """Whether all that was written last is in the staging memory."""
        return all(staging.fits for staging in self._stagings())

    def write_frozen(self, output: RoundOutput) -> None:
        """Writes what is staged, and what found no room there; clones keep theirs. Raises StorageError."""
        self._write(output, None, frozen=True)

    def write(self, output: RoundOutput, undertaker: Undertaker | None) -> None:
        """Writes what is staged, and what clones hold, unless it was written in the freeze.

        Raises StorageError, SnapshotLostError.
        """
        self._write(output, undertaker, frozen=False)

    def _stagings(self) -> list[Staging]:
        of_objects = [one.staging for one in self._objects]
        return [process.staging for process in self._processes] + of_objects

    def _write(self, output: RoundOutput, undertaker: Undertaker | None, *, frozen: bool) -> None:
        staged = Source(0, -1, FileMaps(), self._memory)
        for process in self._processes:
            if process.output or (frozen and process.snapshot and process.staging.fits):
                continue
            process.output = output.process(process.member.pid)
            if process.snapshot and not frozen:
                self._write_clone(process.output, process, process.snapshot, undertaker)
            else:
                _write(process.output, process.staging, process.source() if frozen else staged)
        for one in self._objects:
            if one.id not in self.object_outputs:
                one_output = self.object_outputs[one.id] = output.object(one.id)
                _write(one_output, one.staging, one.source(self._memory) if frozen else staged)

    def _write_clone(
        self, output: ImageOutput, process: ProcessDump, snapshot: Snapshot, undertaker: Undertaker | None
    ) -> None:
        with snapshot.lost_if_gone():
            process.open_clone()
            _write(output, process.staging, snapshot.source(self._memory))
        snapshot.confirm()
        snapshot.close()
        if snapshot.is_left:
            self._emit(_clone_left(process.member.pid, snapshot.child))
        elif undertaker:
            undertaker.forget(snapshot.child)


def _write(output: ImageOutput, staging: Staging, source: Source) -> None:
    output.write(staging.picture, source)
    # Those of the freeze: what it takes to read the staging memory is none of them.
    output.figures.scan_ns, output.figures.copy_ns = staging.scan_ns, staging.copy_ns


def _clone_left(pid: int, child: int) -> Notice:
    return Notice(
        pid=pid,
        subject="clone-left",
        message=f"process {pid} could not be stopped to reap its clone {child}: it is a zombie of it for a while",
    )
