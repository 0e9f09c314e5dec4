"""The command that sends a checkpoint that is there already."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.linkoptions import LinkChoice, link_options
from commands.options import path_argument, quiet_option, threads_option
from commands.streaming import Place, open_outgoing, tell_round, to_option
from display.reporter import Reporter
from display.units import bytes_text, counted
from formats.errors import UsageError
from streams.places import STDOUT

if TYPE_CHECKING:
    from formats.checkpoint import Checkpoint, RoundInfo

LOOK_S = 0.2


@path_argument
@to_option(required=False)
@link_options(sends=True)
@click.option(
    "--from",
    "first",
    type=click.IntRange(min=1),
    help="From this round on: the receiver has those before.",
)
@click.option("--follow", is_flag=True, help="Go on with rounds that are added, until a dump is sent.")
@threads_option("Threads that check.")
@quiet_option
def send(
    reporter: Reporter,
    path: Path,
    to: str | None,
    link: LinkChoice,
    first: int | None,
    follow: bool,
    threads: int,
    quiet: bool,
) -> int:
    """Send the rounds of a checkpoint as they are stored.

    \b
    Each is checked before it is sent. Without --to it goes to standard output.
      predump send /var/tmp/ck | ssh host predump receive -D /var/tmp/ck
      predump send /var/tmp/ck --follow --to 'exec:ssh host predump receive -D /var/tmp/ck'
      predump send /var/tmp/ck --from 4 | ssh host predump receive -D /var/tmp/ck
    """
    from display.bytesbar import BytesBar
    from formats.checkpoint import Checkpoint
    from streams.resend import send_round
    from streams.sender import Sender

    place = Place(None, to or STDOUT, link)
    checkpoint = Checkpoint.open(path)
    before = _round_before(checkpoint, first)
    if first is not None:
        checkpoint.round(first)
    rounds = 0
    stored_bytes = 0
    with open_outgoing(reporter, place) as outgoing, ThreadPoolExecutor(threads) as checkers:
        sender = Sender(outgoing)
        sender.greet(before, first or checkpoint.numbers[0])
        for info in _rounds(checkpoint, first or checkpoint.numbers[0], follow=follow):
            sent_bytes, round_bytes = 0, info.files_bytes
            hide = quiet or reporter.as_json
            with BytesBar(reporter.errors, f"sending round {info.number}", quiet=hide) as progress:

                def on_sent(n_bytes: int) -> None:
                    nonlocal sent_bytes
                    sent_bytes += n_bytes
                    progress(sent_bytes, round_bytes)  # noqa: B023 - called in this turn only

                send_round(sender, info, checkers, on_sent)
            tell_round(reporter, info)
            rounds += 1
            stored_bytes += round_bytes
    fields: dict[str, object] = {"rounds": rounds, "stored_bytes": stored_bytes, "checkpoint": str(path.absolute())}
    text = f"{place.words}: {counted(rounds, 'round')} of {path} sent, {bytes_text(stored_bytes)}."
    reporter.result(fields | place.fields, text)
    return 0


def _round_before(checkpoint: "Checkpoint", first: int | None) -> "RoundInfo | None":
    """The round that the receiver has; None if it needs none. Raises UsageError."""
    first = first or checkpoint.numbers[0]
    if first - 1 in checkpoint.numbers:
        return checkpoint.round(first - 1)
    if not checkpoint.round(first).manifest.full:
        raise UsageError(
            f"Round {first} of {checkpoint.path} builds on round {first - 1}, which is not there.",
            hint="Send a chain that is whole.",
        )
    return None


def _rounds(checkpoint: "Checkpoint", first: int, *, follow: bool) -> Iterator["RoundInfo"]:
    """Round `first` and those after it; with `follow`, also those to come, up to a dump."""
    from formats.checkpoint import Checkpoint
    from formats.manifest import RoundKind

    number = first
    while True:
        while number in checkpoint.numbers:
            info = checkpoint.round(number)
            yield info
            number += 1
        if not follow or info.manifest.kind is RoundKind.DUMP:
            return
        time.sleep(LOOK_S)
        checkpoint = Checkpoint.open(checkpoint.path)
