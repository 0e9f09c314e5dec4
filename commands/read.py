"""The command that prints memory."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.options import Address, path_argument, process_option, round_option, sysroot_option
from display.reporter import Reporter
from display.units import bytes_text, counted
from formats.errors import UsageError

if TYPE_CHECKING:
    from analysis.expressions import Whereabouts
    from analysis.places import Places
    from formats.manifest import Process

READ_MAX_BYTES = 1 << 30
USUAL_BYTES = 64
STRING_MAX_BYTES = 4096  # if no other length is given
WORD_BYTES = 8


@path_argument
@click.argument("where")
@click.argument("length", type=Address(), required=False)
@round_option
@process_option
@click.option(
    "--thread",
    "tid",
    type=click.IntRange(min=1),
    metavar="TID",
    help="Registers are those of this thread (default: the main one).",
)
@click.option("--raw", "form", flag_value="raw", help="The bytes as they are, on stdout.")
@click.option("--string", "form", flag_value="string", help="The text up to the first byte of 0.")
@click.option("--words", "form", flag_value="words", help="Words of 8 bytes, with the places that they point to.")
@sysroot_option
def read(
    reporter: Reporter,
    path: Path,
    where: str,
    length: int | None,
    number: int | None,
    pid: int | None,
    tid: int | None,
    form: str | None,
    sysroot: Path,
) -> int:
    """Print memory at WHERE: LENGTH bytes, by default all of a symbol, or 64.

    WHERE is an address, a mapping (heap, stack, libc.so.6), a symbol of a mapped file
    (libc.so.6:main_arena, or main_arena alone), or what a register holds (rsp), with an
    offset if you like.

    \b
    What the checkpoint lacks are unchanged pages of files: they are read from the
    files if these are the same still.
      predump read /var/tmp/ck 0x7ffd1c0e2000 4096 --raw | sha256sum
      predump read /var/tmp/ck main_arena+0x60 --words
      predump read /var/tmp/ck server:version --string
      predump read /var/tmp/ck rsp 256 --words --thread 4711
    """
    from analysis.expressions import whereabouts
    from analysis.files.filledmemory import FilledMemory
    from analysis.files.mappedfiles import MappedFiles
    from analysis.places import Places
    from analysis.symbols.symbols import Symbols
    from formats.chain import MemoryView
    from formats.opening import open_images

    if form == "raw" and reporter.as_json:
        raise UsageError("--raw and --json exclude each other", hint="Choose one of them.")
    if (length or 0) > READ_MAX_BYTES:
        raise UsageError(
            f"{length} bytes are too many for one read",
            hint=f"Read at most {bytes_text(READ_MAX_BYTES)} at once.",
        )
    images = open_images(path)
    with MemoryView(images, number, pid) as view:
        info = images.round(number)
        files = MappedFiles(info.manifest, view, sysroot)
        places = Places(view.vmas, Symbols(view, files, reporter.notice))
        found = whereabouts(where, places, _registers(view.process, tid))
        if found.symbol is not None and found.symbol.kind.is_chosen_at_run_time:
            reporter.notice("symbols", f"{where} is chosen at run time: here is the function that chooses")
        with FilledMemory(view, files, reporter.notice) as memory:
            if form == "string":
                content, terminated = memory.read_string(found.addr, STRING_MAX_BYTES if length is None else length)
                if not terminated:
                    reporter.notice("string", f"the text has no end within {counted(len(content), 'byte')}")
            else:
                length = _usual_length(found, places) if length is None else length
                content = memory.read(found.addr, length + (-length % WORD_BYTES if form == "words" else 0))
        if form == "raw":
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        elif reporter.as_json:
            fields: dict[str, object] = {"addr": found.addr, "place": places.name(found.addr), "length": len(content)}
            fields |= {"hex": content.hex(), "round": info.number}
            reporter.result(fields | _parts(content, found.addr, places, form), "")
        else:
            reporter.plain(_lines(content, found.addr, places, form))
    return 0


def _parts(content: bytes, addr: int, places: "Places", form: str | None) -> dict[str, object]:
    """What is said of the bytes, for programs."""
    from analysis.words import words_of

    if form == "string":
        return {"text": _text(content)}
    if form == "words":
        return {"words": [asdict(word) for word in words_of(content, addr, places)]}
    return {"sections": [asdict(section) for section in places.sections(addr, addr + len(content))]}


def _lines(content: bytes, addr: int, places: "Places", form: str | None) -> Iterable[str]:
    """The same for people."""
    from analysis.words import words_of
    from display.memorydump import hex_lines, word_lines

    if form == "string":
        return [_text(content)]
    sections = places.sections(addr, addr + len(content))
    if form == "words":
        return word_lines(words_of(content, addr, places), sections)
    return hex_lines(content, addr, sections)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")


def _usual_length(found: "Whereabouts", places: "Places") -> int:
    """All of a symbol, or a few bytes within the mapping."""
    vma = places.vma_at(found.addr)
    room_bytes = USUAL_BYTES if vma is None else min(USUAL_BYTES, vma.end_addr - found.addr)
    return min(found.rest_bytes, READ_MAX_BYTES) or room_bytes


def _registers(process: "Process", tid: int | None) -> Mapping[str, int]:
    """Of the thread that is named, or of the main one as far as the round has it."""
    for thread in process.threads:
        if thread.tid == (process.pid if tid is None else tid):
            return thread.registers
    if tid is None:
        return {}
    raise UsageError(
        f"Process {process.pid} has no thread {tid}.",
        hint=f"It has: {', '.join(str(thread.tid) for thread in process.threads[:20])}.",
    )
