"""The command that finds things in memory."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from analysis.selection import VmaSelection
from commands.options import (
    path_argument,
    process_option,
    quiet_option,
    round_option,
    sysroot_option,
    threads_option,
    vma_options,
)
from display.reporter import Reporter
from display.units import bytes_text, counted, duration_text
from formats.errors import UsageError

if TYPE_CHECKING:
    from analysis.search.scan import Match
    from analysis.search.search import ProcessSearch, Search
    from display.matches import FoundMatch

CONTEXT_MAX_BYTES = 4096
USUAL_CONTEXT_BYTES = 32
SHOWN_MAX = 200
ENCODINGS = {"utf-8": ("utf-8",), "utf-16": ("utf-16-le",), "both": ("utf-8", "utf-16-le")}


@path_argument
@click.argument("pattern")
@click.option("-i", "--ignore-case", is_flag=True, help="Letters of a text or an expression stand for both cases.")
@click.option(
    "--encoding",
    type=click.Choice(list(ENCODINGS)),
    default="both",
    show_default=True,
    help="Encoding of a text; utf-16 is little-endian.",
)
@click.option("-c", "--count", "only_count", is_flag=True, help="Only say how many matches there are.")
@click.option(
    "-m",
    "--max-count",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"End after N matches (default: list {SHOWN_MAX}).",
)
@click.option(
    "--context",
    "context_bytes",
    type=click.IntRange(0, CONTEXT_MAX_BYTES),
    metavar="N",
    help="Show a hex dump with N bytes before and behind each match.",
)
@round_option
@click.option("--all-rounds", is_flag=True, help="Search all rounds, and say in which of them a match is.")
@process_option
@click.option("--all-processes", is_flag=True, help="Search all processes of the tree.")
@vma_options
@sysroot_option
@threads_option("Threads that decompress.")
@quiet_option
def search(
    reporter: Reporter,
    path: Path,
    pattern: str,
    ignore_case: bool,
    encoding: str,
    only_count: bool,
    max_count: int | None,
    context_bytes: int | None,
    number: int | None,
    all_rounds: bool,
    pid: int | None,
    all_processes: bool,
    selection: VmaSelection,
    sysroot: Path,
    threads: int,
    quiet: bool,
) -> int:
    """Find PATTERN in memory, wherever pages, frames and mappings next to each other are cut.

    \b
    PATTERN is a text, or one of
      hex:DE AD ?? EF   bytes, ?? for any
      re:EXPRESSION     a regular expression of Python's re, for bytes; it sees 4096 at once
      ptr:PLACE         aligned words that point to an address, a mapping (heap, libc.so.6),
                        a symbol (main_arena, all of it), or into LOW-HIGH
      text:TEXT         a text that begins like one of these

    \b
    Matches do not overlap: the next one is looked for behind the end of the last.
      predump search /var/tmp/ck 'BEGIN RSA PRIVATE KEY'
      predump search /var/tmp/ck password -i --all-rounds --vma heap
      predump search /var/tmp/ck 're:user=[a-z]+' --json
      predump search /var/tmp/ck hex:7f454c46 --context 64
      predump search /var/tmp/ck ptr:0x7f0000001000-0x7f0000002000 --writable -c
    """
    from time import monotonic_ns

    from analysis.files.mappedfiles import MappedFiles
    from analysis.places import Places
    from analysis.search.patterns import pattern_of
    from analysis.search.search import Scope, Search, SearchOptions
    from analysis.symbols.symbols import Symbols
    from display.bytesbar import BytesBar
    from display.matches import matches_dump, matches_table
    from formats.chain import MemoryView
    from formats.manifest import Manifest
    from formats.opening import open_images

    if all_rounds and number is not None:
        raise UsageError("--round and --all-rounds exclude each other", hint="Choose one of them.")
    if all_processes and pid is not None:
        raise UsageError("--pid and --all-processes exclude each other", hint="Choose one of them.")

    def places_of(manifest: Manifest, view: MemoryView) -> Places:
        return Places(view.vmas, Symbols(view, MappedFiles(manifest, view, sysroot), reporter.notice))

    start_ns = monotonic_ns()
    images = open_images(path)
    options = SearchOptions(USUAL_CONTEXT_BYTES if context_bytes is None else context_bytes, threads)
    scope = Scope(number, pid, all_rounds, all_processes, selection)
    what = pattern_of(pattern, ignore_case=ignore_case, encodings=ENCODINGS[encoding])
    found = Search(images, what, scope, places_of, options)
    taken = _Taken(reporter, max_count, is_pointer=what.is_pointer, all_rounds=all_rounds, only_count=only_count)
    with (
        BytesBar(reporter.errors, "searching", quiet=quiet or reporter.as_json) as progress,
        closing(found.results(progress)) as results,
    ):
        for whose, match in results:
            taken.take(whose, match)
            if taken.is_full:
                break
    searched = images.numbers if all_rounds else [number or images.selected]
    duration_ns = monotonic_ns() - start_ns
    fields: dict[str, object] = {
        "checkpoint": str(images.path.absolute()),
        "matches": taken.n_matches,
        "complete": not taken.is_full,
        "processes": found.n_processes,
        "searched_rounds": searched,
        "searched_bytes": found.searched_bytes,
        "zero_bytes": found.zero_bytes,
        "duration_ns": duration_ns,
    }
    if only_count and not reporter.as_json:
        reporter.plain([str(taken.n_matches)])
        return 0
    if context_bytes is not None:
        reporter.plain(matches_dump(taken.shown, with_pids=all_processes))
    elif taken.shown:
        reporter.out.print(matches_table(taken.shown, reporter.out.width, with_pids=all_processes))
    if taken.more:
        reporter.finding(taken.more)
    reporter.result(fields, _summary(found, taken.n_matches, searched, duration_ns))
    return 0


class _Taken:
    """The matches so far: printed as events, or `shown` in the end, the first of them. `n_matches` counts all."""

    def __init__(
        self, reporter: Reporter, max_count: int | None, *, is_pointer: bool, all_rounds: bool, only_count: bool
    ) -> None:
        self.n_matches = 0
        self.shown: list[FoundMatch] = []
        self._reporter = reporter
        self._max_count = max_count
        self._is_pointer = is_pointer
        self._all_rounds = all_rounds
        self._only_count = only_count

    @property
    def is_full(self) -> bool:
        """Whether there are as many as were asked for."""
        return self.n_matches == self._max_count

    @property
    def more(self) -> str:
        """What is not shown, in words; empty if everything is."""
        n_left = self.n_matches - sum(1 + match.repeats for match in self.shown)
        if self.is_full:
            return f"... and maybe more: the search ended with match {self.n_matches:,}"
        return f"... and {n_left:,} more: --max-count N lists as many, --json all of them" if n_left else ""

    def take(self, whose: "ProcessSearch", match: "Match") -> None:
        """Take one."""
        if self._max_count is not None:
            match.repeats = min(match.repeats, self._max_count - self.n_matches - 1)
        self.n_matches += 1 + match.repeats
        if self._only_count:
            return
        if self._reporter.as_json:
            self._reporter.event(_event(whose, match, is_pointer=self._is_pointer))
        elif len(self.shown) < (self._max_count or SHOWN_MAX):
            self.shown.append(_shown(whose, match, all_rounds=self._all_rounds, is_pointer=self._is_pointer))


def _summary(found: "Search", n_matches: int, searched: list[int], duration_ns: int) -> str:
    from analysis.search.search import rounds_text

    data_bytes = found.searched_bytes - found.zero_bytes
    where = f"round {searched[0]}" if len(searched) == 1 else f"rounds {rounds_text(searched)}"
    processes = f" of {counted(found.n_processes, 'process', 'processes')}" if found.n_processes > 1 else ""
    return (
        f"{counted(n_matches, 'match', 'matches')} in {bytes_text(data_bytes)} of data and "
        f"{bytes_text(found.zero_bytes)} of zeros in {where}{processes}; {duration_text(duration_ns)}."
    )


def _target(whose: "ProcessSearch", match: "Match") -> str:
    """What a pointer points to."""
    return whose.places_of(match).name(int.from_bytes(match.content, "little"))


def _event(whose: "ProcessSearch", match: "Match", *, is_pointer: bool) -> dict[str, object]:
    places = whose.places_of(match)
    vma = places.vma_at(match.addr)
    event: dict[str, object] = {
        "type": "match",
        "pid": whose.pid,
        "addr": match.addr,
        "place": places.name(match.addr),
        "length": len(match.content),
        "hex": match.content.hex(),
        "before_hex": match.before.hex(),
        "after_hex": match.after.hex(),
        "encoding": match.encoding,
        "repeats": match.repeats,
        "found_in": whose.rounds_of(match),
        "elsewhere": [asdict(mapped) for mapped in whose.elsewhere(match)],
    }
    if vma is not None:
        event |= {"start_addr": vma.start_addr, "end_addr": vma.end_addr, "perms": vma.perms, "path": vma.path}
    return event | ({"value_place": _target(whose, match)} if is_pointer else {})


def _shown(whose: "ProcessSearch", match: "Match", *, all_rounds: bool, is_pointer: bool) -> "FoundMatch":
    from analysis.search.search import rounds_text
    from display.matches import FoundMatch

    return FoundMatch(
        pid=whose.pid,
        addr=match.addr,
        place=whose.places_of(match).name(match.addr),
        before=match.before,
        content=match.content,
        after=match.after,
        encoding=match.encoding,
        repeats=match.repeats,
        rounds=rounds_text(whose.rounds_of(match)) if all_rounds else "",
        target=_target(whose, match) if is_pointer else "",
        elsewhere_pids=[mapped.pid for mapped in whose.elsewhere(match)],
    )
