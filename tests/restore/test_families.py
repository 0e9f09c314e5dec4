"""Families of processes: parents, sessions, groups, zombies, threads, after a restore as before the dump."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.alive import Lives
from tests.harness import (
    COMMAND_S,
    READY_S,
    TARGETS,
    RunningPredump,
    children,
    is_alive,
    poll_until,
    predump,
)

Start = Callable[[str], int]


@dataclass(frozen=True)
class Kin:
    """What a process is to others, as /proc says it."""

    pid: int
    parent: int
    group: int
    session: int
    status: int | None
    """Of one that has ended and was not waited for."""
    tids: tuple[int, ...]


def family(root: int) -> list[Kin]:
    """The process, and all below it, zombies too."""
    found, queue = [], [root]
    for pid in queue:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        tids = tuple(sorted(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()))
        parent, group, session = map(int, fields[1:4])
        status = int(fields[49]) if fields[0] == "Z" else None
        found.append(Kin(pid, parent if pid != root else 0, group, session, status, tids))
        queue += sorted(children(pid)) if fields[0] != "Z" else []
    return sorted(found, key=lambda kin: kin.pid)


@pytest.fixture
def start(lives: Lives, tmp_path: Path) -> Start:
    """A `family` by its script: its root leads a session."""

    def begin(script: str) -> int:
        pid = lives.start(TARGETS / "bin" / "family", script, log=tmp_path / "log", cwd=tmp_path)
        poll_until(lambda: (tmp_path / "ready").exists() or not is_alive(pid), READY_S, f"family {script}")
        assert is_alive(pid), (tmp_path / "log").read_text()
        return pid

    return begin


def status_lines(pid: int, name: str) -> list[str]:
    """Lines of /proc/PID/status that begin with it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [line for line in lines if line.startswith(f"{name}:")]


