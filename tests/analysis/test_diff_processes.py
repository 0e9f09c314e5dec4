"""Which process became which."""

from __future__ import annotations

from dataclasses import replace

from analysis.diff.processes import pair_processes
from formats.manifest import Manifest
from tests.display.samples import manifest_of, process_of


def tree(*shape: tuple[int, int, str], **changes: object) -> Manifest:
    """Processes by pid, parent and name, the first of them the root."""
    return replace(manifest_of(*(process_of(pid, ppid, name) for pid, ppid, name in shape)), **changes)


def pids(before: Manifest, after: Manifest, *, one_chain: bool = False) -> list[tuple[int | None, int | None]]:
    pairs = pair_processes(before, after, one_chain=one_chain)
    return [(pair.before and pair.before.pid, pair.after and pair.after.pid) for pair in pairs]


def test_in_a_chain_by_pid_and_start() -> None:
    before = tree((10, 1, "server"), (11, 10, "a"), (12, 10, "b"), (13, 10, "c"))
    after = tree((10, 1, "server"), (12, 10, "renamed"), (13, 10, "c"), (14, 10, "a"))
    reused = replace(after.processes[2], start_time_ticks=99)
    after = replace(after, processes=[*after.processes[:2], reused, after.processes[3]])
    assert pids(before, after, one_chain=True) == [(10, 10), (12, 12), (None, 13), (None, 14), (11, None), (13, None)]


OTHER = {"host": replace(tree((1, 1, "x")).host, boot_id="other")}


def test_between_checkpoints_by_place_in_the_tree() -> None:
    before = tree((10, 1, "server"), (11, 10, "worker"), (12, 10, "worker"), (13, 12, "helper"), (14, 10, "logger"))
    after = tree(
        (20, 1, "server2"), (21, 20, "worker"), (22, 20, "worker"), (23, 22, "helper"), (24, 21, "helper"), **OTHER
    )
    assert pids(before, after) == [(10, 20), (11, 21), (12, 22), (13, 23), (None, 24), (14, None)]


def test_another_boot_makes_another_process_of_the_same_numbers() -> None:
    before, after = tree((10, 1, "a"), (11, 10, "b")), tree((10, 1, "a"), (11, 10, "c"), **OTHER)
    assert pids(before, after) == [(10, 10), (None, 11), (11, None)]


def test_parents_in_a_circle_and_without_end() -> None:
    circle = tree((10, 1, "a"), (11, 12, "b"), (12, 11, "c"), **OTHER)
    assert pids(tree((10, 1, "a")), circle) == [(10, 10), (None, 11), (None, 12)]
    deep = [(pid, pid - 1, "p") for pid in range(10, 5_010)]
    assert len(pids(tree(*deep), tree(*deep, **OTHER))) == 5_000
