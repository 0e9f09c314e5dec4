"""The command that writes a round in a form that other tools read."""

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING

import click

from commands.options import (
    IMAGE_PATH,
    path_argument,
    process_option,
    quiet_option,
    round_option,
    sysroot_option,
    threads_option,
)
from display.reporter import Reporter
from display.units import bytes_text, counted

if TYPE_CHECKING:
    from formats.images import Images


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be exported, and how: the options."""

    images: "Images"
    output: Path
    number: int | None
    pid: int | None
    torn: bool
    force: bool
    threads: int
    sysroot: Path
    complete: bool


Progress = Callable[[int, int], None]
Done = tuple[dict[str, object], str]
"""The result for programs, and lines for people."""


def _core(reporter: Reporter, wish: Wish, progress: Progress) -> Done:
    from analysis.corefiles import CoreFiles
    from analysis.mappedfiles import MappedFiles
    from formats.chain import MemoryView
    from formats.elfcore import CoreOptions, write_core
    from formats.manifest import RoundKind

    info = wish.images.round(wish.number)
    torn = info.manifest.kind is RoundKind.PRE_DUMP
    options = CoreOptions(torn=wish.torn, force=wish.force, threads=wish.threads)
    with MemoryView(wish.images, wish.number, wish.pid) as view:
        found = MappedFiles(info.manifest, view, wish.sysroot)
        with CoreFiles(found, view.process, wish.sysroot, complete=wish.complete, torn=torn) as files:
            report = write_core(wish.images, wish.number, wish.pid, wish.output, options, progress, files)
            of_files = files.report()
            gdb = files.gdb_command(wish.output)
    text = (
        f"{wish.output}: {bytes_text(report.bytes)}, of which {bytes_text(report.data_bytes)} are data "
        f"({bytes_text(report.file_bytes)} from {counted(len(of_files.files_taken), 'file')}); "
        f"{counted(report.segments, 'segment')}, {counted(report.threads, 'thread')}."
    )
    if report.torn:
        text += " It is torn: its pages are of different moments, and it has no registers."
    for paths, what in (
        (of_files.files_missing, "is not there"),
        (of_files.files_other, "is not the file that was mapped"),
        (of_files.files_unknown, "may be another file than was mapped"),
    ):
        for path in paths:
            reporter.notice("file", f"{wish.sysroot / path.lstrip('/')} {what}: nothing is taken from it")
    return asdict(report) | asdict(of_files) | {"gdb": gdb}, f"{text}\n{shlex.join(gdb)}"


FORMS: dict[str, Callable[[Reporter, Wish, Progress], Done]] = {"core": _core}


@path_argument
@click.option("--to", "form", type=click.Choice(list(FORMS)), required=True, help="What to write: an ELF core.")
@click.option("-o", "--output", type=IMAGE_PATH, required=True, metavar="OUT", help="The file to write.")
@round_option
@process_option
@sysroot_option
@click.option("--complete", is_flag=True, help="core: with all pages of files that can be found.")
@click.option("--torn", is_flag=True, help="core: also of a pre-dump round: torn pages, no registers.")
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
    sysroot: Path,
    complete: bool,
    torn: bool,
    force: bool,
    threads: int,
    quiet: bool,
) -> int:
    """Write a process as of a round for other tools: an ELF core that gdb opens.

    \b
    What the core lacks are unchanged pages of files, which gdb reads from the
    executable and its libraries; how to call gdb is said at the end.
      predump export /var/tmp/ck --to core -o /var/tmp/core
    With copies of another machine's files below a directory:
      predump export /var/tmp/ck --to core -o /var/tmp/core --sysroot /var/tmp/root
    With all pages of the files in the core itself:
      predump export /var/tmp/ck --to core -o /var/tmp/core --complete
    """
    from display.bytesbar import BytesBar
    from formats.opening import open_images

    start_ns = monotonic_ns()
    images = open_images(path)
    wish = Wish(images, output, number, pid, torn, force, threads, sysroot, complete)
    with BytesBar(reporter.errors, "exporting", quiet=quiet or reporter.as_json) as progress:
        fields, text = FORMS[form](reporter, wish, progress)
    fields |= {
        "form": form,
        "checkpoint": str(images.path.absolute()),
        "round": number or images.selected,
        "duration_ns": monotonic_ns() - start_ns,
    }
    reporter.result(fields, text)
    return 0