def thread_ids(pid: int) -> tuple[int, ...]:
    """The ids that its threads have for themselves."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return tuple(sorted(int(line.split()[-1]) for task in tasks for line in status_lines(int(task.name), "NSpid")))


def own_ids(pid: int) -> dict[str, int]:
    """The ids that a process has for itself."""
    names = ("NSpid", "NSpgid", "NSsid")
    return {name: int(line.split()[-1]) for name in names for line in status_lines(pid, name)}


def found_by_waiting(root: int, directory: Path) -> dict[int, int]:
    """Statuses by pid that the root gets from wait(2) without waiting."""
    os.kill(root, signal.SIGUSR1)
    path = directory / "found"
    poll_until(path.exists, COMMAND_S, "the root to tell what it found")
    pairs = [word.split(":") for word in path.read_text().split()]
    path.unlink()
    return {int(pid): int(status) for pid, status in pairs}


FAMILIES = (
    "(()t)(t)t",  # children and threads
    "(g()())(gt)",  # process groups
    "(g(gG)(G))(g()G)",  # groups that their leaders left
    "(()s(s()))(((s)s())s())",  # children from both sides of setsid
    "(s(g)(g))",  # jobs of a session
    "(x)(k)((x))",  # zombies
    "(r(s(())x)w)(r(g(())x)w)",  # a session and a group whose leaders have ended
    "(r(s(())x))(r(g(())x))",  # and those whose leaders are zombies
    "(r(s(()x)w(x)))",  # an orphan of a session that is led by another child
    "(r(r(s((())x)w))R)",  # an orphan whose parent is no reaper any more
)


@pytest.mark.usefixtures("processors")
def test_families_are_as_they_were(start: Start, lives: Lives, tmp_path: Path) -> None:
    root = start("".join(FAMILIES))
    before = family(root)
    lives.dump(root, tmp_path / "checkpoint")
    lives.restore(tmp_path / "checkpoint")
    assert family(root) == before
    ended = {kin.pid: kin.status for kin in before if kin.parent == root and kin.status is not None}
    assert len(ended) == 2
    assert found_by_waiting(root, tmp_path) == ended


def test_new_ids_are_known_to_the_threads_library(start: Start, lives: Lives, tmp_path: Path) -> None:
    root = start("(gx)()t")
    before = family(root)
    checkpoint = tmp_path / "checkpoint"
    predump("dump", "-t", root, "-D", checkpoint)  # it runs on: none of its ids is free
    new_root = lives.restore(checkpoint, "--pid", "new")[0]
    after = family(new_root)
    assert len(after) == len(before)
    assert not {kin.pid for kin in before} & {kin.pid for kin in after}
    (tmp_path / "found").unlink(missing_ok=True)
    ended = [kin for kin in after if kin.status is not None]
    assert [kin.group for kin in ended] == [kin.pid for kin in ended]
    assert found_by_waiting(new_root, tmp_path) == {kin.pid: kin.status for kin in ended}


def test_in_a_pid_namespace_all_have_their_ids_while_the_first_ones_run(
    start: Start, lives: Lives, tmp_path: Path
) -> None:
    root = start("(s(g))(x)t")
    checkpoint = tmp_path / "checkpoint"
    predump("dump", "-t", root, "-D", checkpoint)
    inside = lives.restore(checkpoint, "--pid-namespace")
    before, after = family(root), family(inside[0])
    own = {kin.pid: thread_ids(kin.pid) for kin in after}
    assert sorted(own.values()) == sorted(kin.tids for kin in before)
    assert {own[kin.pid][0]: own.get(kin.parent, (0,))[0] for kin in after} == {kin.pid: kin.parent for kin in before}
    (init,) = [int(line.split()[1]) for line in status_lines(inside[0], "PPid")]
    os.kill(inside[0], signal.SIGTERM)
    poll_until(lambda: not any(map(is_alive, [init, *own])), COMMAND_S, "the namespace to end with its root")
    assert is_alive(root)


def test_the_first_of_a_pid_namespace_is_it_again(lives: Lives, tmp_path: Path) -> None:
    words = ("unshare", "--pid", "--fork", "--mount-proc", TARGETS / "bin" / "family", "(s(()x))(x)")
    outer = lives.start(*words, log=tmp_path / "log", cwd=tmp_path)
    poll_until((tmp_path / "ready").exists, READY_S, "the family")
    (root,) = children(outer)
    before = [own_ids(kin.pid) for kin in family(root)]
    predump("dump", "-t", root, "-D", tmp_path / "checkpoint", "--kill")
    lives.end(outer)
    inside = lives.restore(tmp_path / "checkpoint", "--pid-namespace")
    after = [own_ids(kin.pid) for kin in family(inside[0])]
    # Its session was that of a process outside: none that it could have again.
    assert before[0] == {"NSpid": 1, "NSpgid": 0, "NSsid": 0}
    assert after[0] == {"NSpid": 1, "NSpgid": 1, "NSsid": 1}
    leader = before[1]["NSpid"]
    assert [ids for ids in after if ids["NSsid"] == leader] == [ids for ids in before if ids["NSsid"] == leader]
    assert {ids["NSpid"] for ids in after} == {ids["NSpid"] for ids in before}


def test_waiting_ends_as_the_root_does_and_hands_signals_on(start: Start, lives: Lives, tmp_path: Path) -> None:
    root = start("()")
    checkpoint = tmp_path / "checkpoint"
    lives.dump(root, checkpoint)
    for options in ((), ("--pid-namespace",)):
        with RunningPredump.start("restore", checkpoint, *options) as running:
            running.wait_for("restored")
            (event,) = [event for event in running.said() if event["type"] == "restored"]
            assert isinstance(event["pids"], list)
            child = event["pids"][1]
            running.process.send_signal(signal.SIGTERM)
            assert running.ends_within(COMMAND_S)
            assert running.process.returncode == 128 + signal.SIGTERM
            lives.end(child)


def test_an_id_that_is_taken_is_named_before_anything_is_made(start: Start, tmp_path: Path) -> None:
    root = start("()")
    checkpoint = tmp_path / "checkpoint"
    predump("dump", "-t", root, "-D", checkpoint)
    done = predump("restore", checkpoint, "--detach", expect=1)
    assert f"{root} (by family)" in done.stderr
    assert len(family(root)) == 2


@pytest.mark.parametrize("fault", ["PREDUMP_DIE_AT=restore-call:{}", "PREDUMP_FAIL_CALL={}:ENOMEM"])
def test_nothing_is_left_of_a_restore_that_ends_half_way(
    fault: str, start: Start, lives: Lives, tmp_path: Path
) -> None:
    root = start("(rs(()x))t")
    checkpoint = tmp_path / "checkpoint"
    pids = [kin.pid for kin in family(root)]
    lives.dump(root, checkpoint)
    for number, options in ((1, ()), (9, ("--pid-namespace",)), (20, ()), (30, ("--pid-namespace",))):
        name, _, value = fault.format(number).partition("=")
        done = predump("restore", checkpoint, "--detach", *options, check=False, env={name: value})
        assert done.returncode in (1, -signal.SIGKILL), str(done)
        if done.returncode < 0:
            poll_until(lambda: not any(map(is_alive, pids)), COMMAND_S, "all to end with predump")
            lives.end(root)  # they are our orphans, and wait for us
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    lives.restore(checkpoint)
    assert [kin.pid for kin in family(root)] == pids
