"""The command that writes a round in a form that other tools read."""

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING, NamedTuple

import click
from click.core import ParameterSource

from analysis.selection import VmaSelection
from commands.filelimit import allow_many_files
from commands.options import (
    IMAGE_PATH,
    path_argument,
    process_option,
    quiet_option,
    round_option,
    sysroot_option,
    threads_option,
    vma_options,
)
from display.reporter import Reporter
from display.units import bytes_text, counted
from formats.errors import UsageError

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
    flat: bool
    selection: VmaSelection


FILES_NAMED = 5  # of those that were not found; --json has all
Progress = Callable[[int, int], None]
Done = tuple[dict[str, object], str]
"""The result for programs, and lines for people."""


def _core(reporter: Reporter, wish: Wish, progress: Progress) -> Done:
    from analysis.files.corefiles import CoreFiles
    from analysis.files.mappedfiles import MappedFiles
    from display.listing import first_few
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
        (of_files.files_missing, "Files that are not there"),
        (of_files.files_other, "Files that are not those that were mapped, so that nothing is taken from them"),
        (of_files.files_unknown, "Files that may be others than were mapped, so that nothing is taken from them"),
    ):
        if paths:
            places = [str(wish.sysroot / path.lstrip("/")) for path in paths]
            reporter.notice("file", f"{what}: {first_few(places, FILES_NAMED)}")
    if of_files.links_missing:
        places = [str(wish.sysroot / path.lstrip("/")) for path in of_files.links_missing]
        directories = shlex.join(sorted({str(Path(place).parent) for place in places}))
        reporter.notice(
            "file",
            f"gdb looks for libraries by names that are not there: {first_few(places, FILES_NAMED)}. "
            f"These links are made by: ldconfig -n {directories}",
        )
    return asdict(report) | asdict(of_files) | {"gdb": gdb}, f"{text}\n{shlex.join(gdb)}"


def _criu(_reporter: Reporter, wish: Wish, progress: Progress) -> Done:
    from display.missing import missing_lines
    from formats.checkpoint import Checkpoint
    from formats.criu.export import CriuOptions, write_criu

    if not isinstance(wish.images, Checkpoint):  # what is read of CRIU's own is less than what they hold
        raise UsageError(f"{wish.images.path} has CRIU's images already.", hint="Use them as they are.")
    options = CriuOptions(flat=wish.flat, torn=wish.torn, threads=wish.threads)
    report = write_criu(wish.images, wish.number, wish.output, options, progress)
    text = (
        f"{report.images}: {counted(report.processes, 'process', 'processes')}, {counted(report.threads, 'thread')}, "
        f"{bytes_text(report.data_bytes)} of pages"
    )
    if report.rounds > 1:
        text += f" in {report.rounds} directories"
    if report.torn:
        text += "; it is torn: its pages are of different moments, and it has no registers"
    return asdict(report), "\n".join([f"{text}.", *missing_lines("Left out", report.left_out)])


def _raw(_reporter: Reporter, wish: Wish, progress: Progress) -> Done:
    from formats.rawexport import RawOptions, write_raw

    options = RawOptions(wanted=wish.selection.has, torn=wish.torn, force=wish.force, threads=wish.threads)
    report = write_raw(wish.images, wish.number, wish.pid, wish.output, options, progress)
    text = (
        f"{wish.output}: {counted(report.vmas, 'mapping')} of process {report.pid}, "
        f"{counted(report.files, 'file')} with {bytes_text(report.data_bytes)} of data; index.json says what is where."
    )
    return asdict(report), text


class Form(NamedTuple):
    """What can be written, and which of the options that some forms do not have."""

    write: Callable[[Reporter, Wish, Progress], Done]
    options: frozenset[str]


FORMS = {
    "core": Form(_core, frozenset({"pid", "force", "sysroot", "complete"})),
    "criu": Form(_criu, frozenset({"flat"})),  # all processes; it replaces no directory
    "raw": Form(_raw, frozenset({"pid", "force", "words", "writable", "min_bytes"})),
}
SPECIAL = frozenset[str]().union(*(form.options for form in FORMS.values()))


def _check_options(form: str) -> None:
    """Raises click.UsageError for an option that means nothing to a form."""
    context = click.get_current_context()
    for param in context.command.params:
        is_given = context.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
        if is_given and param.name in SPECIAL - FORMS[form].options:
            raise click.UsageError(f"{param.opts[0]} means nothing to --to {form}")


@path_argument
@click.option("--to", "form", type=click.Choice(list(FORMS)), required=True, help="What to write.")
@click.option("-o", "--output", type=IMAGE_PATH, required=True, metavar="OUT", help="Where to write it.")
@round_option
@process_option
@sysroot_option
@click.option("--complete", is_flag=True, help="core: with all pages of files that can be found.")
@click.option("--flat", is_flag=True, help="criu: one directory, instead of one for each round.")
@vma_options
@click.option("--torn", is_flag=True, help="Also of a pre-dump round: torn pages, no registers.")
@click.option("--force", is_flag=True, help="Replace OUT if it is of an earlier export.")
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
    flat: bool,
    selection: VmaSelection,
    torn: bool,
    force: bool,
    threads: int,
    quiet: bool,
) -> int:
    """Write a round for other tools.

    \b
    core: an ELF core of a process that gdb opens.
    criu: CRIU's image files of all processes.
    raw: a directory with a sparse file for each mapping, and an index.
    What the core lacks are unchanged pages of files, which gdb reads from the
    executable and its libraries; how to call gdb is said at the end.
      predump export /var/tmp/ck --to core -o /var/tmp/core
    With copies of another machine's files below a directory:
      predump export /var/tmp/ck --to core -o /var/tmp/core --sysroot /var/tmp/root
    With all pages of the files in the core itself:
      predump export /var/tmp/ck --to core -o /var/tmp/core --complete
    CRIU's images are of all processes. Each round is a directory with a link to
    the one before, or --flat makes one of all. What has no place there is named.
      predump export /var/tmp/ck --to criu --flat -o /var/tmp/images
      crit x /var/tmp/images ps
    The memory as plain files:
      predump export /var/tmp/ck --to raw -o /var/tmp/raw --vma heap --vma stack
    """
    from display.bytesbar import BytesBar
    from formats.opening import open_images

    _check_options(form)
    allow_many_files()
    start_ns = monotonic_ns()
    images = open_images(path)
    wish = Wish(images, output, number, pid, torn, force, threads, sysroot, complete, flat, selection)
    with BytesBar(reporter.errors, "exporting", quiet=quiet or reporter.as_json) as progress:
        fields, text = FORMS[form].write(reporter, wish, progress)
    fields |= {
        "form": form,
        "checkpoint": str(images.path.absolute()),
        "round": number or images.selected,
        "duration_ns": monotonic_ns() - start_ns,
    }
    reporter.result(fields, text)
    return 0
