"""Where a command on a live process puts its rounds: a directory, or a stream."""

import functools
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from commands.linkoptions import LinkChoice, link_options
from commands.options import IMAGE_PATH
from display.reporter import Reporter
from formats.errors import UsageError

if TYPE_CHECKING:
    from dumper.destination import Destination
    from streams.transport import Outgoing

STDOUT = "-"
COMMAND_PREFIX = "exec:"
FORMS = "- for standard output, 'exec:COMMAND ...' for a command that receives, or tls://HOST:PORT"


class Place(NamedTuple):
    """What -D or --to names: a directory, or where a stream goes, and how if over TCP."""

    directory: Path | None
    to: str
    link: LinkChoice

    @property
    def words(self) -> str:
        """For people."""
        if self.directory is not None:
            return str(self.directory)
        return "standard output" if self.to == STDOUT else self.to

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


@contextmanager
def open_outgoing(reporter: Reporter, place: Place) -> Iterator["Outgoing"]:
    """The stream's transport; the stream is cut off if the block fails.

    Raises UsageError, StreamBroken, and of a link StorageError, StreamRefused, StreamUntrusted.
    """
    from streams.link import connect, is_address
    from streams.pipe import CommandOutgoing, PipeOutgoing

    outgoing: Outgoing
    to = place.to
    if to == STDOUT:
        reporter.leave_stdout()
        outgoing = PipeOutgoing(1)
    elif to.startswith(COMMAND_PREFIX) and (words := shlex.split(to.removeprefix(COMMAND_PREFIX))):
        outgoing = CommandOutgoing(words)
    elif is_address(to):
        outgoing = connect(to, place.link.options(reporter.notice))
    else:
        raise UsageError(f"{to!r} is no place for a stream", hint=f"It is {FORMS}.")
    try:
        yield outgoing
    except BaseException:
        outgoing.give_up()  # what is there of it must not look complete
        raise
    finally:
        outgoing.close()


@contextmanager
def open_destination(
    reporter: Reporter, place: Place, *, kill: bool, keep_tracking: bool
) -> Iterator["Path | Destination"]:
    """For a Session. A target is killed only when its dump is known to be on disk.

    Raises UsageError, StreamBroken, StreamRefused.
    """
    if place.directory is not None:
        yield place.directory
        return
    if keep_tracking:
        raise UsageError(
            "--keep-tracking is for later commands with the same checkpoint directory, and a stream has none",
            hint="Use -D DIR, or let go of the target.",
        )
    from dumper.streamdestination import StreamDestination

    with open_outgoing(reporter, place) as outgoing:
        if kill and not outgoing.acknowledges:
            raise UsageError(
                f"--kill needs to know that the dump is on disk, and nothing comes back from {place.words}",
                hint="Use tls:// or 'exec:ssh HOST predump receive -D DIR', or kill the process when it has arrived.",
            )
        with StreamDestination(outgoing, place.words) as destination:
            yield destination
