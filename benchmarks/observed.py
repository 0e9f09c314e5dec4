"""What `observe` foretells beside what `run` then does with the same target."""

from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.figures import Figure, spread
from benchmarks.measure import WRITER_PAGES_PER_S, Say, ms
from dumper.workingset import Window, WorkingSet
from tests.harness import Event, Target, number, parse_events

OBSERVE_S = 5
APART = 0.2  # a share of what run measures
FREEZE_APART = 0.3
LIMITS = {
    "rounds": APART,
    "stored MiB": APART,
    "ms in all": APART,
    "pages of the second round": APART,
    "the same, given how long the first one took": APART,
    "ms frozen": FREEZE_APART,
}


def _run(bench: Bench, pid: int) -> list[Event]:
    """The rounds of a run, and its dump."""
    with bench.directory() as directory:
        done = bench.predump("run", "-p", pid, "-D", directory / "checkpoint", "--json")
    return [event for event in parse_events(done.stdout) if event["type"] == "round"]


def _measured(rounds: list[Event]) -> Mapping[str, float]:
    pages = number(rounds[1], "pages_written")
    stored_bytes = sum(number(round_, "stored_bytes") for round_ in rounds)
    duration_ms = sum(ms(number(round_, "duration_ns")) for round_ in rounds)
    frozen_ms = ms(number(rounds[-1], "frozen_ns"))
    return dict(zip(LIMITS, (len(rounds), stored_bytes / (1 << 20), duration_ms, pages, pages, frozen_ms), strict=True))


def _foretold(observed: Event, first_ns: int) -> Mapping[str, float]:
    """By the projection without a link, which is what run into a directory does."""
    projections, windows = observed["projections"], observed["working_set"]
    assert isinstance(projections, list)
    assert isinstance(windows, list)
    one = projections[-1]
    working_set = WorkingSet([Window(**window) for window in windows], number(observed, "pages_present"))
    figures = (
        one["rounds"],
        one["stored_bytes"] / (1 << 20),
        ms(one["duration_ns"]),
        one["pre_dumps"][1]["pages"],
        working_set.pages_in(first_ns),
        ms(one["frozen_ns"]),
    )
    return dict(zip(LIMITS, figures, strict=True))


def foretold(bench: Bench, target: Target, size: str, runs: int, say: Say) -> list[Figure]:
    """How far apart the two are, as a share of what was measured."""
    target.command(f"rate {WRITER_PAGES_PER_S}")
    expected, measured = [], []
    for i in range(runs):
        say(f"observe, then run {i + 1} of {runs}")
        observed = bench.predump("observe", "-p", target.pid, "--duration", f"{OBSERVE_S}s", "--json")
        rounds = _run(bench, target.pid)
        expected.append(_foretold(parse_events(observed.stdout)[-1], number(rounds[0], "duration_ns")))
        measured.append(_measured(rounds))
    target.command("rate 0")
    return [
        Figure(
            name=f"{size}: error of what observe foretells: {name}",
            unit="",
            measured=[abs(e[name] / m[name] - 1) for e, m in zip(expected, measured, strict=True)],
            limits=[limit] * runs,
            note=f"a writer of {WRITER_PAGES_PER_S} pages/s; foretold {spread([e[name] for e in expected])}, "
            f"run: {spread([m[name] for m in measured])}",
            details={"foretold": [e[name] for e in expected], "run": [m[name] for m in measured]},
        )
        for name, limit in LIMITS.items()
    ]
