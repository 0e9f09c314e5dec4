"""In which order processes are made, so that each has its parent, its session and its group.

A process is born in its parent's session, and leaves it by setsid(2) only, for one of its own. So a parent that leads a
session makes some children before it calls setsid and others after. What no parent of its own can give any more, since
it was inherited from one that has ended, comes about as it did then:

    giver (in the session wanted)  --fork-->  passing process  --fork-->  child
    the passing process ends, and the child becomes one of its reaper's, an ancestor of the giver

Sessions and groups whose leader has ended get a stand-in with its id, which ends when all are in.

Ids here are those that processes have for themselves, in the pid namespace of the root.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from formats.manifest import Process
from formats.processstate import Lineage
from restorer.errors import RestoreFailed
from restorer.threads import own_tid

OUTSIDE: Final = 0
"""The session or group of whoever restores."""


@dataclass(slots=True)
class Node:
    """A process that is to be made. `process` is None for a stand-in."""

    pid: int
    parent: int
    session: int
    group: int
    exit_signal: int
    depth: int = 0
    process: Process | None = None

    @property
    def leads(self) -> bool:
        """Whether it leads a session."""
        return self.session == self.pid


class Do(Enum):
    """What a step does with process `pid`."""

    FORK = auto()
    """`other` makes it."""
    ADOPT = auto()
    """`other` has it made by a process that ends, and its parent becomes who is to be it."""
    LEAD_SESSION = auto()
    JOIN_GROUP = auto()
    """Of id `other`; its own if that is the same."""
    LEAVE = auto()
    """A stand-in ends, and its parent waits for it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan."""

    do: Do
    pid: int
    other: int = OUTSIDE


@dataclass(slots=True)
class Plan:
    """All processes by their ids, and the steps that make them; the root, `root`, is there before the first."""

    root: int
    nodes: dict[int, Node]
    steps: list[Step] = field(default_factory=list)

    def processes(self) -> list[Node]:
        """Without the stand-ins, the root first, in the order in which they are made."""
        made = [self.root] + [step.pid for step in self.steps if step.do in (Do.FORK, Do.ADOPT)]
        return [self.nodes[pid] for pid in made if self.nodes[pid].process is not None]

    def ids(self) -> set[int]:
        """Every id that is needed, of threads too."""
        found = set(self.nodes)
        for node in self.nodes.values():
            if node.process is not None:
                found |= {own_tid(thread) for thread in node.process.threads}
        return found


def lineage_of(process: Process) -> Lineage:
    """Raises RestoreFailed if the image does not have it."""
    if process.lineage is None:
        raise RestoreFailed(f"The image does not have the state of process {process.pid}.", pid=process.pid)
    return process.lineage


def own_pid(process: Process) -> int:
    """The id that it has for itself."""
    inner = lineage_of(process).ns_pids
    return inner[-1] if inner else process.pid


def make_plan(processes: Sequence[Process], root_pid: int, *, own_session: bool, as_job: bool = False) -> Plan:
    """The plan for a round's processes; `root_pid` is as the image has it.

    own_session: what belonged to a session outside of the tree gets one of its own, which the root leads.
    as_job: a session that the root led becomes the caller's.
    Raises RestoreFailed for what cannot be made so.
    """
    nodes = _nodes(processes, root_pid)
    root = next(pid for pid, node in nodes.items() if node.process is not None and node.process.pid == root_pid)
    if as_job and nodes[root].leads:
        _leave_session(nodes, root)
    else:
        _replace_outside(nodes, root, own_session=own_session)
    _add_stand_ins(nodes, root)
    plan = Plan(root, nodes)
    birth = _births(nodes, root)
    plan.steps += _forks(nodes, root, birth)
    plan.steps += _groups(nodes)
    plan.steps += [Step(Do.LEAVE, pid) for pid, node in reversed(nodes.items()) if node.process is None]
    return plan


def _nodes(processes: Sequence[Process], root_pid: int) -> dict[int, Node]:
    """Parents before their children."""
    own = {process.pid: own_pid(process) for process in processes}
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.ppid, []).append(process)
    depth = {len(lineage_of(process).ns_pids) for process in processes}
    if len(depth) > 1 or len(set(own.values())) < len(own):
        raise RestoreFailed(
            "The processes of the image were in several pid namespaces, one inside the other.",
            hint="Dump the inner ones by themselves: they can be restored with --pid-namespace.",
        )
    nodes: dict[int, Node] = {}
    queue = [process for process in processes if process.pid == root_pid]
    for process in queue:
        lineage = lineage_of(process)
        parent = OUTSIDE if process.pid == root_pid else own[process.ppid]
        nodes[own[process.pid]] = Node(
            own[process.pid],
            parent,
            (lineage.ns_sessions or [lineage.session])[-1],
            (lineage.ns_process_groups or [lineage.process_group])[-1],
            lineage.exit_signal,
            nodes[parent].depth + 1 if parent in nodes else 0,
            process,
        )
        below = [child for child in children.get(process.pid, ()) if child.pid != root_pid]
        if below and process.zombie is not None:
            raise RestoreFailed(f"Process {process.pid} of the image has ended, and yet it has children.")
        queue += below
    if len(nodes) < len(processes):
        lost = next(process.pid for process in processes if own[process.pid] not in nodes)
        raise RestoreFailed(f"Process {lost} of the image is no descendant of its root, {root_pid}.", pid=lost)
    return nodes


def _leave_session(nodes: Mapping[int, Node], root: int) -> None:
    for node in nodes.values():
        if node.session == root:
            node.session = OUTSIDE


def _replace_outside(nodes: Mapping[int, Node], root: int, *, own_session: bool) -> None:
    """The root's session and group, where nobody of the tree leads them, become those of whoever restores."""
    session, group = nodes[root].session, nodes[root].group
    if session in nodes:
        if session != root:
            raise RestoreFailed(f"Process {root} of the image is in the session of its own descendant {session}.")
        return
    for node in nodes.values():
        if node.session == session:
            node.session = root if own_session else OUTSIDE
            if node.group in (OUTSIDE, group) and group not in nodes:
                node.group = root if own_session else OUTSIDE
    if own_session:
        nodes[root].group = root


