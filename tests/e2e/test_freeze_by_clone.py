"""Dumps whose last pages come from a clone: one instant of memory, and nothing left in the process."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from dumper.cloning import Cloning
from dumper.dump import AfterDump
from dumper.events import Event
from dumper.freezeplan import FreezeWish
from dumper.kernel.clone import end_child
from dumper.rounds import Options
from dumper.session import Session
from dumper.snapshot import Snapshot
from formats.chain import MemoryView
from formats.check import verify
from formats.checkpoint import Checkpoint
from formats.manifest import FreezeBy
from tests.cgroups import limited_cgroup
from tests.harness import TARGETS, Target, children, is_stopped, is_untouched, live_tree, poll_until, predump, stopped
from tests.oracle import compare
from tests.steps import before

PAGE_BYTES = 4096
PAGES = 4096
SHARE = 16
END_S = 30.0
BY_CLONE = Options(staging_bytes=16 << 20, freeze_by=FreezeWish.CLONE)

pytestmark = pytest.mark.usefixtures("targets")


class Sweep:
    """A running `sweep`, and what is to be seen of it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.pid = target.pid
        self.pids = [int(word) for word in target.ready.split()[1:]]
        *threads, guarded = target.command("areas").split()[1:]
        self.areas = [[int(word) for word in thread.split(",")] for thread in threads]
        self.guarded_addr = int(guarded)
        target.command("start")
        self.wait_for_passes(2)

    def wait_for_passes(self, number: int) -> None:
        """Until its first thread writes for the n-th time."""
        poll_until(lambda: int(self.target.command("passes").split()[1]) > number, END_S, "the threads to write")

    def assert_goes_on(self, waited: int = 0) -> None:
        """It writes, is not traced, has no child too many, and noticed nothing."""
        self.wait_for_passes(int(self.target.command("passes").split()[1]))
        poll_until(lambda: all(map(is_untouched, self.pids)), END_S, "all to be let go of")
        for pid in self.pids:
            poll_until(lambda pid=pid: not children(pid) - set(self.pids), END_S, f"no child of {pid} to be left")
        assert self.target.command("noticed") == f"ok 0 {waited}"

    def assert_one_instant(self, checkpoint: Path) -> None:
        """What the last round holds of each process is one instant of its memory."""
        found = Checkpoint.open(checkpoint)
        assert verify(found).exit_code == 0
        for pid in self.pids:
            with MemoryView(found, pid=pid) as view:
                for areas in self.areas:
                    assert_one_instant(view, areas)
                assert [(one.start_addr, one.end_addr) for one in view.process.guards] == [
                    (self.guarded_addr + PAGE_BYTES, self.guarded_addr + 2 * PAGE_BYTES)
                ]


def numbers(view: MemoryView, start_addr: int, n_pages: int) -> list[int]:
    """The number on each page, which stands at its beginning and at its end, in the order of writing."""
    found: list[int] = []
    for start, end, content in view.chunks(start_addr, start_addr + n_pages * PAGE_BYTES):
        if content is None:
            found += [0] * (2 * (end - start) // PAGE_BYTES)
        else:
            for at in range(0, len(content), PAGE_BYTES):
                found += struct.unpack_from("<Q", content, at) + struct.unpack_from("<Q", content, at + PAGE_BYTES - 8)
    return found


def assert_one_instant(view: MemoryView, areas: list[int]) -> None:
    private = numbers(view, areas[0], PAGES)
    others = [numbers(view, addr, PAGES // SHARE) for addr in areas[1:] if addr]
    in_order: list[int] = []
    for page in range(PAGES):
        in_order += private[2 * page : 2 * page + 2]
        if page % SHARE == 0:
            for other in others:
                in_order += other[2 * page // SHARE : 2 * page // SHARE + 2]
    assert in_order[0] > 0
    steps = [(one, next_one) for one, next_one in pairwise(in_order) if one != next_one]
    assert len(steps) <= 1, f"pages of several instants: {steps[:5]}"
    assert all(one == next_one + 1 for one, next_one in steps)


def dump(
    target: Target, checkpoint: Path, *options: object, option: str = "-p", by: str = "clone"
) -> dict[str, object]:
    """A dump that was to be by clone, and was it or not; its last event."""
    done = predump("dump", option, target.pid, "-D", checkpoint, "--freeze-by", "clone", "--json", *options)
    assert done.result["freeze_by"] == by
    return done.result


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), ()),
        (("threads=2", "wall"), ("--staging", "16M")),
        ((), ("--no-pre-dump", "--staging", "16M")),
    ],
)
def test_one_instant_of_memory(arguments: tuple[str, ...], options: tuple[str, ...], checkpoint: Path) -> None:
    """Private and shared memory, what a child does not inherit, and what it would find empty."""
    with Target.spawn("sweep", PAGES, *arguments) as target:
        sweep = Sweep(target)
        result = dump(target, checkpoint, *options)
        assert result["clone_ns"] != 0
        assert result["streamed_while_frozen"] is False
        sweep.assert_goes_on(waited=int(target.command("noticed").split()[2]) if "wall" in arguments else 0)
        sweep.assert_one_instant(checkpoint)


