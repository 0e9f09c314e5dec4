"""What `observe` foretells beside what `run` then does with the same target."""

from benchmarks.bench import Bench
from benchmarks.figures import Figure, spread
from benchmarks.measure import WRITER_PAGES_PER_S, Say, ms
from tests.harness import Event, Target, number, parse_events

OBSERVE_S = 5
APART = 0.2  # a share of what run measures
FREEZE_APART = 0.3


def _run(bench: Bench, pid: int) -> dict[str, float]:
    with bench.directory() as directory:
        done = bench.predump("run", "-p", pid, "-D", directory / "checkpoint", "--json")
    rounds = [event for event in parse_events(done.stdout) if event["type"] == "round"]
    return {
        "rounds": len(rounds),
        "stored MiB": sum(number(round_, "stored_bytes") for round_ in rounds) / (1 << 20),
        "time in ms": sum(ms(number(round_, "duration_ns")) for round_ in rounds),
        "pages of the second round": number(rounds[1], "pages_written"),
        "frozen ms": ms(number(rounds[-1], "frozen_ns")),
    }


def _observe(bench: Bench, pid: int) -> dict[str, float]:
    done = bench.predump("observe", "-p", pid, "--duration", f"{OBSERVE_S}s", "--json")
    result = parse_events(done.stdout)[-1]
    projections = result["projections"]
    assert isinstance(projections, list)
    one: Event = projections[-1]  # no link: what run into a directory does
    pre_dumps = one["pre_dumps"]
    assert isinstance(pre_dumps, list)
    return {
        "rounds": number(one, "rounds"),
        "stored MiB": number(one, "stored_bytes") / (1 << 20),
        "time in ms": ms(number(one, "duration_ns")),
        "pages of the second round": pre_dumps[1]["pages"],
        "frozen ms": ms(number(one, "frozen_ns")),
    }


def foretold(bench: Bench, target: Target, size: str, runs: int, say: Say) -> list[Figure]:
    """How far apart the two are, as a share of what was measured: bytes, pages and time within APART."""
    target.command(f"rate {WRITER_PAGES_PER_S}")
    expected, measured = [], []
    for i in range(runs):
        say(f"observe, then run {i + 1} of {runs}")
        expected.append(_observe(bench, target.pid))
        measured.append(_run(bench, target.pid))
    target.command("rate 0")
    return [
        Figure(
            name=f"{size}: error of what observe foretells: {name}",
            unit="",
            measured=[abs(e[name] / m[name] - 1) for e, m in zip(expected, measured, strict=True)],
            limits=[FREEZE_APART if name == "frozen ms" else APART] * runs,
            note=f"a writer of {WRITER_PAGES_PER_S} pages/s; foretold {spread([e[name] for e in expected])}, "
            f"run: {spread([m[name] for m in measured])}",
            details={
                "foretold": [e[name] for e in expected],
                "run": [m[name] for m in measured],
            },
        )
        for name in measured[0]
    ]
