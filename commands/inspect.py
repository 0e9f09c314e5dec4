"""The command that shows what a checkpoint holds."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.options import Words, path_argument, process_option, round_option, vma_options
from display.reporter import Reporter

if TYPE_CHECKING:
    from analysis.selection import VmaSelection
    from analysis.subject import Subject

SUMMARY = "summary"
SECTIONS = (
    SUMMARY,
    "missing",
    "restore",
    "rounds",
    "stats",
    "tree",
    "threads",
    "files",
    "signals",
    "objects",
    "vmas",
    "environment",
)
"""What `--show` knows, in the order in which it is shown."""
ORDERS = ("address", "size", "present", "data", "stored", "written")


def _options(function: Callable[..., int]) -> Callable[..., int]:
    for option in (
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Rows of each table at most."),
        click.option("--sort", type=click.Choice(ORDERS), help="Order of the VMAs (default: address)."),
        click.option(
            "--show",
            type=Words((*SECTIONS, "all")),
            multiple=True,
            metavar="SECTION,...",
            help=f"Instead of the summary, which is one screen: {', '.join(SECTIONS[1:])}, or all.",
        ),
    ):
        function = option(function)
    return function


def _sections(show: Iterable[tuple[str, ...]], *, about_vmas: bool) -> tuple[str, ...]:
    """Those that are asked for, in their order; by default the summary, or the VMAs if options choose among these."""
    words = {word for words in show for word in words} or {"vmas" if about_vmas else SUMMARY}
    return SECTIONS if "all" in words else tuple(name for name in SECTIONS if name in words)


@path_argument
@round_option
@process_option
@_options
@vma_options
def inspect(
    reporter: Reporter,
    path: Path,
    number: int | None,
    pid: int | None,
    selection: "VmaSelection",
    show: tuple[tuple[str, ...], ...],
    sort: str | None,
    limit: int | None,
) -> int:
    """Show what a checkpoint or a round holds.

    One screen says what process it is of, when and how it was taken, how big it is, and whether it is whole as far as
    can be told without reading it (exit code 20 or 22 if not). --show has the rest. With --json there is an event for
    each row of it, and the result has the manifest if the summary is shown.

    \b
      predump inspect /var/tmp/ck
      predump inspect /var/tmp/ck --show rounds,vmas
      predump inspect /var/tmp/ck/0001 --vma heap --vma '*.so*' --writable --sort stored
      predump inspect /var/tmp/ck --pid 1235 --show threads --json
    """
    from analysis.mappings import Order
    from analysis.selection import VmaSelection
    from analysis.subject import subject_of
    from formats.opening import open_images

    about_vmas = sort is not None or selection != VmaSelection()
    sections = _sections(show, about_vmas=about_vmas)
    subject = subject_of(open_images(path), number, pid, selection, Order(sort or Order.ADDRESS))
    if reporter.as_json:
        from commands.inspectevents import print_events

        print_events(reporter, subject, sections if show or about_vmas else (SUMMARY, "rounds"), limit)
    else:
        _print(reporter, subject, sections, limit)
    for finding in subject.survey.findings[:1]:
        reporter.complaint(finding.message, "Run 'predump verify' on the checkpoint to see how far the damage goes.")
    return subject.survey.exit_code


def _print(reporter: Reporter, subject: "Subject", sections: tuple[str, ...], limit: int | None) -> None:
    from display.view import View

    view = View.of(reporter.out, limit)
    if sections == (SUMMARY,):
        from display.summary import summary

        reporter.out.print(summary(subject, view))
    else:
        from display.inspect import shown

        reporter.out.print(shown(subject, view, sections))
