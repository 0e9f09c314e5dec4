"""Which process of one round is which of another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from formats.manifest import Manifest, Process


class ProcessPair(NamedTuple):
    """A process in both rounds; one of them is None where it came or ended."""

    before: Process | None
    after: Process | None


def pair_processes(before: Manifest, after: Manifest, *, one_chain: bool) -> list[ProcessPair]:
    """All of them, in the order of the later round, those that ended last.

    One process is known by its pid and the time of its start, on one boot of one host. If the rounds are not of one
    chain, those are taken for the same, too, that have the same place in the tree: the root, or the same name below the
    same parent.
    """
    partners = {}
    if before.host.boot_id == after.host.boot_id:
        known = {(process.pid, process.start_time_ticks): process for process in before.processes}
        for process in after.processes:
            partner = known.get((process.pid, process.start_time_ticks))
            if partner is not None:
                partners[process.pid] = partner
    if not one_chain:
        partners |= _by_place(before, after, partners)
    matched = {process.pid for process in partners.values()}
    pairs = [ProcessPair(partners.get(process.pid), process) for process in after.processes]
    return pairs + [ProcessPair(process, None) for process in before.processes if process.pid not in matched]


def _by_place(before: Manifest, after: Manifest, known: dict[int, Process]) -> dict[int, Process]:
    matched = {process.pid for process in known.values()}
    ids: dict[tuple[int, str, int], int] = {}
    waiting = {place: process for place, process in _places(before, ids) if process.pid not in matched}
    return {
        process.pid: waiting[place]
        for place, process in _places(after, ids)
        if process.pid not in known and place in waiting
    }


def _places(manifest: Manifest, ids: dict[tuple[int, str, int], int]) -> Iterator[tuple[int, Process]]:
    """Each process that hangs on the root, with a number for its place: what it is called, and which one of that name.

    `ids` has the places so far, of this tree or of another.
    """
    children: dict[int, list[Process]] = defaultdict(list)
    for process in manifest.processes:
        if process.pid != manifest.root_pid:
            children[process.ppid].append(process)
    roots = [process for process in manifest.processes if process.pid == manifest.root_pid]
    waiting = [(ids.setdefault((0, "", 0), 1), process) for process in roots]
    while waiting:
        place, process = waiting.pop()
        yield place, process
        counts: dict[str, int] = defaultdict(int)
        for child in children.pop(process.pid, ()):
            key = place, child.name, counts[child.name]
            counts[child.name] += 1
            waiting.append((ids.setdefault(key, len(ids) + 1), child))
