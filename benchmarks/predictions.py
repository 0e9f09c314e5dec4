"""The frozen time that `run` predicts right before it freezes, beside the one that it then takes."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from benchmarks.bench import Bench
from benchmarks.figures import Figure, spread
from benchmarks.measure import Say, ms
from formats.layout import PAGE_BYTES
from tests.harness import Event, Target, number, parse_events

APART = 0.3  # a share of the measured time
BEYOND_MS = 5.0
MISSES = 0.1  # of the runs
PHASES = ("stop", "maps", "state", "scan", "copy", "holes", "clone", "stream", "resume")
SHARED_MIB = 64
RATES_PAGES_PER_S = (12_800, 256_000)
SHARED_MEMORY = """
import mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]) << 20)
for at in range(0, len(memory), 4096):
    memory[at : at + 8] = at.to_bytes(8, "little")
print("ready", flush=True)
sys.stdin.read()
"""

Start = Callable[[], AbstractContextManager[Target]]


def _starts(bench: Bench) -> Mapping[str, Start]:
    """Targets whose freeze is long for unlike reasons."""
    return {
        "200 threads": lambda: bench.state_target(200, 20),
        "400 threads": lambda: bench.state_target(400, 20),
        "400 descriptors": lambda: bench.state_target(1, 400),
        "50 processes": lambda: bench.idle_tree(50, 1),
        f"{SHARED_MIB} MiB of shared memory": lambda: Target.spawn(sys.executable, "-c", SHARED_MEMORY, SHARED_MIB),
    }


def _targets(bench: Bench, sizes_mib: Sequence[int]) -> Iterator[tuple[str, Target]]:
    """Each is there until the next one is asked for."""
    for name, start in _starts(bench).items():
        with start() as target:
            yield name, target
    for mib in sizes_mib:
        with bench.target(mib) as target:
            for pages_per_s in RATES_PAGES_PER_S:
                target.command(f"rate {pages_per_s}")
                yield f"{mib} MiB, written at {pages_per_s * PAGE_BYTES / 1e6:.0f} MB/s", target


def _dump(bench: Bench, pid: int) -> Event:
    """The dump of a run that takes no more than two rounds before it."""
    with bench.directory() as directory:
        words = ("-t", pid, "-D", directory / "checkpoint", "--max-rounds", 2, "--max-freeze", "1us", "--json")
        done = bench.predump("run", *words, codes=(3,))
    return [event for event in parse_events(done.stdout) if event["type"] == "round"][-1]


def predictions(bench: Bench, runs: int, sizes_mib: Sequence[int], say: Say) -> list[Figure]:
    """In how many runs beyond BEYOND_MS the two are more than APART of the measured time apart."""
    apart: list[float] = []
    notes = []
    for name, target in _targets(bench, sizes_mib):
        say(f"prediction: {name}")
        dumps = [_dump(bench, target.pid) for _ in range(runs)]
        predicted_ms = [ms(number(dump, "predicted_freeze_ns")) for dump in dumps]
        frozen_ms = [ms(number(dump, "frozen_ns")) for dump in dumps]
        apart += [abs(p / f - 1) for p, f in zip(predicted_ms, frozen_ms, strict=True) if f > BEYOND_MS]
        phases = ", ".join(f"{what} {spread([ms(number(dump, f'{what}_ns')) for dump in dumps])}" for what in PHASES)
        notes.append(f"{name}: predicted {spread(predicted_ms)}, frozen {spread(frozen_ms)} ms ({phases})")
    name = f"runs frozen beyond {BEYOND_MS:g} ms with a prediction more than {APART:.0%} off"
    if not apart:
        return [Figure(name=name, unit="", skipped="no target was frozen for so long")]
    return [
        Figure(
            name=name,
            unit="",
            measured=[sum(error > APART for error in apart) / len(apart)],
            limits=[MISSES],
            note=f"{len(apart)} runs, errors {spread(apart)}\n  " + "\n  ".join(notes),
            details={"errors": apart},
        )
    ]
