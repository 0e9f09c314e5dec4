"""Writes that no page table shows: reads into pinned pages, in flight while a round copies them and resets them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from dumper.beforefreeze import BeforeFreeze
from dumper.dump import AfterDump, Dumper
from dumper.events import Event, Notice
from dumper.rounds import Options
from dumper.session import Session
from formats.checkpoint import Checkpoint
from formats.manifest import Process
from tests.harness import Predump, Target, is_untouched, number, poll_until, predump
from tests.oracle import compare
from tests.steps import before
from tests.tally import Tally

pytestmark = pytest.mark.usefixtures("targets")

IN_FLIGHT = ("pread", "aio", "uring")
METHODS = (*IN_FLIGHT, "registered")
WRITERS = {"pread": "O_DIRECT", "aio": "asynchronous I/O", "uring": "io_uring", "registered": "io_uring"}
UNTRACEABLE = 13
BUFFER_PAGES = 128
MEMORY_PAGES = 1024
SLOW_BYTES_PER_S = 4 << 10  # the buffer takes two minutes, if nobody lets it go on
UNLIMITED_BYTES_PER_S = 0


def in_turn(number: int) -> list[ParameterSet]:
    """All methods for pytest, all but one of them as thorough ones."""
    turn = METHODS[number % len(METHODS)]
    return [pytest.param(one, marks=[] if one == turn else [pytest.mark.thorough]) for one in METHODS]


@contextmanager
def slow_reads(pid: int, path: Path) -> Iterator[Callable[[], None]]:
    """Reads of the process from the disk under `path` go on slowly, by a blkio cgroup of its own, until what it yields
    is called."""
    parent = Path("/sys/fs/cgroup/blkio")
    device = path.stat().st_dev
    group = parent / f"predump-test-{pid}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no blkio cgroup here: {error}")
    try:

        def limit(bytes_per_s: int) -> None:
            text = f"{os.major(device)}:{os.minor(device)} {bytes_per_s}"
            (group / "blkio.throttle.read_bps_device").write_text(text)

        try:
            limit(SLOW_BYTES_PER_S)
        except OSError as error:
            pytest.skip(f"reads of {path} cannot be slowed: {error}")
        (group / "cgroup.procs").write_text(str(pid))
        yield lambda: limit(UNLIMITED_BYTES_PER_S)
    finally:
        for member in (group / "cgroup.procs").read_text().split():
            (parent / "cgroup.procs").write_text(member)
        poll_until(lambda: _removed(group), 10, f"{group} to go")


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    with Target.spawn("hardware", request.param, tmp_path / "file") as started:
        yield started


def pre_dump(target: Target, checkpoint: Path) -> Predump:
    return predump("pre-dump", "-p", target.pid, "-D", checkpoint, "--json")


def assert_right(target: Target, checkpoint: Path, tally: Tally) -> None:
    """The target was left stopped."""
    found = compare(target.pid, checkpoint)
    tally.compared(found)
    assert not found.mismatches, str(found)
    os.kill(target.pid, signal.SIGCONT)
    poll_until(lambda: is_untouched(target.pid), 10, "the target to go on")
    predump("verify", checkpoint)
    target.check()


def dump(target: Target, checkpoint: Path) -> Predump:
    return predump("dump", "-p", target.pid, "-D", checkpoint, "--leave-stopped", "--json")


@pytest.mark.parametrize("target", IN_FLIGHT, indirect=True)
def test_a_read_in_flight_during_a_round(target: Target, tmp_path: Path, checkpoint: Path, tally: Tally) -> None:
    target.command("file 5000")
    with slow_reads(target.pid, tmp_path / "file") as let_go_on:
        pre_dump(target, checkpoint)
        target.command("start")
        done = pre_dump(target, checkpoint)
        assert number(done.result, "pages_data") < MEMORY_PAGES, "the second round holds what changed"
        let_go_on()
        target.command("wait")
        dump(target, checkpoint)
    assert_right(target, checkpoint, tally)


@pytest.mark.parametrize("target", METHODS, indirect=True)
@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.thorough)])
def test_reads_between_rounds(target: Target, checkpoint: Path, rounds: int, tally: Tally) -> None:
    for i in range(rounds):
        pre_dump(target, checkpoint)
        target.command(f"file {7000 + 1000 * i}")
        target.command("start")
        target.command("wait")
    dump(target, checkpoint)
    assert_right(target, checkpoint, tally)


def process_of(checkpoint: Path) -> Process:
    (process,) = Checkpoint.open(checkpoint).round().manifest.processes
    return process


def notices(done: Predump) -> str:
    return " ".join(str(event["message"]) for event in done.events if event["type"] == "notice")


@pytest.mark.parametrize("target", in_turn(0), indirect=True)
def test_the_writers_are_named(request: pytest.FixtureRequest, target: Target, checkpoint: Path) -> None:
    writer = WRITERS[request.node.callspec.params["target"]]
    assert writer in notices(pre_dump(target, checkpoint))
    assert writer not in notices(pre_dump(target, checkpoint)), "once is enough"
    assert any(writer in text for text in process_of(checkpoint).unseen_writers)
    assert writer in predump("inspect", checkpoint).stdout
    done = dump(target, checkpoint)
    assert number(done.result, "pages_parent") >= MEMORY_PAGES, "what did not change need not be copied again"
    process = process_of(checkpoint)
    assert process.unseen_writers == []
    missing = [item.what for item in process.missing if item.what.startswith("writes of")]
    assert bool(missing) == (writer != "O_DIRECT"), "a read that nobody waits for goes on in the freeze"


@pytest.mark.parametrize("target", in_turn(1), indirect=True)
@pytest.mark.parametrize("ended", [False, True])
def test_reads_after_a_dump_that_others_build_on(target: Target, checkpoint: Path, ended: bool, tally: Tally) -> None:
    """What was right in the freeze may have changed unseen since, by a writer that has perhaps ended."""
    predump("dump", "-p", target.pid, "-D", checkpoint, "--keep-tracking")
    assert process_of(checkpoint).unseen_writers == []
    target.command("file 13000")
    target.command("start")
    target.command("wait")
    if ended:
        target.command("close")
    dump(target, checkpoint)
    assert_right(target, checkpoint, tally)


@pytest.mark.parametrize("target", in_turn(2), indirect=True)
def test_a_full_round_without_them_ends_the_doubt(target: Target, checkpoint: Path, tally: Tally) -> None:
    pre_dump(target, checkpoint)
    target.command("file 9000")
    target.command("start")
    target.command("wait")
    target.command("close")
    done = pre_dump(target, checkpoint)
    (event,) = done.rounds()
    assert event["full"] is True
    assert "not seen" in str(event["full_reason"])
    assert process_of(checkpoint).unseen_writers == []
    done = dump(target, checkpoint)
    assert number(done.result, "pages_parent") >= MEMORY_PAGES
    assert_right(target, checkpoint, tally)


@pytest.mark.parametrize("target", in_turn(3), indirect=True)
def test_writers_that_came_after_the_last_round(target: Target, checkpoint: Path, tally: Tally) -> None:
    target.command("close")
    pre_dump(target, checkpoint)
    assert process_of(checkpoint).unseen_writers == []
    target.command("open")
    target.command("file 11000")
    target.command("start")
    target.command("wait")
    done = dump(target, checkpoint)
    assert number(done.result, "pages_parent") >= MEMORY_PAGES - BUFFER_PAGES, "older copies are as good as ever"
    assert_right(target, checkpoint, tally)


@pytest.mark.parametrize("target", ["pread"], indirect=True)
def test_a_dump_while_a_thread_waits_for_a_read(target: Target, tmp_path: Path, checkpoint: Path, tally: Tally) -> None:
    """Such a thread does not stop: what could not be stopped goes on, and the next dump is right."""
    target.command("file 13000")
    with slow_reads(target.pid, tmp_path / "file") as let_go_on:
        pre_dump(target, checkpoint)
        target.command("start")
        done = predump("dump", "-p", target.pid, "-D", checkpoint, check=False)
        assert done.returncode == UNTRACEABLE, str(done)
        assert "did not stop" in done.stderr, str(done)
        let_go_on()
        target.command("wait")
    dump(target, checkpoint)
    assert_right(target, checkpoint, tally)


@pytest.mark.parametrize("target", ["registered"], indirect=True)
def test_strict_refuses_what_does_not_stop(target: Target, checkpoint: Path) -> None:
    done = predump("dump", "-p", target.pid, "-D", checkpoint, "--strict", check=False)
    assert done.returncode == 1
    assert "io_uring" in done.stderr
    assert not list(checkpoint.glob("*/manifest.json"))
    target.check()


@pytest.mark.parametrize("target", in_turn(4), indirect=True)
def test_run_takes_them_into_account(target: Target, checkpoint: Path, tally: Tally) -> None:
    predump("run", "-p", target.pid, "-D", checkpoint, "--max-freeze", "60s", "--leave-stopped", "--json")
    assert_right(target, checkpoint, tally)


@pytest.mark.parametrize("target", in_turn(5), indirect=True)
def test_writers_that_come_in_the_midst_of_a_dump(
    target: Target, checkpoint: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a micro-round copied while they were there is copied again."""

    def appear() -> None:
        target.command("open")
        target.command("write 15000")

    def write_unseen() -> None:
        target.command("start")
        target.command("wait")

    target.command("file 17000")
    target.command("close")
    before(BeforeFreeze, "micro_rounds", appear, monkeypatch)
    before(Dumper, "_freeze_and_write", write_unseen, monkeypatch)
    said: list[Event] = []
    with Session(target.pid, checkpoint, Options(staging_bytes=16 << 20), said.append) as session:
        session.pre_dump()
        session.dump(AfterDump.LEAVE_STOPPED, pre_dump=True)
    assert any(isinstance(event, Notice) and event.subject == "unseen-writes" for event in said)
    assert_right(target, checkpoint, tally)
