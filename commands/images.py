"""Commands on a checkpoint: they need no live process, and no engine."""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from commands.options import Address, path_argument, quiet_option
from display.reporter import Reporter
from display.units import bytes_text, counted
from formats.errors import UsageError

READ_MAX_BYTES = 1 << 30


@path_argument
@click.option("--round", "number", type=click.IntRange(min=1), help="Of this round (default: the last).")
@click.option(
    "--pid", type=click.IntRange(min=1), help="Threads, files and memory of this process (default: the root)."
)
def inspect(reporter: Reporter, path: Path, number: int | None, pid: int | None) -> int:
    """Show what a checkpoint or a round holds.

    \b
    The process, the rounds, the tree; then the threads, open files, signals
    and memory of one process. --json has everything.
      predump inspect /var/tmp/ck
      predump inspect /var/tmp/ck/0001
      predump inspect /var/tmp/ck --pid 1235
    """
    from display import inspect as view
    from formats.checkpoint import Checkpoint
    from formats.records import encode_record

    checkpoint = Checkpoint.open(path)
    info = checkpoint.round(number)
    if reporter.as_json:
        for round_ in checkpoint.rounds:
            stats = asdict(round_.manifest.stats)
            reporter.event(
                {
                    "type": "round",
                    "round": round_.number,
                    "kind": round_.manifest.kind.value,
                    **stats,
                }
            )
        manifest = encode_record(info.manifest)
        reporter.result(
            {
                "checkpoint": str(checkpoint.path.absolute()),
                "round": info.number,
                "manifest": manifest,
            },
            "",
        )
    else:
        reporter.out.print(view.whole(checkpoint, info, reporter.out.width, pid))
    return 0


@path_argument
@click.argument("address", type=Address())
@click.argument("length", type=Address())
@click.option("--round", "number", type=click.IntRange(min=1), help="As of this round (default: the last).")
@click.option("--pid", type=click.IntRange(min=1), help="Of this process (default: the root).")
@click.option("--raw", is_flag=True, help="The bytes as they are, on stdout.")
def read(
    reporter: Reporter,
    path: Path,
    address: int,
    length: int,
    number: int | None,
    pid: int | None,
    raw: bool,
) -> int:
    """Print LENGTH bytes of memory from ADDRESS on.

    \b
      predump read /var/tmp/ck 0x7ffd1c0e2000 64
      predump read /var/tmp/ck 0x7ffd1c0e2000 4096 --raw | sha256sum
    """
    from display.hexdump import hexdump
    from formats.chain import Checkpoint, MemoryView

    if raw and reporter.as_json:
        raise UsageError("--raw and --json exclude each other", hint="Choose one of them.")
    if length > READ_MAX_BYTES:
        raise UsageError(
            f"{length} bytes are too many for one read",
            hint=f"Read at most {bytes_text(READ_MAX_BYTES)} at once.",
        )
    checkpoint = Checkpoint.open(path)
    with MemoryView(checkpoint, number, pid) as memory:
        content = memory.read(address, length)
    if raw:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    elif reporter.as_json:
        fields: dict[str, object] = {"addr": address, "length": length, "hex": content.hex()}
        reporter.result(fields | {"round": number or checkpoint.selected}, "")
    else:
        for line in hexdump(content, address):
            reporter.out.print(line, highlight=False, markup=False)
    return 0


@path_argument
@quiet_option
def verify(reporter: Reporter, path: Path, quiet: bool) -> int:
    """Read everything: every checksum, every parent, every page.

    \b
    Exit code 20: damaged; 21: written by a newer version; 22: a round is missing.
      predump verify /var/tmp/ck
    """
    from display.bytesbar import BytesBar
    from formats.check import verify as check_images
    from formats.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(path)
    with BytesBar(reporter.errors, "verifying", quiet=quiet or reporter.as_json) as progress:
        report = check_images(checkpoint, progress)
    for finding in report.findings:
        reporter.event({"type": "finding", **asdict(finding)})
        reporter.finding(f"{finding.severity.value}: {finding.message}")
    for more, what in ((report.more_errors, "error"), (report.more_warnings, "warning")):
        if more:
            reporter.finding(f"{what}: {counted(more, 'more', 'more')}, in other files.")
    errors = sum(1 for finding in report.findings if finding.exit_code) + report.more_errors
    fields: dict[str, object] = {
        "rounds": report.rounds,
        "files": report.files,
        "stored_bytes": report.stored_bytes,
        "pages_data": report.data_pages,
        "errors": errors,
        "checkpoint": str(checkpoint.path.absolute()),
    }
    amount = f"{counted(report.rounds, 'round')}, {counted(report.files, 'file')}, {bytes_text(report.stored_bytes)}"
    verdict = "everything is in order" if not errors else counted(errors, "error")
    reporter.result(fields, f"{checkpoint.path}: {amount}: {verdict}.", report.exit_code)
    return report.exit_code
