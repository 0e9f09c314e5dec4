"""A run into a directory, as a stream to nowhere, and over TLS to a receiver: in turn, of the same idle target."""

from pathlib import Path
from statistics import median

from benchmarks import links
from benchmarks.bench import MIB, Bench
from benchmarks.figures import Figure, spread
from benchmarks.measure import Say
from tests.harness import Target

NULL_FACTOR = 1.1  # of the time into a directory on tmpfs
TLS_SHARE = 0.6  # of the speed of the stream to /dev/null


def streams(bench: Bench, target: Target, size: str, say: Say, runs: int) -> list[Figure]:
    """How long each takes, and what the two sides of a link take of memory."""
    resident_bytes = int(Path(f"/proc/{target.pid}/statm").read_text().split()[1]) * 4096
    arguments = ("run", "-t", target.pid, "--max-freeze", "1s")
    into_s: dict[str, list[float]] = {"directory": [], "null": [], "tls": []}
    transfers = []
    start_s = median(bench.start_s() for _ in range(runs))
    for i in range(runs):
        say(f"streams {i + 1} of {runs}")
        with bench.directory() as directory:
            bench.touch_memory(resident_bytes)
            done = bench.predump(*arguments, "-D", directory / "checkpoint", "--json")
            into_s["directory"].append(done.wall_ns / 1e9 - start_s)
        done = bench.predump(*arguments, "--to", "-", "--json", streams=True)
        into_s["null"].append(done.wall_ns / 1e9 - start_s)
        with bench.directory() as directory:
            route = links.Route(directory / "keys")
            route.make_keys(bench)
            bench.touch_memory(resident_bytes)
            transfers.append(links.transfer(route, directory / "checkpoint", *arguments))
            into_s["tls"].append(transfers[-1].run.wall_ns / 1e9 - start_s)
    stored_mib = transfers[0].stored_bytes / MIB
    note = f"{resident_bytes / MIB:.0f} MiB, stored {stored_mib:.0f} MiB; less {start_s:.2f} s of starting Python"
    return [
        Figure(
            name=f"{size}: run --to - > /dev/null",
            unit="s",
            limit_name=f"{NULL_FACTOR} x into a directory on tmpfs",
            measured=into_s["null"],
            limits=[NULL_FACTOR * one for one in into_s["directory"]],
            note=f"{note}; directory {spread(into_s['directory'])} s",
        ),
        Figure(
            name=f"{size}: run --to tls:// on loopback, into a directory on tmpfs",
            unit="s",
            limit_name=f"to /dev/null / {TLS_SHARE}",
            measured=into_s["tls"],
            limits=[one / TLS_SHARE for one in into_s["null"]],
            note=note,
        ),
        *links.own_memory(size, transfers),
    ]
