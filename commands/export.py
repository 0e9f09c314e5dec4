"""The command that writes a round in a form that other tools read."""

from dataclasses import asdict
from pathlib import Path

import click

from commands.options import IMAGE_PATH, path_argument, process_option, quiet_option, round_option, threads_option
from display.reporter import Reporter
from display.units import bytes_text, counted, duration_text


@path_argument
@click.option("--to", "form", type=click.Choice(["core"]), required=True, help="What to write: an ELF core.")
@click.option("-o", "--output", type=IMAGE_PATH, required=True, metavar="OUT", help="The file to write.")
@round_option
@process_option
@click.option("--torn", is_flag=True, help="Also of a pre-dump round: torn pages, no registers.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@threads_option("Threads that decompress.")
@quiet_option
def export(
    reporter: Reporter,
    path: Path,
    form: str,
    output: Path,
    number: int | None,
    pid: int | None,
    torn: bool,
    force: bool,
    threads: int,
    quiet: bool,
) -> int:
    """Write a process as of a round for other tools: an ELF core that gdb opens.

    \b
    Give gdb the executable too; what the core lacks are unchanged pages of files,
    which gdb reads from the executable and its libraries.
      predump export /var/tmp/ck --to core -o /var/tmp/core
      gdb /usr/bin/python3 /var/tmp/core
      (gdb) thread apply all backtrace
    """
    from time import monotonic_ns

    from display.bytesbar import BytesBar
    from formats.elfcore import CoreOptions, write_core
    from formats.opening import open_images

    assert form == "core"
    start_ns = monotonic_ns()
    checkpoint = open_images(path)
    options = CoreOptions(torn=torn, force=force, threads=threads)
    with BytesBar(reporter.errors, "exporting", quiet=quiet or reporter.as_json) as progress:
        report = write_core(checkpoint, number, pid, output, options, progress)
    duration_ns = monotonic_ns() - start_ns
    text = (
        f"{output}: {bytes_text(report.bytes)}, of which {bytes_text(report.data_bytes)} are data; "
        f"{counted(report.segments, 'segment')}, {counted(report.threads, 'thread')}; {duration_text(duration_ns)}."
    )
    if report.torn:
        text += " It is torn: its pages are of different moments, and it has no registers."
    fields = {
        "checkpoint": str(checkpoint.path.absolute()),
        "round": number or checkpoint.selected,
        "duration_ns": duration_ns,
    }
    reporter.result(asdict(report) | fields, text)
    return 0
