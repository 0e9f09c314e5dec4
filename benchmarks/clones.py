"""The freeze of a target that writes faster than can be copied, beside a bare clone of it."""

from statistics import median

from benchmarks.bench import MIB, Bench
from benchmarks.figures import Figure, spread
from benchmarks.measure import Say, ms
from tests.harness import Target, number

SWEPT_MIB = 400  # written in every SWEEP_MS
SWEEP_MS = 100
CLONE_PASSES = 5
FACTOR = 1.3
PHASES = ("stop_ns", "maps_ns", "state_ns", "scan_ns", "copy_ns", "holes_ns", "clone_ns", "stream_ns", "resume_ns")


def clones(bench: Bench, target: Target, size: str, mib: int, runs: int, say: Say) -> list[Figure]:
    """A bare clone and a dump in turn, while the target writes the same part of its memory again and again."""
    swept_mib = SWEPT_MIB * mib // 1024
    target.command(f"sweep {swept_mib} {SWEEP_MS}")
    bare_ms: list[float] = []
    rounds = []
    for i in range(runs):
        say(f"clone {i + 1} of {runs}")
        bare_ms.append(ms(bench.clone_ns(target.pid, CLONE_PASSES)))
        with bench.directory() as directory:
            dump = bench.predump("dump", "-p", target.pid, "-D", directory / "checkpoint", "--json", "--leave-running")
        rounds.append(dump.round)
    target.command("rate 0")
    ways = sorted({str(one["freeze_by"]) for one in rounds})
    phases = {name.removesuffix("_ns"): [ms(number(one, name)) for one in rounds] for name in PHASES}
    explained = ", ".join(f"{name} {median(values):.2f}" for name, values in phases.items() if any(values))
    return [
        Figure(
            name=f"{size}: frozen by dump, {swept_mib} MiB written each {SWEEP_MS} ms",
            unit="ms",
            limit_name=f"{FACTOR} x a bare clone",
            measured=[ms(number(one, "frozen_ns")) for one in rounds],
            limits=[FACTOR * bare for bare in bare_ms],
            note=f"by {' and '.join(ways)}; bare clone {spread(bare_ms)} ms; medians: {explained}; "
            f"{median([number(one, 'pages_data') for one in rounds]) * 4096 / MIB:.0f} MiB of data",
            details=phases | {"bare_ms": bare_ms},
        )
    ]
