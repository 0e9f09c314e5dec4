"""The command that compares two rounds."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from analysis.selection import VmaSelection
from commands.options import IMAGE_PATH, path_argument, quiet_option, sysroot_option, vma_options
from display.reporter import Reporter

if TYPE_CHECKING:
    from analysis.diff.rounds import RoundDiff
    from formats.images import Images

    Chosen = tuple[Images, int]

DEFAULT_MAX = 100


@path_argument
@click.argument("a", metavar="A", type=IMAGE_PATH)
@click.argument("b", metavar="[B]", type=click.IntRange(min=1), required=False)
@click.option("--bytes", "with_bytes", is_flag=True, help="Also which bytes, where, from what to what.")
@click.option(
    "--max",
    "rows_max",
    type=click.IntRange(1, 1_000_000),
    default=DEFAULT_MAX,
    show_default=True,
    metavar="N",
    help="Lines of each table; with --bytes, ranges of bytes in all.",
)
@click.option("--pid", type=click.IntRange(min=1), metavar="PID", help="Only this process (default: all).")
@click.option(
    "--to-pid",
    type=click.IntRange(min=1),
    metavar="PID",
    help="Compare it (by default the root) with this process of the later round.",
)
@vma_options
@sysroot_option
@quiet_option
def diff(
    reporter: Reporter,
    path: Path,
    a: Path,
    b: int | None,
    with_bytes: bool,
    rows_max: int,
    pid: int | None,
    to_pid: int | None,
    selection: VmaSelection,
    sysroot: Path,
    quiet: bool,
) -> int:
    """Show what changed from one round to another: pages by mapping, bytes, state.

    \b
    Two rounds of a chain by their numbers (the last one by default), or two
    checkpoints or rounds by their paths. Exit code 0 whether or not they differ.
      predump diff /var/tmp/ck 3 5
      predump diff /var/tmp/ck 3
      predump diff /var/tmp/ck 3 5 --bytes --vma heap
      predump diff /var/tmp/ck /var/tmp/other
      predump diff /var/tmp/ck/0003 /var/tmp/other/0001 --pid 4711 --to-pid 815

    \b
    A page that reads the same has not changed, even if it was written, or came
    to hold nothing but zeros. Shared memory counts where it is mapped first. If
    two processes have their program at different addresses, mappings are found
    by name. With --bytes, what a page of a file held before the process wrote
    to it is read from that file, if it is the same still.
    """
    from analysis.diff.rounds import BytesWanted, PageCounts, RoundDiff
    from commands.diffevents import events_of
    from display import diff as view
    from display.bytesbar import BytesBar
    from display.listing import apart

    wanted = BytesWanted(rows_max, sysroot, reporter.notice) if with_bytes else None
    comparison = RoundDiff(*_rounds(path, a, b), selection, wanted)
    pairs = comparison.pairs(pid, to_pid)
    columns = 0
    if not reporter.as_json:
        columns = reporter.out.width
        reporter.out.print(apart([view.rounds_block(comparison), view.missing_line(comparison)]))
    counts = PageCounts()
    n_changed = 0
    for pair in pairs:
        with BytesBar(reporter.errors, "comparing", quiet=quiet or reporter.as_json) as progress:
            result = comparison.process(pair, progress)
        counts.add_all(result.counts)
        n_changed += result.differs
        if reporter.as_json:
            for event in events_of(result):
                reporter.event(event)
        elif result.differs or len(pairs) == 1:
            reporter.out.print()
            reporter.out.print(view.process_view(result, columns, rows_max))
    text = f"\n{view.total_text(len(pairs), n_changed, counts)}" if len(pairs) > 1 else ""
    reporter.result(_totals(comparison, len(pairs), n_changed) | asdict(counts), text)
    return 0


def _rounds(path: Path, a: Path, b: int | None) -> "tuple[Chosen, Chosen]":
    """The checkpoints and the numbers of their rounds; one and the same checkpoint for two rounds of a chain."""
    from formats.opening import open_images

    images = open_images(path)
    if str(a).isascii() and str(a).isdecimal():
        return (images, int(str(a))), (images, b or images.selected)
    if b is not None:
        raise click.UsageError(f"{a} is no number of a round; name two rounds of {path}, or two checkpoints")
    other = open_images(a)
    is_same = other.path.resolve() == images.path.resolve()
    return (images, images.selected), (images if is_same else other, other.selected)


def _totals(comparison: "RoundDiff", n_processes: int, n_changed: int) -> dict[str, object]:
    before, after = comparison.before, comparison.after
    return {
        "checkpoint": str(comparison.images[0].path.absolute()),
        "round": before.number,
        "to_checkpoint": str(comparison.images[1].path.absolute()),
        "to_round": after.number,
        "processes": n_processes,
        "processes_changed": n_changed,
    }
