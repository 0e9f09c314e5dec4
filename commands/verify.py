"""The command that checks a checkpoint."""

from dataclasses import asdict
from pathlib import Path

from commands.options import path_argument, quiet_option
from display.reporter import Reporter
from display.units import bytes_text, counted


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