@pytest.mark.usefixtures("huge_pages")
def test_huge_pages(checkpoint: Path) -> None:
    with Target.spawn("sweep", PAGES, "hugetlb") as target:
        sweep = Sweep(target)
        dump(target, checkpoint)
        sweep.assert_goes_on()
        sweep.assert_one_instant(checkpoint)


def test_a_tree(checkpoint: Path) -> None:
    with Target.spawn("sweep", PAGES, "children=2") as target:
        sweep = Sweep(target)
        assert set(live_tree(target.pid)) == set(sweep.pids)
        dump(target, checkpoint, option="-t")
        sweep.assert_goes_on()
        sweep.assert_one_instant(checkpoint)
        assert len(Checkpoint.open(checkpoint).round(2).manifest.processes) == len(sweep.pids)


def test_what_the_micro_rounds_cannot_catch_up_with_is_left_to_a_clone(checkpoint: Path) -> None:
    """Without being told to: the written pages are more than fit the staging memory."""
    with Target.spawn("sweep", 4 * PAGES) as target:
        target.command("start")
        options = ("--staging", "4M", "--json")
        done = predump("dump", "-p", target.pid, "-D", checkpoint, *options)
        assert done.result["freeze_by"] == "clone"
        done = predump("dump", "-p", target.pid, "-D", checkpoint, *options, "--freeze-by", "copy")
        assert done.result["freeze_by"] == "copy"
        assert done.result["streamed_while_frozen"] is True


def test_few_pages_are_copied(checkpoint: Path) -> None:
    with Target.spawn("idle", 2, 8, 100) as target:
        done = predump("dump", "-p", target.pid, "-D", checkpoint, "--json")
        assert done.result["freeze_by"] == "copy"
        assert done.result["clone_ns"] == 0


@pytest.mark.parametrize("option", ["--leave-stopped", "--kill"])
def test_what_stays_frozen_is_copied(option: str, checkpoint: Path) -> None:
    with Target.spawn("idle", 2, 8, 100) as target:
        dump(target, checkpoint, option, by="copy")
        if option == "--leave-stopped":
            assert not compare(target.pid, checkpoint).mismatches


def test_a_seccomp_filter_that_kills(checkpoint: Path) -> None:
    """For clone(2) as for what else is injected: it is suspended."""
    with Target.spawn("special", "seccomp-kill") as target:
        dump(target, checkpoint)
        poll_until(lambda: not children(target.pid), END_S, "no child to be left")
        target.command("check")


def test_a_stopped_process_is_cloned_and_stays_stopped(checkpoint: Path) -> None:
    with Target.spawn("sweep", PAGES) as target:
        sweep = Sweep(target)
        with stopped(target.pid):
            dump(target, checkpoint, "--no-pre-dump")
            assert is_stopped(target.pid)
            assert not compare(target.pid, checkpoint).mismatches
            assert not children(target.pid)
        sweep.assert_goes_on()


# ---- no clone to be had ----


def test_a_userfaultfd_of_somebody_else(checkpoint: Path) -> None:
    """Its reader may have to answer before a fork is done, and stands still."""
    with Target.spawn("special", "uffd") as target:
        dump(target, checkpoint, "--no-pre-dump", by="copy")
        target.command("check")


def test_no_more_processes_allowed(checkpoint: Path) -> None:
    with Target.spawn("sweep", PAGES) as target, limited_cgroup("pids", {"pids.max": 3}) as group:
        sweep = Sweep(target)
        (group / "cgroup.procs").write_text(str(target.pid))
        dump(target, checkpoint, by="copy")
        sweep.assert_one_instant(checkpoint)
        sweep.assert_goes_on()
        (group.parent / "cgroup.procs").write_text(str(target.pid))


