"""A process with all of its descendants: frozen together, every view of shared memory right, those that come and go."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dumper.describe import zombie
from formats.chain import MemoryView
from formats.checkpoint import Checkpoint
from formats.manifest import Manifest, Process
from tests.harness import (
    Predump,
    RunningPredump,
    Target,
    is_alive,
    is_stopped,
    is_untouched,
    keeper_pids,
    number,
    poll_until,
    predump,
    proc_state,
)
from tests.oracle import compare_view

pytestmark = pytest.mark.usefixtures("targets")

CHILDREN = 3
SHARED_PAGES = 64
FILE_PAGES = 16


class Tree:
    """A running tests/targets/tree.c and the pids in it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.pid = target.pid

    def counts(self) -> dict[int, int]:
        """How often each process has written, those that ended included."""
        words = self.target.command("counts").split()[1:]
        return {int(pid): int(count) for pid, count in (word.split(":") for word in words)}

    @property
    def pids(self) -> list[int]:
        """The processes that live."""
        return [pid for pid in self.counts() if is_alive(pid)]

    def spawn(self) -> int:
        return int(self.target.command("spawn").split()[1])

    def nest(self) -> int:
        return int(self.target.command("nest").split()[1])


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    monkeypatch.setenv("TREE_FILE", str(tmp_path / "shared-file"))
    with Target.spawn("tree", CHILDREN) as target:
        yield Tree(target)  # its processes die with it, stopped or not


def command(name: str, tree: Tree, checkpoint: Path, *options: object) -> Predump:
    return predump(name, "-t", tree.pid, "-D", checkpoint, "--json", *options)


def manifest_of(checkpoint: Path) -> Manifest:
    return Checkpoint.open(checkpoint).round().manifest


def process_of(checkpoint: Path, pid: int) -> Process:
    return next(process for process in manifest_of(checkpoint).processes if process.pid == pid)


def assert_all_equal(checkpoint: Path, pids: list[int], least_pages: int = 500) -> None:
    """Every one of the stopped processes equals what the last round says of it."""
    checkpoint_ = Checkpoint.open(checkpoint)
    assert sorted(p.pid for p in checkpoint_.round().manifest.processes if not p.zombie) == sorted(pids)
    for pid in pids:
        assert is_stopped(pid), f"--leave-stopped leaves process {pid} stopped"
        with MemoryView(checkpoint_, None, pid) as view:
            found = compare_view(pid, view)
        assert not found.mismatches, f"process {pid}: {found}"
        assert found.pages_compared > least_pages
    predump("verify", checkpoint)


def assert_all_go_on(tree: Tree, pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    poll_until(lambda: all(map(is_untouched, pids)), 10, "all processes to be untouched")
    before = tree.counts()
    poll_until(lambda: all(tree.counts()[pid] > before[pid] for pid in pids), 20, "all processes to go on")


def test_every_view_is_right_with_writers_in_all_processes(tree: Tree, checkpoint: Path) -> None:
    for _ in range(2):
        done = command("pre-dump", tree, checkpoint)
        assert number(done.result, "processes") == CHILDREN + 1
        assert all(map(is_untouched, tree.pids))
    pids = tree.pids
    done = command("dump", tree, checkpoint, "--leave-stopped")
    assert number(done.result, "pages_parent") > 0, "the dump builds on the rounds before"
    assert len(done.rounds()) == 1
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)


@pytest.mark.parametrize("options", [(), ("--no-pre-dump",), ("--staging", "1M")])
def test_dump_in_one_go(tree: Tree, checkpoint: Path, options: tuple[str, ...]) -> None:
    pids = tree.pids
    command("dump", tree, checkpoint, "--leave-stopped", *options)
    assert manifest_of(checkpoint).streamed_while_frozen == ("1M" in options)
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)


def test_run(tree: Tree, checkpoint: Path) -> None:
    pids = tree.pids
    command("run", tree, checkpoint, "--max-freeze", "60s", "--leave-stopped")
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)


def test_shared_memory_is_stored_once(tree: Tree, checkpoint: Path) -> None:
    pids = tree.pids
    command("dump", tree, checkpoint, "--leave-stopped")
    objects = {one.id: one for one in manifest_of(checkpoint).objects}
    memfd = next(one for one in objects.values() if one.path == "/memfd:tree")
    assert memfd.size_bytes == SHARED_PAGES * 4096
    by_pid = {pid: {v.object: v for v in process_of(checkpoint, pid).vmas if v.object is not None} for pid in pids}
    for mapped in by_pid.values():
        assert set(mapped) == set(by_pid[tree.pid]), "all processes refer to the same objects"
        kinds = sorted(objects[number].kind for number in mapped if number is not None)
        assert kinds == ["file", "memfd", "shmem", "shmem", "shmem"], "a file, a memfd, two anonymous ones, System V"
        shared = [vma for vma in mapped.values() if vma.is_shared]
        assert all(vma.pages_data == vma.pages_zero == vma.pages_parent == 0 for vma in shared)
    assert_all_go_on(tree, pids)


