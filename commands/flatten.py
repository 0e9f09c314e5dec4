"""The command that makes one round of many."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.filelimit import allow_many_files
from commands.options import IMAGE_PATH, level_option, path_argument, quiet_option, threads_option
from display.reporter import Reporter
from display.units import bytes_text, counted, duration_text
from formats.errors import UsageError

if TYPE_CHECKING:
    from formats.flatten import FlattenReport


@path_argument
@click.option("-o", "--output", type=IMAGE_PATH, metavar="OUT", help="A new checkpoint for the round.")
@click.option("--drop", is_flag=True, help="Put it in the place of the rounds it is made of, which are removed.")
@click.option("--round", "number", type=click.IntRange(min=1), help="Up to this round (default: the last).")
@click.option("--keep", type=click.IntRange(min=0), default=0, help="Leave the last so many rounds as they are.")
@level_option
@threads_option("Threads that compress.")
@quiet_option
def flatten(
    reporter: Reporter,
    path: Path,
    output: Path | None,
    drop: bool,
    number: int | None,
    keep: int,
    level: int,
    threads: int,
    quiet: bool,
) -> int:
    """Make a round and all that it builds on one self-contained round.

    \b
    It keeps its number, and what later rounds leave to it. What is stored as it is
    needed is not compressed again.
      predump flatten /var/tmp/ck -o /var/tmp/one
      predump flatten /var/tmp/ck --drop --keep 10
    """
    from time import monotonic_ns

    from display.bytesbar import BytesBar
    from formats.checkpoint import Checkpoint
    from formats.flatten import FlattenOptions, flatten_into
    from formats.replacing import chosen_round, flatten_in_place

    if (output is None) != drop:
        raise UsageError("name a new checkpoint with -o, or use --drop", hint="Use one of the two.")
    if number is not None and keep:
        raise UsageError("--round and --keep exclude each other", hint="Choose one of them.")
    allow_many_files()
    start_ns = monotonic_ns()
    checkpoint = Checkpoint.open(path)
    if number is None and not keep:
        number = checkpoint.selected
    options = FlattenOptions(level=level, threads=threads)
    report: FlattenReport | None
    dropped = 0
    with BytesBar(reporter.errors, "flattening", quiet=quiet or reporter.as_json) as progress:
        if output is None:
            report, dropped = flatten_in_place(checkpoint.path, number, keep, options, progress)
        else:
            chosen = chosen_round(checkpoint, number, keep)
            if chosen is None:
                raise UsageError(
                    f"{checkpoint.path} has no round before the last {keep}.",
                    hint=f"It has {counted(len(checkpoint.numbers), 'round')}.",
                )
            report = flatten_into(checkpoint, chosen, output, options, progress)
    place = output or checkpoint.path
    fields: dict[str, object] = {
        "checkpoint": str(place.absolute()),
        "dropped": dropped,
        "duration_ns": monotonic_ns() - start_ns,
    }
    reporter.result(
        (asdict(report) if report else {}) | fields, _text(place, report, dropped, monotonic_ns() - start_ns)
    )
    return 0


def _text(place: Path, report: "FlattenReport | None", dropped: int, duration_ns: int) -> str:
    gone = f"{counted(dropped, 'earlier round')} removed" if dropped else "no round removed"
    if report is None:
        return f"{place}: nothing to flatten, {gone}."
    made_of = f"made of {counted(report.rounds, 'round')}" + (f", {gone}" if dropped else "")
    return (
        f"{place}: round {report.round} is self-contained, {made_of}: {bytes_text(report.stored_bytes)}, "
        f"of which {bytes_text(report.copied_bytes)} went on as they were; {duration_text(duration_ns)}."
    )
