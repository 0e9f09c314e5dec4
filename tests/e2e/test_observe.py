"""`observe`: what it tells of targets that write at a known rate, against that and against what rounds then hold."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from dumper.workingset import Window, WorkingSet
from formats.checkpoint import Checkpoint
from tests.harness import (
    Event,
    RunningPredump,
    Target,
    is_untouched,
    keeper_pids,
    number,
    open_descriptors,
    poll_until,
    predump,
    tracked_vmas,
)

pytestmark = pytest.mark.usefixtures("targets")

PAGES, HOT_PAGES, PAGES_PER_S = 20_000, 4_000, 8_000
"""All hot pages are written within half a second."""
SHARED_PAGES_OF_TREE = 64 * 3 + 16
"""An anonymous mapping, a memfd, a segment of System V, and a file."""
LIKE = 0.2
"""What two figures may differ by: a share of one."""
NOT_CONVERGED, TARGET_GONE, UNTRACEABLE, INTERRUPTED = 3, 10, 13, 130


@pytest.fixture
def steady() -> Iterator[Target]:
    with Target.spawn("steady", PAGES, HOT_PAGES, PAGES_PER_S) as target:
        yield target


def windows_of(result: Event) -> list[Window]:
    found = result["working_set"]
    assert isinstance(found, list)
    return [Window(**window) for window in found]


def assert_as_before(pid: int) -> None:
    assert is_untouched(pid)
    assert tracked_vmas(pid) == 0
    assert not any("userfaultfd" in path for path in open_descriptors(pid).values())
    assert not keeper_pids(pid)


def test_a_known_rate_and_working_set(steady: Target) -> None:
    before = int(steady.command("written").split()[1])
    result = predump("observe", "-p", steady.pid, "--duration", "3s", "--json").result
    written = int(steady.command("written").split()[1]) - before
    assert 0 < number(result, "pages_written") <= 1.1 * written
    assert result["pages_written_per_s"] == pytest.approx(PAGES_PER_S, rel=LIKE)
    windows = windows_of(result)
    lengths_ms = {window.window_ns // 10**6 for window in windows}
    assert {500, 1000, 2000} <= lengths_ms <= {100, 200, 500, 1000, 2000}, "on a busy machine short ones cannot be told"
    for window in windows:
        truth = min(HOT_PAGES, PAGES_PER_S * window.measured_ns / 1e9)
        assert window.pages_mean == pytest.approx(truth, rel=LIKE), str(window)
        assert window.pages_mean <= window.pages_max
    assert number(result, "pages_present") == pytest.approx(PAGES, rel=LIKE)
    hottest = result["vmas"][0]  # type: ignore[index]
    start = int(steady.ready.split()[1])
    assert hottest["start_addr"] <= start < hottest["end_addr"]
    assert hottest["share"] > 0.9
    assert hottest["pages_distinct"] == pytest.approx(HOT_PAGES, rel=0.01), "neighbours are few"
    assert_as_before(steady.pid)


def test_rounds_of_run_hold_what_was_observed(steady: Target, checkpoint: Path) -> None:
    observed = predump("observe", "-p", steady.pid, "--duration", "2s", "--json", "--link", "100M/s").result
    run = predump(
        *("run", "-p", steady.pid, "-D", checkpoint, "--json", "--max-freeze", "0", "--max-rounds", "5"),
        *("--interval", "250ms"),
        expect=NOT_CONVERGED,
    )
    taken = list(Checkpoint.open(checkpoint).rounds)[:5]
    working_set = WorkingSet(windows_of(observed), number(observed, "pages_present"))
    expected = sum(
        working_set.pages_in(later.manifest.created_ns - earlier.manifest.created_ns)
        for earlier, later in pairwise(taken)
    )
    assert sum(round_.manifest.stats.pages_written for round_ in taken[1:]) == pytest.approx(expected, rel=LIKE)
    projections = observed["projections"]
    assert isinstance(projections, list)
    assert [one["link_bytes_per_s"] for one in projections] == [100 << 20, None]
    for projection in projections:
        first = projection["pre_dumps"][0]
        assert first["pages"] == pytest.approx(number(run.rounds()[0], "pages_written"), rel=LIKE)
        assert first["stored_bytes"] == pytest.approx(number(run.rounds()[0], "stored_bytes"), rel=LIKE)


def test_a_sample_each_second_and_tables_for_people(steady: Target) -> None:
    done = predump("observe", "-p", steady.pid, "--duration", "2.3s", "--json")
    samples = [event for event in done.events if event["type"] == "sample"]
    assert 1 <= len(samples) <= 2
    assert all(number(sample, "pages_written") > 0 and sample["vmas"] for sample in samples)
    text = predump("observe", "-p", steady.pid, "--duration", "500ms", "--link", "1Gbit/s")
    for words in ("Writable working set", "Hottest mappings", "1 Gbit/s", "predump run --max-freeze 20ms"):
        assert words in text.stdout
    assert "\x1b" not in text.stdout + text.stderr, "no live view where there is no terminal"


@pytest.mark.parametrize(
    ("options", "code"), [((), 0), (("--duration", "1000s"), INTERRUPTED)], ids=["endless", "early"]
)
def test_ctrl_c_ends_it_with_the_result(steady: Target, options: tuple[str, ...], code: int) -> None:
    with RunningPredump.start("observe", "-p", steady.pid, *options) as running:
        running.wait_for("sample")
        running.process.send_signal(signal.SIGINT)
        done = running.finish()
    assert done.returncode == done.result["exit_code"] == code
    assert done.result["type"] == "result"
    assert done.result["ended_by"] == "interrupt"
    assert number(done.result, "pages_written") > 0
    assert_as_before(steady.pid)


@pytest.mark.parametrize("number_", [signal.SIGTERM, signal.SIGKILL])
def test_killed_it_leaves_nothing_behind(steady: Target, number_: signal.Signals) -> None:
    with RunningPredump.start("observe", "-p", steady.pid) as running:
        running.wait_for("sample")
        assert tracked_vmas(steady.pid) > 0
        running.process.send_signal(number_)
        assert running.ends_within(30)
    poll_until(lambda: tracked_vmas(steady.pid) == 0, 10, "the tracking to end")
    assert_as_before(steady.pid)
    steady.command("written")


def test_a_chain_is_not_disturbed(steady: Target, checkpoint: Path) -> None:
    predump("pre-dump", "-p", steady.pid, "-D", checkpoint)
    refused = predump("observe", "-p", steady.pid, "--duration", "1s", "--json", expect=UNTRACEABLE)
    assert "detach" in str(refused.result["hint"])
    done = predump("pre-dump", "-p", steady.pid, "-D", checkpoint, "--json")
    assert not done.rounds()[0]["full"]


def test_a_child_of_a_tracked_tree_is_refused_and_its_chain_goes_on(checkpoint: Path) -> None:
    with Target.spawn("tree", 2) as tree:
        predump("pre-dump", "-t", tree.pid, "-D", checkpoint)
        child = int(Path(f"/proc/{tree.pid}/task/{tree.pid}/children").read_text().split()[0])
        tracked = tracked_vmas(child)
        refused = predump("observe", "-p", child, "--duration", "1s", "--json", expect=UNTRACEABLE)
        assert "another userfaultfd" in str(refused.result["message"])
        assert tracked_vmas(child) == tracked
        done = predump("pre-dump", "-t", tree.pid, "-D", checkpoint, "--json")
        assert not done.rounds()[0]["full"]
        assert number(done.rounds()[0], "pages_parent") > 0
        assert {event["type"] for event in done.events} <= {"round-start", "round", "progress", "result"}


def test_two_do_not_observe_at_once(steady: Target) -> None:
    with RunningPredump.start("observe", "-p", steady.pid) as running:
        running.wait_for("sample")
        refused = predump("observe", "-p", steady.pid, "--duration", "1s", check=False)
        assert refused.returncode == 1
        running.process.send_signal(signal.SIGINT)
        assert running.finish().returncode == 0


def test_a_target_that_ends_and_one_that_calls_exec(steady: Target) -> None:
    with RunningPredump.start("observe", "-p", steady.pid) as running:
        running.wait_for("sample")
        steady.command("exec")
        running.wait_for("notice")
        n_before = len(running.said())
        poll_until(
            lambda: any(event["type"] == "sample" for event in running.said()[n_before + 1 :]), 30, "a sample after it"
        )
        steady.command("quit")
        done = running.finish()
    assert done.returncode == TARGET_GONE
    assert done.result["ended_by"] == "target-ended"
    assert number(done.result, "pages_present") == pytest.approx(PAGES, rel=LIKE)
    assert {event["subject"] for event in done.events if event["type"] == "notice"} == {"exec"}


def test_children_that_appear_are_observed() -> None:
    with Target.spawn("tree", 2) as tree, RunningPredump.start("observe", "-t", tree.pid) as running:
        running.wait_for("sample")
        child = int(tree.command("spawn").split()[1])
        poll_until(lambda: tracked_vmas(child) > 0, 30, "the child to be tracked")
        poll_until(
            lambda: any(
                vma["pid"] == child
                for event in running.said()
                if event["type"] == "sample"
                for vma in event["vmas"]  # type: ignore[attr-defined]
            ),
            30,
            "the child to be told of",
        )
        tree.command(f"end {child}")
        running.wait_for("notice")
        running.process.send_signal(signal.SIGINT)
        done = running.finish()
        assert done.returncode == 0
        size = done.result["size"]
        assert isinstance(size, dict)
        assert size["processes"] == 3
        assert 0 < size["pages_of_objects"] < 2 * SHARED_PAGES_OF_TREE, "shared ones count once"
        assert tracked_vmas(tree.pid) == 0


@pytest.mark.parametrize(
    "options", [("--link", "fast"), ("--interval", "1ms"), ("--interval", "1s", "--duration", "0.5s")], ids=" ".join
)
def test_wrong_usage(options: tuple[str, ...]) -> None:
    predump("observe", "-p", 1, *options, expect=2)
