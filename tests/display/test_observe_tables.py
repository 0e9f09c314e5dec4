"""What `observe` shows: while it watches, and in the end."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from display.observe import ObserveView, link_text, whole
from dumper.events import Attached, Observed
from dumper.heat import HotVma
from dumper.observe import EndedBy, Observation
from dumper.prediction import Size
from dumper.projection import PageCost, Projection
from dumper.workingset import Window

HEAP = HotVma(
    pid=7,
    start_addr=0x5000,
    end_addr=0x9000,
    perms="rw-p",
    kind="heap",
    path="[heap]",
    pages_written=900,
    pages_written_per_s=300.0,
    pages_distinct=4,
    share=0.9,
)
WINDOW = Window(window_ns=10**8, measured_ns=10**8, windows=30, pages_mean=1234, pages_max=2345)
SEEN = Observation(
    pid=7,
    ended_by=EndedBy.DURATION,
    interval_ns=10**8,
    elapsed_ns=3 * 10**9,
    ticks=30,
    size=Size(processes=2, threads=3),
    unseen_writers=(),
    pages_present=2560,
    pages_written=1000,
    pages_written_per_s=333.3,
    bytes_written_per_s=333.3 * 4096,
    working_set=[WINDOW],
    vmas=[HEAP],
    attach_stop_ns=400_000,
    target_fault_ns=800_000,
    own_ns=30_000_000,
    scan_ns=700_000,
    other_threads=0.5,
    first=PageCost(copy_ns=800, compress_ns=8192, stored_bytes=1024),
    later=PageCost(copy_ns=800, compress_ns=8192, stored_bytes=2048),
)
SLOW = Projection(
    link_bytes_per_s=125_000_000,
    converges=False,
    reason="3 rounds did not shrink",
    rounds=6,
    raw_bytes=1 << 30,
    stored_bytes=1 << 28,
    duration_ns=9 * 10**9,
    frozen_ns=150_000_000,
    dump_pages=4000,
    pre_dumps=[],
)
SAMPLE = Observed(
    pid=7,
    elapsed_ns=3 * 10**9,
    period_ns=10**9,
    ticks=30,
    processes=2,
    pages_present=2560,
    pages_written=300,
    pages_written_per_s=300.0,
    bytes_written_per_s=300.0 * 4096,
    working_set=[WINDOW],
    vmas=[HEAP],
)


def shown(seen: Observation) -> str:
    console = Console(file=io.StringIO(), width=120, soft_wrap=True)
    console.print(whole(seen, [SLOW, replace(SLOW, link_bytes_per_s=None, converges=True)], 20_000_000))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_end_has_it_all() -> None:
    text = shown(SEEN)
    for words in (
        "3.00 s in 30 ticks",
        "10.0 MiB present in 2 processes with 3 threads",
        "333 pages/s, 1.4 MB/s",
        "4.0x at 500 MB/s by one thread",
        "2.0x at 500 MB/s by one thread",
        "about 0.03% of a processor, predump took 1.00%",
        "1,234",
        "[heap]",
        "--max-freeze 20ms",
        "1 Gbit/s",
        "does not converge: 3 rounds did not shrink",
    ):
        assert words in text
    assert text.count("does not converge") == 1
    assert "in the freeze" not in text
    assert "compared in it" not in text


def test_what_waits_for_the_freeze_and_how_it_ended_are_told() -> None:
    size = Size(pages_of_objects=256, pages_in_doubt=512)
    text = shown(replace(SEEN, size=size, unseen_writers=("io_uring",), ended_by=EndedBy.TARGET))
    for words in ("1.0 MiB of shared memory", "2.0 MiB, for io_uring", "then it ended"):
        assert words in text


def test_names_of_mappings_do_not_drive_the_terminal() -> None:
    assert "\x1b" not in shown(replace(SEEN, vmas=[replace(HEAP, path="/tmp/\x1b[2Jx[bold]")]))


def test_a_target_that_wrote_nothing() -> None:
    text = shown(replace(SEEN, vmas=[], working_set=[], pages_written=0, elapsed_ns=0, ticks=0))
    assert "written pages" not in text


@pytest.mark.parametrize(
    ("bytes_per_s", "text"),
    [
        (None, "none"),
        (125_000_000, "1 Gbit/s"),
        (312_500_000, "2.5 Gbit/s"),
        (12_500_000, "100 Mbit/s"),
        (1, "8 bit/s"),
    ],
)
def test_links(bytes_per_s: int | None, text: str) -> None:
    assert link_text(bytes_per_s) == text


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (False, False), (True, True)])
def test_the_live_view_is_for_terminals(terminal: bool, quiet: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100)
    with ObserveView(console, quiet=quiet) as view:
        view(Attached(pid=7, threads=2, attach_stop_ns=1000))
        view(SAMPLE)
    assert ("[heap]" in file.getvalue()) is (terminal and not quiet)
    assert ("attached to process 7" in file.getvalue()) is not quiet
