"""The command that makes a page to look at of a checkpoint."""

from pathlib import Path

import click

from commands.options import IMAGE_PATH, path_argument, quiet_option, round_option
from display.reporter import Reporter
from display.units import bytes_text, counted, duration_text


@path_argument
@click.option("-o", "--output", type=IMAGE_PATH, required=True, metavar="FILE", help="The HTML file to write.")
@round_option
@click.option("--pid", type=click.IntRange(min=1), metavar="PID", help="Only this process (default: all of the tree).")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@quiet_option
def report(
    reporter: Reporter, path: Path, output: Path, number: int | None, pid: int | None, force: bool, quiet: bool
) -> int:
    """Make a page about a checkpoint, to look at in a browser.

    \b
    How the rounds converged, what the freeze consisted of, which parts of memory
    were written how often, sizes, and tables to sort. One file that needs no network
    and holds figures and names, but no memory of the process.
      predump report /var/tmp/ck -o ck.html
    """
    from time import monotonic_ns

    from analysis.history.history import History
    from display.bytesbar import BytesBar, RoundsBar
    from display.report.data import report_data, title_of
    from display.report.page import render
    from formats.checkpoint import Checkpoint
    from formats.files import write_all
    from formats.wholefile import whole_file

    start_ns = monotonic_ns()
    is_quiet = quiet or reporter.as_json
    checkpoint = Checkpoint.open(path)
    with whole_file(output, force=force) as (fd, temporary_path):
        with RoundsBar(reporter.errors, "reading rounds", quiet=is_quiet) as rounds_bar:
            history = History(checkpoint, number, pid, rounds_bar)
        with BytesBar(reporter.errors, "counting writes", quiet=is_quiet) as bytes_bar:
            processes = history.processes(bytes_bar)
        page = render(title_of(processes[0].process), report_data(checkpoint, history, processes))
        write_all(fd, [page], temporary_path)
    n_mappings = sum(len(one.regions) for one in processes)
    duration_ns = monotonic_ns() - start_ns
    fields: dict[str, object] = {
        "checkpoint": str(checkpoint.path.absolute()),
        "round": history.last.number,
        "path": str(output.absolute()),
        "bytes": len(page),
        "rounds": len(history.rounds),
        "processes": len(processes),
        "vmas": n_mappings,
        "duration_ns": duration_ns,
    }
    text = (
        f"{output}: {bytes_text(len(page))}; {counted(len(history.rounds), 'round')}, "
        f"{counted(len(processes), 'process', 'processes')}, {counted(n_mappings, 'mapping')}; "
        f"{duration_text(duration_ns)}. Open it in a browser."
    )
    reporter.result(fields, text)
    return 0
