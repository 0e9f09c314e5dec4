"""A stream as a place for rounds: what was sent cannot be read again, so nothing is compared with it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dumper.destination import Destination
from dumper.events import Emit
from dumper.freeze import Freeze
from dumper.handover import Handover, HandoverOptions
from dumper.kernel.recheck import Recheck
from dumper.kernel.runs import RunList
from dumper.lease import ChainState
from dumper.neededfiles import NeededFiles
from dumper.recheck import recheck_with_nothing
from dumper.target import Target
from formats.checkpoint import RoundInfo
from formats.errors import PredumpError
from formats.roundfiles import RoundFiles
from streams.link import LinkOptions
from streams.places import name_of
from streams.relay import Relay
from streams.sender import Sender
from streams.sending import open_outgoing
from streams.transport import Outgoing


class StreamDestination(Destination):
    """A new checkpoint, sent round by round."""

    is_far = True

    def __init__(self, outgoing: Outgoing, name: str, handover: HandoverOptions | None = None) -> None:
        """With `handover` the process goes over with its dump, if the receiver restores, and is killed then.

        Raises StreamBroken, StreamRefused, StreamCorrupt, HandoverFailed.
        """
        self.name = name
        self.last: RoundInfo | None = None
        self.removed: list[int] = []
        self.confirms = outgoing.acknowledges
        self._outgoing = outgoing
        self._sender = Sender(outgoing)
        self._sender.greet()
        self._handover = Handover(self._sender, name, handover) if handover else None
        self.hands_over = self._handover is not None and self._handover.is_wanted
        self._files: NeededFiles | None = None
        if handover and self.hands_over:
            self._files = NeededFiles(self._sender, name, copies=handover.copies_files)

    @property
    def next_number(self) -> int:
        """The number of the round to come."""
        return self.last.number + 1 if self.last else 1

    def open_round(self) -> RoundFiles:
        """Begins the round to come. Raises StreamBroken, StreamRefused."""
        return self._sender.open_round(self.next_number)

    @contextmanager
    def for_child(self) -> Iterator[Callable[[], None]]:
        """The child sends through this process. Raises StreamBroken, StreamRefused if that is what ended it."""
        with Relay(self._outgoing) as relay:

            def enter_child() -> None:
                self._sender = Sender(relay.outgoing_of_child())

            try:
                yield enter_child
            except PredumpError as error:
                raise relay.failure or error from None

    def check_place(self, first: int) -> None:
        """The receiver sees to that."""

    def continues(self, state: ChainState) -> bool:
        """Tracking that began before the stream did refers to no round of it."""
        return False

    def has_rounds(self, first: int, last: int, pid: int) -> bool:
        """Nothing is known of rounds that were not sent."""
        return False

    def refuse_other_target(self, target: Target, boot_id: str) -> None:
        """A new checkpoint takes any."""

    def read_last_runs(self, pid: int) -> RunList:
        """No earlier round can be read."""
        return RunList(1)

    def recheck(self, pid: int, threads: int) -> Recheck:
        """No earlier round can be compared with: what may have been written unseen is sent again."""
        return recheck_with_nothing()

    def check_files(self, pids: Sequence[int]) -> None:
        """See Destination. Raises HandoverFailed, StreamBroken, StreamRefused, StreamCorrupt."""
        if self._files:
            self._files.check(self.last.manifest if self.last else None, pids)

    def prepare_handover(self) -> None:
        """See Destination. Raises StreamBroken, StreamRefused."""
        assert self._handover
        self._handover.ask_to_build(self._sender)

    def hand_over(self, freeze: Freeze, emit: Emit, confirm: Callable[[], None]) -> None:
        """See Destination. Raises as Handover.take_place."""
        assert self._handover
        assert self.last
        self._handover.take_place(freeze, emit, self.last.number, confirm)

    def close(self) -> None:
        """Whoever opened the transport ends the stream: only there is it known whether all went well."""


@contextmanager
def open_stream(where: str, link: LinkOptions | None = None) -> Iterator[StreamDestination]:
    """A destination for a Session within the block: "-", "exec:COMMAND ...", or "tls://HOST:PORT" with `link`.

    The stream is complete when the block ends, and cut off if it fails. Raises UsageError, StreamBroken, StreamRefused,
    and for an address StorageError, StreamUntrusted.
    """
    with open_outgoing(where, link or LinkOptions()) as outgoing:
        yield StreamDestination(outgoing, name_of(where))