@pytest.mark.parametrize("pages", ["small", "huge"])
def test_system_v_segment_with_the_id_0(
    pages: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """In an IPC namespace of its own the first segment has the id 0, and so the inode number 0; as in any other one."""
    trial = predump("--version", prefix=("unshare", "--ipc", sys.executable), check=False)
    if trial.returncode != 0:
        pytest.skip(f"unshare --ipc does not work here: {trial.stderr.strip()}")
    if pages == "huge":
        request.getfixturevalue("huge_pages")
        monkeypatch.setenv("TREE_HUGE", "1")
    with Target.spawn("tree", 1, namespaces=("--ipc",)) as target:
        tree = Tree(target)
        target.command("apart")
        pids = tree.pids
        command("dump", tree, checkpoint, "--leave-stopped")
        segments = [one for one in manifest_of(checkpoint).objects if one.path == "/SYSV00000000"]
        assert [one.inode for one in segments] == [0] * len(segments)
        assert len(segments) == 2, "the one that all have, and another one in a namespace apart"
        assert_all_equal(checkpoint, pids)
        assert_all_go_on(tree, pids)


def test_a_child_forked_between_rounds_is_picked_up_in_full(tree: Tree, checkpoint: Path) -> None:
    command("pre-dump", tree, checkpoint)
    first, second = tree.spawn(), tree.nest()
    done = command("pre-dump", tree, checkpoint)
    assert number(done.result, "processes") == CHILDREN + 3
    assert done.rounds()[-1]["full"] is False, "the others build on the round before"
    new, old = process_of(checkpoint, first), process_of(checkpoint, tree.pid)
    assert (new.pages_parent, process_of(checkpoint, second).pages_parent) == (0, 0)
    assert new.pages_data > SHARED_PAGES
    assert old.pages_parent > 0
    pids = tree.pids
    command("dump", tree, checkpoint, "--leave-stopped")
    assert process_of(checkpoint, first).pages_parent > 0
    assert process_of(checkpoint, second).ppid == pids[1], "parents are recorded"
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)


def test_a_child_forked_after_the_last_round(tree: Tree, checkpoint: Path) -> None:
    command("pre-dump", tree, checkpoint)
    tree.nest()
    pids = tree.pids
    command("dump", tree, checkpoint, "--leave-stopped", "--no-pre-dump")
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)


def test_a_child_that_ends_is_noted(tree: Tree, checkpoint: Path) -> None:
    command("pre-dump", tree, checkpoint)
    victim = tree.pids[1]
    tree.target.command(f"end {victim}")
    done = command("pre-dump", tree, checkpoint)
    assert number(done.result, "processes") == CHILDREN
    assert [one.pid for one in manifest_of(checkpoint).ended] == [victim]
    pids = tree.pids
    command("dump", tree, checkpoint, "--leave-stopped")
    assert manifest_of(checkpoint).ended == []
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)


def test_a_zombie_is_recorded_without_memory(tree: Tree, checkpoint: Path) -> None:
    victim = tree.pids[2]
    tree.target.command(f"zombie {victim}")
    pids = tree.pids
    assert victim not in pids
    command("dump", tree, checkpoint, "--leave-stopped")
    found = process_of(checkpoint, victim)
    assert found.zombie is not None
    assert found.zombie.exit_code == signal.SIGKILL
    lineage = found.lineage
    assert lineage is not None
    assert (lineage.process_group, lineage.session) == (os.getpgid(victim), os.getsid(victim))
    assert (lineage.ns_pids, lineage.exit_signal) == ([victim], signal.SIGCHLD)
    assert (found.vmas, found.threads, found.ppid) == ([], [], tree.pid)
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)


def test_a_zombie_that_somebody_has_taken() -> None:
    child = os.fork()
    if child == 0:
        os._exit(3)
    poll_until(lambda: proc_state(child) == "Z", 10, "the end of a child")
    found = zombie(child)
    assert found is not None
    assert found.zombie is not None
    assert found.zombie.exit_code == 3 << 8
    os.waitpid(child, 0)
    assert zombie(child) is None


def test_from_a_tree_to_one_process_and_back(tree: Tree, checkpoint: Path) -> None:
    command("pre-dump", tree, checkpoint)
    one = predump("pre-dump", "-p", tree.pid, "-D", checkpoint, "--json")
    assert number(one.result, "processes") == 1
    assert number(one.result, "pages_parent") > 0
    done = command("pre-dump", tree, checkpoint)
    assert number(done.result, "processes") == CHILDREN + 1
    child = process_of(checkpoint, tree.pids[1])
    assert child.pages_parent == 0, "it was not in the round before"
    pids = tree.pids
    command("dump", tree, checkpoint, "--leave-stopped")
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)


def test_kill_ends_all_of_them(tree: Tree, checkpoint: Path) -> None:
    pids = tree.pids
    command("dump", tree, checkpoint, "--kill")
    tree.target.wait()
    poll_until(lambda: not any(map(is_alive, pids)), 10, "all processes to end")
    predump("verify", checkpoint)


