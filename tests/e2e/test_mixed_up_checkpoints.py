"""Two commands at once; copies of a checkpoint; rounds gone, replaced, rolled back: refused, or right, never stale."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from dumper.checkpoint import CheckpointDirectory
from dumper.dump import AfterDump
from dumper.rounds import Options
from dumper.session import Session
from formats.check import verify
from formats.checkpoint import Checkpoint
from formats.errors import ImageCorrupt, ParentMissing
from tests.harness import (
    Predump,
    RunningPredump,
    Target,
    is_stopped,
    is_untouched,
    keeper_pids,
    poll_until,
)
from tests.oracle import compare
from tests.tally import Count, Tally

pytestmark = pytest.mark.usefixtures("targets")

OPTIONS = Options(staging_bytes=16 << 20)
BUSY, TRACED = 1, 13
CORRUPT, PARENT_MISSING = 20, 22
COMMANDS = ("pre-dump", "dump", "run")
PAIRS = tuple(combinations_with_replacement(COMMANDS, 2))
TIMES = 2
"""Each pair: which of the two is first is a matter of luck."""


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with Target.spawn("churn", tmp_path / "file") as started:
        yield started


@pytest.fixture
def other_target(tmp_path: Path) -> Iterator[Target]:
    with Target.spawn("churn", tmp_path / "other-file") as started:
        yield started


def pre_dump(target: Target, checkpoint: Path) -> None:
    """As the command does: a session of its own, whose tracking a keeper has in the end."""
    with Session(target.pid, checkpoint, OPTIONS, lambda _: None) as session:
        session.pre_dump()


def dump_stopped(target: Target, checkpoint: Path) -> None:
    with Session(target.pid, checkpoint, OPTIONS, lambda _: None) as session:
        session.dump(AfterDump.LEAVE_STOPPED, pre_dump=True)


def change(target: Target, seed: int) -> None:
    """Some pages of each kind of memory: written, dropped, moved."""
    for name in ("write", "write", "zero", "discard", "remap", "move", "brk", "remove", "write"):
        target.command(f"do {name} {seed}")
        seed += 1


def dump_equals_memory(target: Target, checkpoint: Path, tally: Tally) -> None:
    """A dump of the target there equals its memory, and the target goes on clean."""
    dump_stopped(target, checkpoint)
    equals_memory(target, checkpoint, tally)


def equals_memory(target: Target, checkpoint: Path, tally: Tally) -> None:
    try:
        assert is_stopped(target.pid)
        found = compare(target.pid, checkpoint)
        tally.compared(found)
        assert not found.mismatches, str(found)
    finally:
        os.kill(target.pid, signal.SIGCONT)
        unharmed(target, tally)


def unharmed(target: Target, tally: Tally) -> None:
    tally.add(Count.TARGETS_HARMED)
    poll_until(lambda: is_untouched(target.pid), 10, "the target to be untouched")
    target.command("check")
    tally.add(Count.TARGETS_HARMED, -1)


def verified(checkpoint: Path) -> int:
    """The exit code of `predump verify`."""
    return verify(Checkpoint.open(checkpoint)).exit_code


def is_right_or_busy(done: Predump) -> None:
    """Done, or refused since somebody else is at it, who may be in the midst of the freeze; nothing else."""
    if done.returncode != 0:
        said = {BUSY: "another predump is", TRACED: "is already traced by process"}.get(done.returncode)
        assert said is not None, str(done)
        assert said in str(done.result["message"]), str(done)


def at_once(*commands: tuple[object, ...]) -> list[Predump]:
    """Runs them at the same time; at least one gets through."""
    with ExitStack() as stack:
        running = [stack.enter_context(RunningPredump.start(*words)) for words in commands]
        done = [one.finish() for one in running]
    for one in done:
        is_right_or_busy(one)
    assert any(one.returncode == 0 for one in done), "\n".join(map(str, done))
    return done


# ---- two commands at once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize(
    "apart", [False, pytest.param(True, marks=pytest.mark.thorough)], ids=["one checkpoint", "two checkpoints"]
)
def test_two_commands_on_one_target(
    target: Target, tmp_path: Path, tally: Tally, first: str, second: str, apart: bool
) -> None:
    one, other = tmp_path / "one", tmp_path / ("other" if apart else "one")
    target.command("start 300 1 alone")
    for number in range(TIMES):
        at_once((first, "-p", target.pid, "-D", one), (second, "-p", target.pid, "-D", other))
        unharmed(target, tally)
        change(target, 100 * number)
    for checkpoint in {one, other}:
        dump_equals_memory(target, checkpoint, tally)
        assert verified(checkpoint) == 0
    assert not keeper_pids(target.pid)


def test_many_commands_on_one_target(target: Target, tmp_path: Path, tally: Tally) -> None:
    commands = [(name, "-p", target.pid, "-D", tmp_path / where) for name in COMMANDS for where in ("one", "other")]
    at_once(*commands, ("detach", "-p", target.pid))
    change(target, 1)
    for name in ("one", "other"):
        dump_equals_memory(target, tmp_path / name, tally)
        assert verified(tmp_path / name) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_two_targets_and_one_checkpoint(
    target: Target, other_target: Target, tmp_path: Path, tally: Tally, command: str
) -> None:
    """The checkpoint is of the one that came first; the other is refused, and gets in nowhere."""
    checkpoint = tmp_path / "one"
    targets = {target.pid: target, other_target.pid: other_target}
    with ExitStack() as stack:
        words = [(command, "-p", pid, "-D", checkpoint) for pid in targets]
        running = [stack.enter_context(RunningPredump.start(*one)) for one in words]
        done = [one.finish() for one in running]
    assert sorted(one.returncode for one in done) == [0, 1], "\n".join(map(str, done))
    refused = next(one for one in done if one.returncode == 1)
    said = str(refused.result["message"])
    assert "another predump is writing to" in said or "is a checkpoint of another process" in said
    root = Checkpoint.open(checkpoint).round().manifest.root_pid
    dump_equals_memory(targets[root], checkpoint, tally)
    for one in targets.values():
        unharmed(one, tally)
    assert str(root) not in refused.args


def test_a_checkpoint_that_somebody_else_makes_just_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there by the time it is to be made."""
    checkpoint = tmp_path / "one"
    original = Path.mkdir

    def made_right_before(path: Path, mode: int = 0o777) -> None:
        if path == checkpoint:
            original(checkpoint, 0o700)
        original(path, mode)

    monkeypatch.setattr(Path, "mkdir", made_right_before)
    with CheckpointDirectory(checkpoint) as directory:
        assert directory.next_number == 1