def test_no_memory_for_copies(checkpoint: Path) -> None:
    """Less is left in its cgroup than the process may have to copy."""
    limit_bytes = 2 * PAGES * PAGE_BYTES
    with limited_cgroup("memory", {"memory.max": limit_bytes, "memory.limit_in_bytes": limit_bytes}) as group:
        words = ["/bin/sh", "-c", f"echo $$ > {group}/cgroup.procs && exec {TARGETS}/bin/sweep {PAGES}"]
        with Target.spawn(*words) as target:
            sweep = Sweep(target)
            dump(target, checkpoint, by="copy")
            sweep.assert_one_instant(checkpoint)
            sweep.assert_goes_on()


# ---- what happens while there is a clone ----


def dump_and(
    target: Target, checkpoint: Path, step: str, action: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> list[Event]:
    """A dump by clone in the process of the test; `action` happens before a step of the clone's life. All events."""
    events: list[Event] = []
    before(Snapshot, step, action, monkeypatch)
    with Session(target.pid, checkpoint, BY_CLONE, events.append) as session:
        session.dump(AfterDump.LEAVE_RUNNING, pre_dump=True)
    return events


def freeze_by(checkpoint: Path) -> FreezeBy | None:
    found = Checkpoint.open(checkpoint)
    return found.round(found.numbers[-1]).manifest.freeze_by


def test_a_clone_keeps_no_pipe_open(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Target.spawn("sweep", PAGES) as target:
        sweep = Sweep(target)
        said: list[str] = []
        dump_and(target, checkpoint, "confirm", lambda: said.append(target.command("close")), monkeypatch)
        assert said == ["ok end"]
        assert freeze_by(checkpoint) is FreezeBy.CLONE
        sweep.assert_goes_on()


def test_the_process_becomes_another_program(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clone is the child of that, then."""
    with Target.spawn("sweep", PAGES) as target:
        sweep = Sweep(target)

        def become() -> None:
            target.command("exec")
            poll_until(lambda: b"sleep" in Path(f"/proc/{target.pid}/cmdline").read_bytes(), END_S, "the exec")

        dump_and(target, checkpoint, "confirm", become, monkeypatch)
        assert freeze_by(checkpoint) is FreezeBy.CLONE
        sweep.assert_one_instant(checkpoint)
        poll_until(lambda: not children(target.pid), END_S, "no child to be left")
        poll_until(lambda: is_untouched(target.pid), END_S, "it to be let go of")


def test_the_process_ends(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with it its end of each pipe, though there is a clone that had it, too."""
    with Target.spawn("sweep", PAGES) as target:
        sweep = Sweep(target)

        def end() -> None:
            os.kill(target.pid, signal.SIGKILL)
            target.wait()
            assert target.has_closed_its_output()

        dump_and(target, checkpoint, "confirm", end, monkeypatch)
        assert freeze_by(checkpoint) is FreezeBy.CLONE
        sweep.assert_one_instant(checkpoint)


def test_a_clone_that_is_killed_is_not_believed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dump is taken again, in full: pages were reset whose copies are lost."""
    with Target.spawn("sweep", PAGES) as target:
        sweep = Sweep(target)
        (clone,) = made(monkeypatch)
        events = dump_and(target, checkpoint, "confirm", lambda: end_child(clone()), monkeypatch)
        assert "clone-lost" in [getattr(event, "subject", "") for event in events]
        assert freeze_by(checkpoint) is FreezeBy.COPY
        sweep.assert_one_instant(checkpoint)
        sweep.assert_goes_on()


def test_memory_that_was_kept_from_children_at_the_last_moment(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was believed of the mappings is checked with the clone."""
    with Target.spawn("sweep", PAGES) as target:
        sweep = Sweep(target)
        monkeypatch.setattr("dumper.vmflags.VmFlags.before", lambda _self, _addr: "rd wr mr mw me ac")
        events: list[Event] = []
        with Session(target.pid, checkpoint, BY_CLONE, events.append) as session:
            session.dump(AfterDump.LEAVE_RUNNING, pre_dump=True)
        assert "clone-lost" in [getattr(event, "subject", "") for event in events]
        assert freeze_by(checkpoint) is FreezeBy.COPY
        sweep.assert_one_instant(checkpoint)
        sweep.assert_goes_on()


def made(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], int]]:
    """A function that tells the pid of the last clone made."""
    found: list[int] = []
    original = Cloning.make

    def make(*arguments: object) -> Snapshot | None:
        snapshot = original(*arguments)  # type: ignore[arg-type]
        if snapshot:
            found.append(snapshot.child)
        return snapshot

    monkeypatch.setattr(Cloning, "make", make)
    return [lambda: found[-1]]
