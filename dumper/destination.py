"""Where the rounds of a session go: what it asks of a checkpoint directory, and of anything else that takes rounds."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dumper.events import Emit
from dumper.freeze import Freeze
from dumper.kernel.recheck import Recheck
from dumper.kernel.runs import RunList
from dumper.lease import ChainState
from dumper.target import Target
from formats.checkpoint import RoundInfo
from formats.closing import Closing
from formats.errors import UsageError
from formats.roundfiles import RoundFiles


class Destination(Closing, ABC):
    """Takes one round after the other.

    name: for messages; last: the round that was committed last, which the next one builds on; removed: numbers of
    rounds that somebody left unfinished; confirms: whether a round that is committed is known to be on disk; is_far:
    it is sent somewhere, which takes longer than writing it does; hands_over: processes that are killed here run there.
    """

    name: str
    last: RoundInfo | None
    removed: list[int]
    confirms: bool = True
    is_far: bool = False
    hands_over: bool = False

    @property
    @abstractmethod
    def next_number(self) -> int:
        """The number of the round to come."""

    @abstractmethod
    def open_round(self) -> RoundFiles:
        """Begins the round to come. Raises StorageError."""

    @contextmanager
    def for_child(self) -> Iterator[Callable[[], None]]:
        """A process that is forked in the block may write a round; it calls what is given here first."""
        yield lambda: None

    @abstractmethod
    def check_place(self, first: int) -> None:
        """Raises StorageError if it, or a round from `first` on, is not where it was."""

    @abstractmethod
    def continues(self, state: ChainState) -> bool:
        """Whether the last round is the one that `state` speaks of."""

    def check_files(self, pids: Sequence[int]) -> None:
        """Before the freeze: where processes are to run elsewhere, the files that they need must be there.

        Raises PredumpError.
        """

    def prepare_handover(self) -> None:
        """The dump is on its way, and `hand_over` comes next. Raises as that."""

    def hand_over(self, freeze: Freeze, emit: Emit, confirm: Callable[[], None]) -> None:
        """The dump is committed, and the processes, which are frozen, are about to be killed: a receiver may run them.

        `confirm` has the last word before it does. Raises PredumpError, or what that raises: then they are not to be
        killed.
        """

    def look_again(self) -> None:
        """Another process has written a round here on our behalf: `last` is to be that. Raises PredumpError."""
        raise NotImplementedError

    def full_round(self, first: int) -> int:
        """Where a chain that ended at round `first` ends now: what came before may have been flattened since."""
        return first

    @abstractmethod
    def has_rounds(self, first: int, last: int, pid: int) -> bool:
        """Whether rounds `first` to `last` are there with their files, as far as their names tell."""

    @abstractmethod
    def refuse_other_target(self, target: Target, boot_id: str) -> None:
        """Raises PredumpError if the rounds in it are of another process."""

    @abstractmethod
    def read_last_runs(self, pid: int) -> RunList:
        """All runs of the last round: the pages that the next one may leave to it.

        Raises ImageCorrupt, StorageError.
        """

    @abstractmethod
    def recheck(self, pid: int, threads: int) -> Recheck:
        """What the last round holds of a process, for a comparison with memory.

        Raises ParentMissing, ImageCorrupt, StorageError.
        """


def kill_unconfirmed(name: str) -> UsageError:
    """Why a target is not killed after a dump into a destination of that name, which does not confirm."""
    return UsageError(
        f"a target is killed only when its dump is known to be on disk, and nothing comes back from {name}",
        hint="Use tls:// or 'exec:ssh HOST predump receive -D DIR', or kill the process when it has arrived.",
    )