# ---- copies, and rounds that are not what they were ----------------------------------------------------------------


def test_a_copy_and_its_original_in_turn(target: Target, tmp_path: Path, tally: Tally) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    pre_dump(target, one)
    change(target, 1)
    pre_dump(target, one)
    shutil.copytree(one, other)
    for seed, checkpoint in enumerate((other, one, other, other, one)):
        change(target, 1000 + 100 * seed)
        pre_dump(target, checkpoint)
    for seed, checkpoint in enumerate((other, one)):
        change(target, 2000 + 100 * seed)
        dump_equals_memory(target, checkpoint, tally)
        assert verified(checkpoint) == 0


def test_a_copy_that_takes_the_place_of_its_original(target: Target, tmp_path: Path, tally: Tally) -> None:
    one, backup = tmp_path / "one", tmp_path / "backup"
    pre_dump(target, one)
    change(target, 1)
    shutil.copytree(one, backup)
    pre_dump(target, one)
    change(target, 2)
    shutil.rmtree(one)
    backup.rename(one)
    pre_dump(target, one)
    change(target, 3)
    dump_equals_memory(target, one, tally)
    assert verified(one) == 0


Damage = Callable[[Path, Path], None]
"""Of a checkpoint of four rounds; the second path is another checkpoint of the same target, as old."""


def _remove(number: int) -> Damage:
    return lambda checkpoint, _: shutil.rmtree(checkpoint / f"{number:04}")


def _remove_all(checkpoint: Path, _other: Path) -> None:
    for path in checkpoint.iterdir():
        shutil.rmtree(path)


def _replace(pattern: str, number: int) -> Damage:
    """Each file of that name by the one of the other checkpoint."""

    def damage(checkpoint: Path, other: Path) -> None:
        files = list((checkpoint / f"{number:04}").glob(pattern))
        assert files
        for path in files:
            shutil.copy(other / path.parent.name / path.name, path)

    return damage


def _roll_back_last(checkpoint: Path, _other: Path) -> None:
    """The last round is gone, and the one before it has the number of the last one."""
    shutil.rmtree(checkpoint / "0004")
    shutil.copytree(checkpoint / "0003", checkpoint / "0004")


def _restore_manifest(checkpoint: Path, _other: Path) -> None:
    """The last manifest is that of the round before."""
    shutil.copy(checkpoint / "0003" / "manifest.json", checkpoint / "0004" / "manifest.json")


DAMAGES: dict[str, Damage] = {
    "first round gone": _remove(1),
    "middle round gone": _remove(2),
    "last round gone": _remove(4),
    "all rounds gone": _remove_all,
    **{f"round {n} replaced": _replace("*", n) for n in (1, 2, 4)},
    **{f"pages of round {n} replaced": _replace("pages-*", n) for n in (1, 2, 4)},
    **{f"pagemap of round {n} replaced": _replace("pagemap-*", n) for n in (1, 2, 4)},
    **{f"manifest of round {n} replaced": _replace("manifest.json", n) for n in (1, 2, 4)},
    "last round rolled back": _roll_back_last,
    "last manifest rolled back": _restore_manifest,
}


@pytest.mark.parametrize(
    "pre_dumps",
    [pytest.param(0, marks=pytest.mark.thorough), 1],
    ids=["then a dump", "then a round and a dump"],
)
@pytest.mark.parametrize("what", DAMAGES)
def test_a_checkpoint_that_was_tampered_with(
    target: Target, tmp_path: Path, tally: Tally, what: str, pre_dumps: int
) -> None:
    """Each command does it right, or says that the checkpoint is damaged. What can be read is never stale."""
    one, other = tmp_path / "one", tmp_path / "other"
    for number in range(4):
        change(target, 100 * number)
        pre_dump(target, other)
        change(target, 100 * number + 50)
        pre_dump(target, one)
    DAMAGES[what](one, other)
    change(target, 1000)
    try:
        for _ in range(pre_dumps):
            pre_dump(target, one)
        dump_stopped(target, one)
    except (ImageCorrupt, ParentMissing):
        unharmed(target, tally)
        dump_equals_memory(target, tmp_path / "new", tally)
        return
    try:
        equals_memory(target, one, tally)
    except (ImageCorrupt, ParentMissing):  # readers refuse it
        assert verified(one) in (CORRUPT, PARENT_MISSING)
