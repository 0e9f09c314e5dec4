"""The checkpoint directory as the engine uses it: locked, tidied up, and known to be of this target."""

from contextlib import suppress
from pathlib import Path

from dumper import origins
from dumper.destination import Destination
from dumper.kernel.recheck import Recheck
from dumper.kernel.runs import RunList
from dumper.lease import ChainState
from dumper.recheck import recheck_with
from dumper.target import Target
from formats import layout
from formats.checkpoint import Checkpoint, last_round
from formats.checkpointlock import CheckpointLock
from formats.errors import PredumpError, StorageError
from formats.framereader import FrameReader
from formats.replacing import tidy_up
from formats.rounddirs import is_committed
from formats.roundwriter import RoundWriter


class CheckpointDirectory(Destination):
    """DIR of one command: made if it is missing, and locked against other commands until `close`."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError, CheckpointBusy, ImageCorrupt."""
        self.path = path
        self.name = str(path)
        self._lock = CheckpointLock(path)
        try:
            self.removed = tidy_up(path)
            self.last = last_round(path)
        except BaseException:
            self.close()
            raise

    @property
    def next_number(self) -> int:
        """The number of the round to come."""
        return self.last.number + 1 if self.last else 1

    def open_round(self) -> RoundWriter:
        """Begins the round to come. Raises StorageError."""
        return RoundWriter(self.path, self.next_number)

    def check_place(self, first: int) -> None:
        """Raises StorageError if the directory, or a round from `first` on, is not where it was."""
        if not self._lock.is_in_place():
            raise StorageError.out_of_place(self.path)
        for path in (self.path / layout.round_name(number) for number in range(first, self.next_number)):
            if not is_committed(path):
                raise StorageError.out_of_place(path)

    def continues(self, state: ChainState) -> bool:
        """Whether the last round is the one that `state` speaks of."""
        last = self.last
        return (
            last is not None
            and (last.manifest.checkpoint_id, last.number) == (state.checkpoint_id, state.round)
            and last.is_known_as(state.manifest_sha256)
        )

    def look_again(self) -> None:
        """Another process has written a round here on our behalf: `last` is to be that. Raises ImageCorrupt."""
        self.last = last_round(self.path)

    def full_round(self, first: int) -> int:
        """Where a chain that ended at round `first` ends now; `first` if that cannot be told."""
        if is_committed(self.path / layout.round_name(first)):
            return first
        with suppress(PredumpError):  # what is damaged, or gone, is nothing to build on
            checkpoint = Checkpoint.open(self.path)
            oldest = checkpoint.numbers[0]
            if oldest > first and checkpoint.round(oldest).manifest.full:
                return oldest
        return first

    def has_rounds(self, first: int, last: int, pid: int) -> bool:
        """Whether rounds `first` to `last` are there with their files, as far as their names tell."""
        names = (layout.MANIFEST_NAME, layout.pages_name(pid), layout.pagemap_name(pid))
        return all(
            (self.path / layout.round_name(number) / name).is_file()
            for number in range(first, last + 1)
            for name in names
        )

    def refuse_other_target(self, target: Target, boot_id: str) -> None:
        """Raises PredumpError if the rounds in it are of another process."""
        if self.last is None:
            return
        manifest = self.last.manifest
        process = self.last.process(manifest.root_pid)
        origin = origins.of(target) or origins.Origin(target.start_time_ticks, boot_id)
        if (
            process is None
            or (process.pid, process.start_time_ticks) != (target.pid, origin.start_time_ticks)
            or manifest.host.boot_id not in (boot_id, origin.boot_id)
        ):
            what = f"{process.name} with pid {process.pid}" if process else f"pid {manifest.root_pid}"
            raise PredumpError(
                f"{self.path} is a checkpoint of another process ({what}, an earlier one if the pid is the same)",
                hint="Choose another directory with -D for this process.",
                path=str(self.path),
                pid=target.pid,
            )

    def read_last_runs(self, pid: int) -> RunList:
        """All runs of the last round: the pages that the next one may leave to it.

        Raises ImageCorrupt, StorageError.
        """
        runs = RunList(1024)
        if self.last is not None:
            name = layout.pagemap_name(pid)
            with FrameReader(
                self.last.path / name,
                max_frame_bytes=layout.PAGEMAP_FRAME_BYTES,
                content_unit_bytes=layout.RUN.size,
                entry=self.last.file(name),
            ) as reader:
                for index in range(reader.frame_count):
                    runs.extend_packed(reader.read_frame(index))
        return runs

    def recheck(self, pid: int, threads: int) -> Recheck:
        """What the last round holds of a process, for a comparison with memory.

        Raises ParentMissing, ImageCorrupt, StorageError.
        """
        return recheck_with(self.path, pid, threads)

    def close(self) -> None:
        """Unlocks the directory."""
        self._lock.close()
