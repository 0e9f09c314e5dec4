"""The command that shows what a checkpoint holds."""

from dataclasses import asdict
from pathlib import Path

from commands.options import path_argument, process_option, round_option
from display.reporter import Reporter


@path_argument
@round_option
@process_option
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
    from formats.opening import open_images
    from formats.records import encode_record

    checkpoint = open_images(path)
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
