"""Measures what predump promises and prints it: `make bench`, or `python -m benchmarks --help`."""

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FrameType

from rich.console import Console

from benchmarks import (
    clones,
    hosts,
    images,
    load,
    measure,
    migration,
    observed,
    predictions,
    restore,
    states,
    streams,
)
from benchmarks.bench import Bench
from benchmarks.figures import Figure, show
from benchmarks.measure import Say
from tests.harness import Target

QUICK_MIB = 256
USUAL_MIB = 1024
IMAGES_MIB = 4096
QUICK_MIGRATION_MIB = 64
HOST_RUNS = 10
LOAD_RUNS = 2
FEWER_RUNS = 3  # of what has many targets, or is large
SIZES = {64: "64 MiB", 256: "256 MiB", 1024: "1 GiB", 4096: "4 GiB"}


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived: leave, and clean up on the way."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures what predump promises, each figure against a limit taken in the same run. "
        "Exit code 0: all within their limits (medians), 1: one missed (never with --quick).",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="256 MiB and one run: does it work?")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default 5)")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    return options


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


def measure_size(bench: Bench, mib: int, runs: int, parts: str) -> list[Figure]:
    """What is measured of a target of one size.

    F(irst round), f(reezes), i(dle), m(emory), e(xport), o(bserve), c(lone).
    """
    size = SIZES[mib]
    reason = bench.lacks_memory_for(mib)
    if reason:
        return [Figure(name=f"{size}: everything", unit="", skipped=reason)]

    def say_here(text: str) -> None:
        say(f"{size}: {text}")

    figures: list[Figure] = []
    say_here("starting the target")
    with bench.target(mib) as target:
        if "F" in parts:
            figures += measure.first_round(bench, target, size, runs, say_here)
        if "i" in parts:
            figures += measure.idle_rounds(bench, target, size, runs, say_here)
        if "e" in parts:
            figures += measure.exports(bench, target, size, runs, say_here)
        if "o" in parts:
            figures += observed.foretold(bench, target, size, runs, say_here)
        if "c" in parts:
            figures += clones.clones(bench, target, size, mib, runs, say_here)
        if "f" in parts or "m" in parts:
            freezes, memory = measure.freezes(bench, target, runs, say_here)
            figures += freezes.figures(size) if "f" in parts else []
            figures += memory.figures(size) if "m" in parts else []
    return figures


def measure_sizes(bench: Bench, runs: int, *, quick: bool) -> list[Figure]:
    """What depends on the size of the target."""
    plan = [(QUICK_MIB, "fFimeoc")] if quick else [(256, "m"), (1024, "fFeoc"), (4096, "fim")]
    return [figure for mib, parts in plan for figure in measure_size(bench, mib, runs, parts)]


def measure_states(bench: Bench, runs: int, *, quick: bool) -> list[Figure]:
    """What the state costs, whatever the size."""
    del quick
    return states.states(bench, runs, say) + states.tree(bench, runs, say)


def measure_predictions(bench: Bench, runs: int, *, quick: bool) -> list[Figure]:
    """Frozen times foretold."""
    sizes_mib = [mib for mib in ((QUICK_MIB,) if quick else (1024, 4096)) if not bench.lacks_memory_for(mib)]
    return predictions.predictions(bench, min(runs, FEWER_RUNS), sizes_mib, say)


def _measure_one(
    bench: Bench, measure_it: Callable[[Bench, Target, str, Say], list[Figure]], *, quick: bool
) -> list[Figure]:
    """What is measured of a target of one usual size."""
    mib = QUICK_MIB if quick else USUAL_MIB
    reason = bench.lacks_memory_for(mib)
    if reason:
        return [Figure(name=f"{SIZES[mib]}: checkpoints that travel", unit="", skipped=reason)]
    with bench.target(mib) as target:
        return measure_it(bench, target, SIZES[mib], say)


def measure_streams(bench: Bench, runs: int, *, quick: bool) -> list[Figure]:
    """Checkpoints that travel on this host."""
    return _measure_one(bench, partial(streams.streams, runs=min(runs, FEWER_RUNS)), quick=quick)


def measure_hosts(bench: Bench, runs: int, *, quick: bool) -> list[Figure]:
    """Checkpoints that travel to another; always the same number of runs, if not quick."""
    return _measure_one(bench, partial(hosts.migrations, runs=runs if quick else HOST_RUNS), quick=quick)


def measure_load(bench: Bench, runs: int, *, quick: bool) -> list[Figure]:
    """What targets still do meanwhile."""
    del quick
    return load.load(bench, min(runs, LOAD_RUNS), say)


def measure_images(bench: Bench, runs: int, *, quick: bool) -> list[Figure]:
    """Looking into a checkpoint of many rounds."""
    mib = QUICK_MIB if quick else IMAGES_MIB
    reason = bench.lacks_memory_for(mib)
    if reason:
        return [Figure(name=f"{SIZES[mib]}: looking into images", unit="", skipped=reason)]
    return images.images(bench, mib, SIZES[mib], runs, say)


def measure_migration(bench: Bench, runs: int, *, quick: bool) -> list[Figure]:
    """What the client of a service sees when it moves."""
    mib = QUICK_MIGRATION_MIB if quick else USUAL_MIB
    reason = bench.lacks_memory_for(2 * mib)  # twice in memory, once on disk
    if reason:
        return [Figure(name=f"{SIZES[mib]}: a service that moves", unit="", skipped=reason)]
    return migration.migrations(bench, mib, SIZES[mib], runs, say)


def measure_restore(bench: Bench, runs: int, *, quick: bool) -> list[Figure]:
    """Processes that come back."""
    figures: list[Figure] = []
    plan = [(QUICK_MIB, restore.restores), (QUICK_MIB, restore.lazy_restores)]
    if not quick:
        sizes = (USUAL_MIB, IMAGES_MIB)
        plan = [(USUAL_MIB, restore.restores), *((mib, restore.lazy_restores) for mib in sizes)]
    for mib, measure_it in plan:
        reason = bench.lacks_memory_for(mib)
        if reason:
            figures.append(Figure(name=f"{SIZES[mib]}: processes that come back", unit="", skipped=reason))
        else:
            figures += measure_it(bench, mib, SIZES[mib], runs, say)
    return figures


PARTS: Mapping[str, Callable[..., list[Figure]]] = {
    "sizes": measure_sizes,
    "states": measure_states,
    "predictions": measure_predictions,
    "streams": measure_streams,
    "hosts": measure_hosts,
    "migration": measure_migration,
    "restore": measure_restore,
    "load": measure_load,
    "images": measure_images,
}


def measure_all(options: argparse.Namespace) -> list[Figure]:
    """Every figure of the parts that are asked for."""
    runs = 1 if options.quick else options.runs
    with Bench() as bench:
        return [
            figure
            for name, part in PARTS.items()
            if not options.parts or name in options.parts
            for figure in part(bench, runs, quick=options.quick)
        ]


def main() -> int:
    """Entry point; the exit code."""

    def terminate(number: int, _frame: FrameType | None) -> None:
        raise Terminated(number)

    options = parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)
    try:
        figures = measure_all(options)
    except (Terminated, KeyboardInterrupt):
        say("interrupted")
        return 130
    if options.json:
        host = {"kernel": platform.release(), "cpus": os.cpu_count(), "python": platform.python_version()}
        print(json.dumps({"host": host, "figures": [figure.as_json() for figure in figures]}))
    else:
        show(figures, Console(width=None if sys.stdout.isatty() else 132))
    return 0 if options.quick or all(figure.is_good for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
