"""What the state costs inside the freeze: of one small process, of each further thread and descriptor, of a tree."""

from contextlib import AbstractContextManager
from statistics import median

from benchmarks.bench import Bench
from benchmarks.figures import Figure, spread
from benchmarks.measure import Say, ms
from tests.harness import Event, Target, number

SMALL_DESCRIPTORS = 20
MANY = 400  # further threads, or descriptors
SMALL_STATE_MS = 2.0
FURTHER_US = 30.0
TREE_PROCESSES = 50
TREE_MIB = 20
TREE_FROZEN_MS = 60.0


def _dump(bench: Bench, pid: int, option: str) -> Event:
    with bench.directory() as directory:
        return bench.predump("dump", option, pid, "-D", directory / "checkpoint", "--json").round


def _state_ns(bench: Bench, start: AbstractContextManager[Target], runs: int) -> list[int]:
    with start as target:
        return [number(_dump(bench, target.pid, "-p"), "state_ns") for _ in range(runs)]


def states(bench: Bench, runs: int, say: Say) -> list[Figure]:
    """State of one thread and 20 descriptors, and what further ones add."""
    say("state of a small process, of one with many threads, of one with many descriptors")
    small = _state_ns(bench, bench.state_target(1, SMALL_DESCRIPTORS), runs)
    threads = _state_ns(bench, bench.state_target(1 + MANY, SMALL_DESCRIPTORS), runs)
    descriptors = _state_ns(bench, bench.state_target(1, SMALL_DESCRIPTORS + MANY), runs)

    def further(name: str, state_ns: list[int]) -> Figure:
        return Figure(
            name=f"state of each further {name}",
            unit="µs",
            measured=[(ns - median(small)) / MANY / 1e3 for ns in state_ns],
            limits=[FURTHER_US] * runs,
            note=f"{MANY} more of them take {spread([ms(ns) for ns in state_ns])} ms",
        )

    first = Figure(
        name=f"state of a process with 1 thread and {SMALL_DESCRIPTORS} descriptors",
        unit="ms",
        measured=[ms(ns) for ns in small],
        limits=[SMALL_STATE_MS] * runs,
    )
    return [first, further("thread", threads), further("descriptor", descriptors)]


def tree(bench: Bench, runs: int, say: Say) -> list[Figure]:
    """How long an idle tree is frozen."""
    say(f"a tree of {TREE_PROCESSES} processes of {TREE_MIB} MiB")
    with bench.idle_tree(TREE_PROCESSES, TREE_MIB) as target:
        rounds = [_dump(bench, target.pid, "-t") for _ in range(runs)]

    def part(name: str) -> str:
        return f"{name.removesuffix('_ns')} {spread([ms(number(r, name)) for r in rounds])}"

    parts = ", ".join(map(part, ("stop_ns", "state_ns", "scan_ns", "copy_ns")))
    return [
        Figure(
            name=f"{TREE_PROCESSES} processes of {TREE_MIB} MiB, idle: frozen by dump",
            unit="ms",
            measured=[ms(number(r, "frozen_ns")) for r in rounds],
            limits=[TREE_FROZEN_MS] * runs,
            note=f"of it in ms: {parts}",
        )
    ]
