"""Where a command on a live process puts its rounds: a directory, or a stream."""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from commands.linkoptions import LinkChoice, link_options
from commands.options import IMAGE_PATH
from display.reporter import Reporter
from formats.errors import UsageError
from streams.places import FORMS, STDOUT, name_of

if TYPE_CHECKING:
    from dumper.destination import Destination
    from formats.checkpoint import RoundInfo
    from streams.transport import Outgoing


class Place(NamedTuple):
    """What -D or --to names: a directory, or where a stream goes, and how if over TCP."""

    directory: Path | None
    to: str
    link: LinkChoice

    @property
    def words(self) -> str:
        """For people."""
        return name_of(self.to) if self.directory is None else str(self.directory)

    @property
    def fields(self) -> dict[str, object]:
        """For a result."""
        return {"checkpoint": str(self.directory.absolute())} if self.directory is not None else {"to": self.to}


def place_options(function: Callable[..., int]) -> Callable[..., int]:
    """-D/--images-dir and --to, of which exactly one is needed; the command gets `place`."""

    @click.option(
        "-D", "--images-dir", "directory", type=IMAGE_PATH, metavar="DIR", help="The checkpoint; made if it is missing."
    )
    @to_option(required=False)
    @link_options(sends=True)
    @functools.wraps(function)
    def wrapped(
        reporter: Reporter, *, directory: Path | None, to: str | None, link: LinkChoice, **options: object
    ) -> int:
        if (directory is None) == (to is None):
            raise click.UsageError("say where it goes, with -D DIR or --to")
        return function(reporter, place=Place(directory, to or "", link), **options)

    return wrapped


def to_option(*, required: bool) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """--to."""
    return click.option(
        "--to", metavar="WHERE", required=required, help=f"Send it as a stream: {FORMS} ('predump receive')."
    )


def tell_round(reporter: Reporter, info: "RoundInfo") -> None:
    """The event of a round that was sent, or has arrived."""
    kind = info.manifest.kind.value
    reporter.event({"type": "round", "round": info.number, "kind": kind, "stored_bytes": info.files_bytes})


def open_outgoing(reporter: Reporter, place: Place) -> AbstractContextManager["Outgoing"]:
    """The stream's transport; what is said goes to standard error if the stream goes to standard output.

    Raises as streams.sending.open_outgoing, and click.UsageError.
    """
    from streams.sending import open_outgoing

    if place.to == STDOUT:
        reporter.leave_stdout()
    return open_outgoing(place.to, place.link.options(reporter.notice))


@contextmanager
def open_destination(
    reporter: Reporter, place: Place, *, kill: bool, keep_tracking: bool, handover_ns: int, copy_files: bool
) -> Iterator["Path | Destination"]:
    """For a Session that is to `kill`, and hand the process over, or not. Raises as `open_outgoing`."""
    if place.directory is not None:
        yield place.directory
        return
    if keep_tracking:
        raise UsageError(
            "--keep-tracking is for later commands with the same checkpoint directory, and a stream has none",
            hint="Use -D DIR, or let go of the target.",
        )
    from dumper.destination import kill_unconfirmed
    from dumper.handover import HandoverOptions
    from dumper.streamdestination import StreamDestination

    with open_outgoing(reporter, place) as outgoing:
        if kill and not outgoing.acknowledges:
            raise kill_unconfirmed(place.words)  # the session would say so, too, but with the stream begun
        options = HandoverOptions(
            timeout_s=handover_ns / 1e9, patience_s=place.link.reconnect_ns / 1e9, copies_files=copy_files
        )
        yield StreamDestination(outgoing, place.words, options if kill else None)
