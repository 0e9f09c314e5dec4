"""A migration from one host to another: two network namespaces, and a link of 1 Gbit/s between them."""

import json
from pathlib import Path

import pytest

from benchmarks import links
from benchmarks.bench import Bench
from benchmarks.figures import Figure, spread
from benchmarks.measure import Say, ms
from tests.harness import Target, number
from tests.netns import DEVICE, Host, Link, two_hosts

BITS_PER_S = 1_000_000_000
PAGES_PER_S = 4_883  # 20 MB/s
MAX_FREEZE_MS = 20
MISSES = 0.1  # of the runs
WIRE_FACTOR = 1.15


def migrations(bench: Bench, target: Target, size: str, say: Say, runs: int) -> list[Figure]:
    """Whether runs converge and keep to their budget, and what goes over the wire for what is stored."""
    title = f"{size}, 20 MB/s of random pages, over 1 Gbit/s"
    target.command(f"rate {PAGES_PER_S}")
    try:
        with two_hosts() as link, bench.directory() as directory:
            link.limit_rate(BITS_PER_S)
            route = links.Route(directory / "keys", *link.hosts)
            route.make_keys(bench)
            return _migrations(bench, target.pid, route, link, title, say, runs)
    except pytest.skip.Exception as reason:
        return [Figure(name=title, unit="", skipped=str(reason))]
    finally:
        target.command("rate 0")


def _migrations(
    bench: Bench, pid: int, route: links.Route, link: Link, title: str, say: Say, runs: int
) -> list[Figure]:
    transfers, wire_bytes, file_bytes = [], [], []
    for i in range(runs):
        say(f"migration {i + 1} of {runs}")
        with bench.directory() as directory:
            before_bytes = sum(map(_sent_bytes, link.hosts))
            words = ("run", "-t", pid, "--max-freeze", f"{MAX_FREEZE_MS}ms")
            transfers.append(links.transfer(route, directory / "checkpoint", *words))
            wire_bytes.append(sum(map(_sent_bytes, link.hosts)) - before_bytes)
            file_bytes.append(_size_bytes(directory / "checkpoint"))
    results = [one.result for one in transfers]
    frozen_ms = [ms(number(one, "frozen_ns")) for one in results]
    predicted_ms = [ms(number(one, "predicted_freeze_ns")) for one in results]
    kept = [bool(one["converged"]) and frozen <= MAX_FREEZE_MS for one, frozen in zip(results, frozen_ms, strict=True)]
    stored_bytes = [one.stored_bytes for one in transfers]
    return [
        Figure(
            name=f"{title}: share of runs that did not converge to {MAX_FREEZE_MS} ms, or were frozen for longer",
            unit="",
            measured=[kept.count(False) / runs],
            limits=[MISSES],
            note=f"of {runs}; {sum(not one['converged'] for one in results)} did not converge; frozen "
            f"{spread(frozen_ms)}, predicted {spread(predicted_ms)} ms; rounds "
            f"{spread([number(one, 'round') for one in results])}; the command takes "
            f"{spread([one.run.wall_ns / 1e9 for one in transfers])} s",
            details={"frozen_ms": frozen_ms, "predicted_ms": predicted_ms},
        ),
        Figure(
            name=f"{title}: on the wire",
            unit="MB",
            limit_name=f"{WIRE_FACTOR} x what the rounds store",
            measured=[wire / 1e6 for wire in wire_bytes],
            limits=[WIRE_FACTOR * stored / 1e6 for stored in stored_bytes],
            note="both directions, with all headers; of the received files "
            + spread([wire / size for wire, size in zip(wire_bytes, file_bytes, strict=True)]),
        ),
        *links.own_memory(title, transfers),
    ]


def _sent_bytes(host: Host) -> int:
    """What left a host, as its queueing discipline counts it: large segments with the headers that each packet gets."""
    said = json.loads(host.run("tc", "-s", "-j", "qdisc", "show", "dev", DEVICE).stdout)
    return int(said[0]["bytes"])


def _size_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