def _add_stand_ins(nodes: dict[int, Node], root: int) -> None:
    """They end without a signal: nobody but us is to know."""
    parents: dict[int, Node] = {}  # by session: the deepest of those whose children inherited it from somebody else
    for node in nodes.values():
        if node.session not in nodes and node.session != OUTSIDE:
            parent = nodes[node.parent]
            if parent.session != node.session:
                parents[node.session] = max(parent, parents.get(node.session, parent), key=lambda one: one.depth)
    for session, parent in parents.items():
        nodes[session] = Node(session, parent.pid, session, session, 0, parent.depth + 1)
    for node in list(nodes.values()):
        if node.group not in nodes and node.group != OUTSIDE:
            parent = nodes[root if node.session == OUTSIDE else node.session]
            nodes[node.group] = Node(node.group, parent.pid, node.session, node.group, 0, parent.depth + 1)


def _ancestors(nodes: Mapping[int, Node], pid: int) -> Iterator[int]:
    """From the parent up."""
    while pid in nodes:
        pid = nodes[pid].parent
        if pid != OUTSIDE:
            yield pid


def _births(nodes: Mapping[int, Node], root: int) -> dict[int, int]:
    """The session that each process is born in; not of those that their parents cannot give theirs."""
    wanted: dict[int, int] = {}
    for node in sorted(nodes.values(), key=lambda one: -one.depth):
        pid = node.pid
        if not node.leads:
            wanted[pid] = node.session
        if pid in wanted and node.parent in nodes and wanted[pid] != node.parent and nodes[node.parent].leads:
            wanted.setdefault(node.parent, wanted[pid])
    birth = {root: OUTSIDE}
    for node in sorted(nodes.values(), key=lambda one: one.depth):
        pid = node.pid
        if pid == root:
            continue
        parent = nodes[node.parent]
        given = {parent.session, birth.get(parent.pid, parent.session)}
        if wanted.get(pid, parent.session) in given:
            birth[pid] = wanted.get(pid, parent.session)
        elif node.leads:
            birth[pid] = parent.session
    return birth


def _forks(nodes: Mapping[int, Node], root: int, birth: Mapping[int, int]) -> list[Step]:
    children: dict[int, list[Node]] = {}
    for node in nodes.values():
        if node.pid in birth and node.pid != root:
            children.setdefault(node.parent, []).append(node)
    steps = list(_subtree(nodes[root], children, birth))
    there = {root} | {step.pid for step in steps}
    adopted = [node for node in nodes.values() if node.pid not in birth]
    while adopted:
        ready = [node for node in adopted if node.session in there and node.parent in there]
        for node in ready:
            if node.parent not in _ancestors(nodes, node.session):
                raise _impossible(node)
            steps.append(Step(Do.ADOPT, node.pid, node.session))
            steps += _subtree(node, children, birth)
        if not ready:
            raise _impossible(adopted[0])
        there |= {step.pid for step in steps}
        adopted = [node for node in adopted if node.pid not in there]
    return steps


def _subtree(top: Node, children: Mapping[int, Sequence[Node]], birth: Mapping[int, int]) -> Iterator[Step]:
    """Everything below a process that was just born, without recursion: an image says how deep a tree is."""
    stack = [_life(top, children.get(top.pid, ()), birth)]
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
        elif isinstance(step, Step):
            yield step
        else:
            yield Step(Do.FORK, step.pid, step.parent)
            stack.append(_life(step, children.get(step.pid, ()), birth))


def _life(node: Node, children: Sequence[Node], birth: Mapping[int, int]) -> Iterator[Step | Node]:
    """What a process does: its session, and its children on the side of that where they belong."""
    if node.leads:
        yield from (child for child in children if birth[child.pid] != node.session)
        yield Step(Do.LEAD_SESSION, node.pid)
        children = [child for child in children if birth[child.pid] == node.session]
    yield from children


def _groups(nodes: Mapping[int, Node]) -> Iterator[Step]:
    members = [node for node in nodes.values() if node.group != OUTSIDE and not node.leads]
    groups = {node.group: None for node in members}
    for pid in groups:
        if not nodes[pid].leads:
            yield Step(Do.JOIN_GROUP, pid, pid)
    # Who leads a group and left it does so when all others are in.
    for node in sorted(members, key=lambda one: one.pid in groups):
        if nodes[node.group].session != node.session:
            raise RestoreFailed(f"Process {node.pid} of the image is in a process group of another session.")
        if node.group != node.pid:
            yield Step(Do.JOIN_GROUP, node.pid, node.group)


def _impossible(node: Node) -> RestoreFailed:
    return RestoreFailed(
        f"Process {node.pid} of the image is in session {node.session}, which it cannot have from its parent "
        f"{node.parent}.",
        hint="Its ancestors changed after it was born, in a way that cannot be done again.",
        pid=node.pid,
    )
