"""The command that puts a live process back to an earlier dump of itself."""

from pathlib import Path

import click

from commands.filelimit import allow_many_files
from commands.options import path_argument, quiet_option, threads_option
from display.reporter import Reporter
from display.units import counted, duration_text, pages_text


@path_argument
@click.option("-p", "--pid", type=click.IntRange(min=1), metavar="PID", required=True, help="The process.")
@click.option(
    "--round", "number", type=click.IntRange(min=1), metavar="N", help="A dump of it (default: the last dump)."
)
@click.option("--check", is_flag=True, help="Only say what would be done.")
@click.option("--stopped", is_flag=True, help="Leave it stopped; SIGCONT lets it run.")
@click.option(
    "--shared",
    type=click.Choice(["alone", "always", "never"]),
    default="alone",
    show_default=True,
    help="What others may use, too: put shared memory and offsets back where no other process has them (refuse where "
    "shared memory has changed that one has), in any case, or never.",
)
@click.option("--trust", is_flag=True, help="Take an image that others own or may write to: it is code that runs.")
@threads_option("Threads that decompress.")
@quiet_option
def rewind(
    reporter: Reporter,
    path: Path,
    pid: int,
    number: int | None,
    check: bool,
    stopped: bool,
    shared: str,
    trust: bool,
    threads: int,
    quiet: bool,
) -> int:
    """Put a live process back to an earlier dump of itself.

    \b
    Its memory, registers, signals, timers and the offsets of its files become
    what they were. Where files or threads are not the same any more, nothing
    is done. What went out to others (files, connections) is not undone.
      predump dump -p 1234 -D /var/tmp/ck
      predump rewind -p 1234 /var/tmp/ck --check
      predump rewind -p 1234 /var/tmp/ck
    """
    from dataclasses import asdict

    from display.bytesbar import BytesBar
    from formats.checkpoint import Checkpoint
    from restorer.rewind.rewind import RewindOptions
    from restorer.rewind.rewind import rewind as put_back
    from restorer.rewind.sharing import SharedMode

    allow_many_files()
    options = RewindOptions(check=check, stopped=stopped, shared=SharedMode(shared), trust=trust, threads=threads)
    with BytesBar(reporter.errors, "comparing", quiet=quiet or reporter.as_json) as progress:
        done = put_back(Checkpoint.open(path), number, pid, options, progress)
    if not quiet:
        for what in done.left:
            reporter.notice("left", f"Not put back: {what}")
    pages = pages_text(done.pages_put_back)
    maps = f"{counted(done.mappings_added, 'mapping')} again, {counted(done.mappings_removed, 'mapping')} less"
    if check:
        text = f"Process {pid} can be put back to round {done.round}: {pages} differ, {maps}."
    else:
        text = (
            f"Process {pid} is back at round {done.round}: {pages} written, {maps}, frozen for "
            f"{duration_text(done.frozen_ns)}; it {'is stopped' if done.stopped else 'runs on'}."
        )
    reporter.result(asdict(done) | {"checkpoint": str(path.absolute())}, text)
    return 0
