"""What looking into a checkpoint of many rounds costs: each command from its start to its end, Python's start included.

A further measurement is a function that takes a `Chain` and the number of runs, and stands in `MEASUREMENTS`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Figure
from benchmarks.measure import Say
from dumper import Checkpoint, MemoryView, Session
from formats.layout import PAGE_BYTES
from formats.segments import SegmentKind
from tests.harness import number, parse_events

ROUNDS = 100
WRITER_PAGES_PER_S = 12_800  # 50 MB/s
SUMMARY_S = 0.5
PAGE_S = 0.3
SEARCH_MB_PER_S = 500
TEXT = "a text that nobody has"


@dataclass(frozen=True, slots=True)
class Chain:
    """A checkpoint at `path`; `oldest_addr` is a page that the first round holds, `newest_addr` one of the last."""

    bench: Bench
    size: str
    path: Path
    oldest_addr: int
    newest_addr: int

    def timed(self, name: str, limit_s: float, runs: int, *words: object) -> Figure:
        """How long `predump WORDS` takes."""
        return Figure(
            name=f"{self.size}, {ROUNDS} rounds: {name}",
            unit="s",
            measured=[self.bench.predump(*words).wall_ns / 1e9 for _ in range(runs)],
            limits=[limit_s] * runs,
        )


@contextmanager
def chain(bench: Bench, mib: int, size: str, say: Say) -> Iterator[Chain]:
    """Rounds of a target with a writer, the last one a dump."""
    with bench.directory() as directory:
        path = directory / "checkpoint"
        with bench.target(mib) as target:
            target.command(f"rate {WRITER_PAGES_PER_S}")
            with Session(target.pid, path) as session:
                for number in range(1, ROUNDS):
                    say(f"round {number} of {ROUNDS}")
                    session.pre_dump()
                session.dump()
        with MemoryView(Checkpoint.open(path)) as view:
            largest = max(view.vmas, key=lambda vma: vma.n_pages)
            found = {
                segment.round: segment.start_addr
                for segment in view.segments(largest.start_addr, largest.end_addr)
                if segment.kind is SegmentKind.DATA
            }
        yield Chain(bench, size, path, found[1], found[max(found)])


def _summary(images: Chain, runs: int) -> list[Figure]:
    return [images.timed("inspect", SUMMARY_S, runs, "inspect", images.path)]


def _page(images: Chain, runs: int) -> list[Figure]:
    return [
        images.timed(f"read a page {where}", PAGE_S, runs, "read", images.path, hex(addr), PAGE_BYTES)
        for where, addr in (("of the first round", images.oldest_addr), ("of the last round", images.newest_addr))
    ]


def _search(images: Chain, runs: int) -> list[Figure]:
    """A text that is nowhere; of all rounds as well, where it takes as long as what is in them once."""
    figures = []
    for name, options in (("search", ()), ("search all rounds", ("--all-rounds",))):
        found = [images.bench.predump("search", images.path, TEXT, *options, "--json") for _ in range(runs)]
        searched_bytes = [number(parse_events(done.stdout)[-1], "searched_bytes") for done in found]
        figures.append(
            Figure(
                name=f"{images.size}, {ROUNDS} rounds: {name}",
                unit="s",
                limit_name=f"{SEARCH_MB_PER_S} MB/s",
                measured=[done.wall_ns / 1e9 for done in found],
                limits=[n_bytes / (SEARCH_MB_PER_S * 1e6) for n_bytes in searched_bytes],
                note=f"wall time of the command for {searched_bytes[0] / 1e6:.0f} MB, zeros among them",
            )
        )
    return figures


MEASUREMENTS: Sequence[Callable[[Chain, int], list[Figure]]] = (_summary, _page, _search)


def images(bench: Bench, mib: int, size: str, runs: int, say: Say) -> list[Figure]:
    """All measurements, of one checkpoint."""
    with chain(bench, mib, size, say) as made:
        return [figure for measure in MEASUREMENTS for figure in measure(made, runs)]
