"""The command that writes down what is sent."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.options import IMAGE_PATH, Size, threads_option
from display.reporter import Reporter
from display.units import bytes_text, counted

if TYPE_CHECKING:
    from formats.checkpoint import RoundInfo


@click.option(
    "-D",
    "--images-dir",
    "directory",
    type=IMAGE_PATH,
    required=True,
    metavar="DIR",
    help="The checkpoint; made if it is missing.",
)
@click.option("--max-bytes", type=Size(), help="Write no more than this (default: what the disk holds).")
@threads_option("Threads that check.")
def receive(reporter: Reporter, directory: Path, max_bytes: int | None, threads: int) -> int:
    """Write down a stream from standard input, round by round.

    \b
    Every frame, every file and every round is checked before it is believed.
    Standard output may carry answers to the sender: texts, and --json, are on
    standard error.
      predump run -p 1234 --to - | ssh host predump receive -D /var/tmp/ck
      predump run -p 1234 --to 'exec:ssh host predump receive -D /var/tmp/ck'
    Exit code 20: the stream is damaged; what was complete before is whole.
    """
    from streams.pipe import PipeIncoming
    from streams.receiver import DEFAULT_MAX_BYTES, Receiver

    reporter.leave_stdout()
    rounds = 0
    stored_bytes = 0

    def on_round(info: "RoundInfo") -> None:
        nonlocal rounds, stored_bytes
        rounds += 1
        round_bytes = sum(entry.stored_bytes for entry in info.manifest.files)
        stored_bytes += round_bytes
        kind = info.manifest.kind.value
        reporter.event({"type": "round", "round": info.number, "kind": kind, "stored_bytes": round_bytes})

    with Receiver(directory, max_bytes=max_bytes or DEFAULT_MAX_BYTES, threads=threads, on_round=on_round) as receiver:
        receiver.take(PipeIncoming(0, 1))
    fields: dict[str, object] = {
        "rounds": rounds,
        "stored_bytes": stored_bytes,
        "checkpoint": str(directory.absolute()),
    }
    text = f"{directory}: {counted(rounds, 'round')} received, {bytes_text(stored_bytes)}."
    reporter.result(fields, text)
    return 0
