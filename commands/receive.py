"""The command that writes down what is sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.linkoptions import LinkChoice, link_options
from commands.options import Size, directory_option, threads_option
from commands.restoring import Restoring, restored, restoring_options
from commands.streaming import tell_round
from display.reporter import Reporter
from display.units import bytes_text, counted

if TYPE_CHECKING:
    from formats.checkpoint import RoundInfo
    from streams.transport import Incoming, Resume


@contextmanager
def _incoming(
    reporter: Reporter, place: str | None, link: LinkChoice, resume: "Resume"
) -> Iterator[tuple["Incoming", bytes]]:
    """What comes in, by standard input or from the first sender that is let in, with the id of a session to resume.

    Raises UsageError, StorageError.
    """
    if place is None:
        from streams.pipe import PipeIncoming

        reporter.leave_stdout()
        yield PipeIncoming(0, 1), b""
        return
    from streams.link import listen

    with listen(place, link.options(reporter.notice), resume) as listener:
        where = str(listener.address)
        reporter.event({"type": "listening", "address": where, "port": listener.address.port})
        if not reporter.as_json:
            reporter.errors.print(f"Listening at {where}.", highlight=False, markup=False)
        with listener.accept() as incoming:
            try:
                yield incoming, incoming.session
            finally:
                listener.retire()


@directory_option
@click.option("--max-bytes", type=Size(), help="Write no more than this (default: what the disk holds).")
@click.option(
    "--listen", metavar="[HOST:]PORT", help="Take it over TCP: with TLS (--cert, --key, --ca), or from this host alone."
)
@restoring_options
@link_options(sends=False)
@threads_option("Threads that check.")
def receive(
    reporter: Reporter,
    directory: Path,
    max_bytes: int | None,
    listen: str | None,
    restoring: Restoring,
    link: LinkChoice,
    threads: int,
) -> int:
    """Write down a stream from standard input or from the network, round by round.

    \b
    Every frame, every file and every round is checked before it is believed.
    With standard input, standard output may carry answers to the sender: texts,
    and --json, are on standard error. With --listen, a receiver that was killed
    or interrupted and is started again goes on where it was.
      predump run -p 1234 --to - | ssh host predump receive -D /var/tmp/ck
      predump run -p 1234 --to 'exec:ssh host predump receive -D /var/tmp/ck'
      predump receive -D /var/tmp/ck --listen 7077 --cert receiver.pem --key receiver.key --ca ca.pem
    With --restore the process moves here, if its sender says --kill: it runs
    on where it was frozen, and the original is killed. If it cannot, the
    original goes on.
      predump receive -D /var/tmp/ck --restore --listen 7077 --cert receiver.pem ...
    Exit code 20: the stream is damaged; what was complete before is whole.
    """
    from streams.errors import StreamBroken
    from streams.receiver import DEFAULT_MAX_BYTES, Receiver

    rounds = 0
    stored_bytes = 0

    def on_round(info: "RoundInfo") -> None:
        nonlocal rounds, stored_bytes
        rounds += 1
        stored_bytes += info.files_bytes
        tell_round(reporter, info)

    limit_bytes = max_bytes or DEFAULT_MAX_BYTES
    try:
        with (
            restoring.takeover(reporter, directory, threads) as takeover,
            Receiver(
                directory, max_bytes=limit_bytes, threads=threads, on_round=on_round, takeover=takeover
            ) as receiver,
            _incoming(reporter, listen, link, receiver.resume) as (incoming, session_id),
        ):
            receiver.take(incoming, session_id)
    except StreamBroken as error:
        has = f"{counted(rounds, 'round')} {'was' if rounds == 1 else 'were'} completed in {directory}."
        raise StreamBroken(error.message, hint=f"{has} {error.hint}".strip(), rounds=rounds) from error
    fields: dict[str, object] = {
        "rounds": rounds,
        "stored_bytes": stored_bytes,
        "checkpoint": str(directory.absolute()),
    }
    text = f"{directory}: {counted(rounds, 'round')} received, {bytes_text(stored_bytes)}."
    exit_code = 0
    if takeover:
        more, what, exit_code = restored(takeover)
        fields |= more
        text += f"\n{what}"
    reporter.result(fields, text, exit_code)
    return exit_code