def test_detach_lets_go_of_all(tree: Tree, checkpoint: Path) -> None:
    command("pre-dump", tree, checkpoint)
    assert len(keeper_pids(tree.pid)) == 1, "one keeper for the whole tree"
    predump("detach", "-t", tree.pid)
    poll_until(lambda: not keeper_pids(tree.pid), 10, "the keeper to end")
    for pid in tree.pids:
        assert " uw" not in Path(f"/proc/{pid}/smaps").read_text(), f"process {pid} is still under write-protection"


def test_the_keeper_killed(tree: Tree, checkpoint: Path) -> None:
    command("pre-dump", tree, checkpoint)
    (keeper,) = keeper_pids(tree.pid)
    os.kill(keeper, signal.SIGKILL)
    poll_until(lambda: not keeper_pids(tree.pid), 10, "the keeper to end")
    done = command("pre-dump", tree, checkpoint)
    assert done.rounds()[-1]["full"] is True
    pids = tree.pids
    command("dump", tree, checkpoint, "--leave-stopped")
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)


def test_a_child_is_not_taken_by_two(tree: Tree, tmp_path: Path) -> None:
    """A child that another checkpoint tracks has two masters: said, and nothing is touched."""
    child = tree.pids[1]
    predump("pre-dump", "-p", child, "-D", tmp_path / "child")
    done = predump("pre-dump", "-t", tree.pid, "-D", tmp_path / "tree", "--json", check=False)
    assert done.returncode == 13, str(done)
    assert str(child) in done.stderr
    assert all(map(is_untouched, tree.pids))
    predump("detach", "-p", child)
    command("pre-dump", tree, tmp_path / "tree")


def test_children_that_come_and_go_all_the_time(tree: Tree, checkpoint: Path) -> None:
    """Short-lived children: each command ends, with a right checkpoint or the contract's error, and nothing is left."""
    tree.target.command("storm 1")
    pids = tree.pids
    for name in ("pre-dump", "pre-dump", "dump"):
        done = predump(name, "-t", tree.pid, "-D", checkpoint, "--json", check=False)
        assert done.returncode in (0, 13), str(done)
        poll_until(lambda: all(map(is_untouched, pids)), 10, "all processes to be untouched")
    tree.target.command("storm 0")
    command("dump", tree, checkpoint, "--leave-stopped")
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)


def test_processes_that_cannot_be_caught(tree: Tree, checkpoint: Path) -> None:
    """A fork bomb of processes that live as long as a fork takes: a clear error in time, and everything thawed."""
    pids = tree.pids
    tree.target.command("chain 1")
    try:
        done = predump("dump", "-t", tree.pid, "-D", checkpoint, "--no-pre-dump", "--json", check=False)
        assert done.returncode in (0, 13), str(done)
        if done.returncode == 13:
            assert "faster than they can be stopped" in done.stderr
            assert not list(checkpoint.rglob("manifest.json"))
        poll_until(lambda: all(map(is_untouched, pids)), 10, "all processes to be untouched")
        before = tree.counts()
        poll_until(lambda: all(tree.counts()[pid] > before[pid] for pid in pids), 20, "all processes to go on")
    finally:
        tree.target.command("chain 0")
    command("dump", tree, checkpoint, "--leave-stopped")
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)


@pytest.mark.parametrize("name", ["pre-dump", "dump", "run"])
@pytest.mark.parametrize("delay_s", [0.15, 0.2, 0.25, 0.3])
def test_exec_of_a_child_at_any_moment(tree: Tree, checkpoint: Path, name: str, delay_s: float) -> None:
    """It costs that child a full round, and nobody a wrong page."""
    *others, last = tree.pids
    with RunningPredump.start(name, "-t", tree.pid, "-D", checkpoint) as running:
        running.ends_within(delay_s)
        tree.target.command(f"exec {last}")
        done = running.finish()
    assert done.returncode in (0, 3), str(done)
    predump("verify", checkpoint)
    poll_until(lambda: Path(f"/proc/{last}/comm").read_text() == "sleep\n", 10, "the child to be another program")
    command("dump", tree, checkpoint, "--leave-stopped")
    process = process_of(checkpoint, last)
    assert process.name == "sleep"
    assert process.pages_data > 0
    assert_all_equal(checkpoint, [*others, last], least_pages=50)
    assert_all_go_on(tree, others)


@pytest.mark.parametrize("name", ["pre-dump", "dump"])
@pytest.mark.parametrize("delay_s", [0.15, 0.2, 0.25, 0.3, 0.35])
def test_forks_and_ends_at_any_moment(tree: Tree, checkpoint: Path, name: str, delay_s: float) -> None:
    """Processes come and go while a command works: what it leaves is right, and so is the next dump."""
    with RunningPredump.start(name, "-t", tree.pid, "-D", checkpoint) as running:
        running.ends_within(delay_s)
        tree.spawn()
        tree.target.command(f"end {tree.pids[-1]}")
        tree.nest()
        done = running.finish()
    assert done.returncode == 0, str(done)
    poll_until(lambda: all(map(is_untouched, tree.pids)), 10, "all processes to be untouched")
    predump("verify", checkpoint)
    pids = tree.pids
    command("dump", tree, checkpoint, "--leave-stopped")
    assert_all_equal(checkpoint, pids)
    assert_all_go_on(tree, pids)
