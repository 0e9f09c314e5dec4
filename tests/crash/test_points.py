"""SIGKILL at every named point of every command that touches a target: it goes on, and the next commands are right."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from formats.faults import Point
from formats.manifest import RoundKind
from tests.crash.patients import Patient, patient_of
from tests.crash.zygote import Zygote
from tests.harness import keeper_pids, poll_until
from tests.tally import Count, Tally

pytestmark = pytest.mark.usefixtures("targets")

ATTACH = (
    Point.ATTACH_FOUND,
    Point.STOPPED,
    Point.INJECT_FRAMES,
    Point.INJECT_SET,
    Point.INJECT_ENTERED,
    Point.INJECT_RETURNED,
    Point.INJECT_TAKEN,
    Point.INJECT_CLOSED,
    Point.ATTACH_TAKEN,
    Point.ATTACH_RESUMED,
    Point.ATTACH_ENABLED,
    Point.ATTACHED,
    Point.REGISTERED,
)
NEW_KEEPER = (Point.KEEPER_BOUND, Point.KEEPER_STARTED, Point.KEEPER_CONNECTED)
COMMIT = (
    Point.SUBMITTED,
    Point.FLUSHED,
    Point.FILES_SYNCED,
    Point.MANIFEST_WRITTEN,
    Point.MANIFEST_RENAMED,
    Point.COMMITTED,
)
ROUND = (Point.ROUND_MADE, Point.SCANNED, *COMMIT)
TOLD = (Point.HELD, Point.TOLD)
ASK_BY_CHAIN = (
    Point.ASK_FRAMES,
    Point.ASK_SET,
    Point.ASK_MASKED,
    Point.ASK_CHAIN,
    Point.ASK_CHAINED,
    Point.ASK_UNMASKED,
    Point.ASK_REGISTERS,
    Point.ASK_PARTLY,
)
ASK_ONE_BY_ONE = (Point.ASK_ENTERED, Point.ASK_RETURNED, Point.ASK_AGAIN)
CLONE = (
    Point.CLONE_FRAMES,
    Point.CLONE_SET,
    Point.CLONE_ENTERED,
    Point.CLONE_RETURNED,
    Point.CLONE_HELD,
    Point.CLONE_ANNOUNCED,
    Point.CLONED,
)
CLONE_ENDS = (
    Point.CLONE_ENDED,
    Point.REAP_FRAMES,
    Point.REAP_SET,
    Point.REAP_ENTERED,
    Point.REAP_RETURNED,
    Point.REAPED,
)
CAPTURE = (Point.STOPPED, Point.FROZEN, Point.SETTLED, Point.ASKED, Point.COPIED, Point.OBJECTS_COPIED)
DUMP = (Point.ROUND_MADE, Point.PREPARED, Point.MICRO_ROUND, *CAPTURE, Point.WRITTEN, *COMMIT)
END = (Point.UNTRACKED, Point.RELEASED)
STAYS = (Point.SIGNALLED, Point.THAWING, Point.THAWED, *END)
"""With --leave-stopped: the dump is on disk, and the target was told to stop."""


@dataclass(frozen=True)
class Scenario:
    """A command that dies, and what goes before it. A point with `:2` is passed twice, and has its death then."""

    kind: str
    """Of the patient."""
    command: str
    points: tuple[str, ...]
    before: tuple[str, ...] = ()


SCENARIOS = {
    "first pre-dump": Scenario("selfcheck", "pre-dump", (*ATTACH, *NEW_KEEPER, *ROUND, *TOLD)),
    "next pre-dump": Scenario("memory", "pre-dump", (Point.BORROWED, Point.REGISTERED, *ROUND, *TOLD), ("pre-dump",)),
    "dump": Scenario("memory", "dump", (*DUMP, Point.THAWING, Point.THAWED, *END), ("pre-dump",)),
    "dump --leave-stopped": Scenario(
        "selfcheck interruptible", "dump --leave-stopped", (*DUMP, *ASK_BY_CHAIN, *STAYS), ("pre-dump",)
    ),
    "dump by clone": Scenario(
        "selfcheck interruptible",
        "dump --freeze-by clone",
        (
            Point.FORESEEN,
            Point.FROZEN,
            *CLONE,
            Point.COPIED,
            Point.THAWED,
            Point.RELEASED_FILES,
            Point.SUBMITTED,
            *CLONE_ENDS,
            Point.COMMITTED,
        ),
        ("pre-dump",),
    ),
    "dump by clone of a writer": Scenario(
        "memory", "dump --freeze-by clone", (Point.CLONE_ENTERED, Point.CLONED, Point.RELEASED_FILES), ("pre-dump",)
    ),
    "dump by clone of a filter that kills": Scenario(
        "special seccomp-kill", "dump --freeze-by clone", (*CLONE, Point.THAWED, *CLONE_ENDS[:4])
    ),
    "dump by clone of a tree": Scenario(
        "tree",
        "dump --freeze-by clone",
        (f"{Point.CLONED}:2", f"{Point.RELEASED_FILES}:2", f"{Point.CLONE_ENDED}:2", f"{Point.REAPED}:3"),
        ("pre-dump",),
    ),
    "dump --kill": Scenario(
        "selfcheck interruptible",
        "dump --kill",
        (Point.FROZEN, Point.COPIED, Point.WRITTEN, *COMMIT[2:], Point.SIGNALLED, *END),
        ("pre-dump",),
    ),
    "dump --no-pre-dump": Scenario(
        "selfcheck interruptible all-blocked",
        "dump --no-pre-dump",
        (*ASK_ONE_BY_ONE, Point.FROZEN, Point.THAWED, *COMMIT[2:]),
    ),
    "dump --keep-tracking": Scenario(
        "memory",
        "dump --keep-tracking",
        (
            Point.BORROWED,
            Point.MICRO_ROUND,
            Point.FROZEN,
            Point.COPIED,
            Point.THAWED,
            Point.WRITTEN,
            Point.FILES_SYNCED,
            Point.MANIFEST_RENAMED,
            Point.COMMITTED,
            *TOLD,
        ),
        ("dump --keep-tracking",),
    ),
    "dump with hooks": Scenario(
        "memory",
        "dump --exec-before-freeze true --exec-after-freeze true",
        (Point.HOOK_GUARDED, Point.HOOKED, Point.FROZEN, Point.THAWED),
        ("pre-dump",),
    ),
    "streamed": Scenario(
        "memory",
        "dump --leave-stopped --staging 1M",
        (Point.COPIED, Point.SUBMITTED, f"{Point.SUBMITTED}:2", Point.STREAMED, *COMMIT[2:], *STAYS[:2]),
        ("pre-dump",),
    ),
    "run": Scenario(
        "memory",
        "run --max-rounds 2 --max-freeze 1us --leave-stopped",
        (f"{Point.SCANNED}:2", f"{Point.MANIFEST_RENAMED}:2", Point.FROZEN, Point.WRITTEN, f"{Point.COMMITTED}:3"),
    ),
    "run with a keeper": Scenario(
        "memory",
        "run --max-rounds 2 --max-freeze 1us",
        (
            Point.BORROWED,
            *TOLD,
            *(f"{point}:2" for point in (*ROUND, *TOLD)),
            Point.MICRO_ROUND,
            f"{Point.MICRO_ROUND}:2",
            Point.FROZEN,
            Point.WRITTEN,
            *END,
        ),
        ("pre-dump",),
    ),
    "detach": Scenario("selfcheck", "detach", (Point.BORROWED, Point.REGISTERED, *END), ("pre-dump",)),
    "a filter that kills": Scenario(
        "special seccomp-kill",
        "dump --leave-stopped",
        (*ATTACH[:9], Point.FROZEN, *ASK_BY_CHAIN[:-1], Point.ASKED, Point.COPIED),
    ),
    "first pre-dump of a tree": Scenario(
        "tree",
        "pre-dump",
        (
            Point.ATTACHED,
            *(f"{point}:2" for point in (Point.STOPPED, Point.INJECT_RETURNED, Point.ATTACH_RESUMED, Point.ATTACHED)),
            f"{Point.REGISTERED}:2",
            f"{Point.SCANNED}:2",
            Point.MANIFEST_RENAMED,
            *TOLD,
        ),
    ),
    "dump of a tree": Scenario(
        "tree",
        "dump --leave-stopped",
        (
            f"{Point.STOPPED}:2",
            f"{Point.ASK_CHAIN}:2",
            Point.OBJECTS_COPIED,
            Point.COMMITTED,
            Point.SIGNALLED,
            f"{Point.SIGNALLED}:2",
            f"{Point.SIGNALLED}:3",
            f"{Point.UNTRACKED}:2",
        ),
        ("pre-dump",),
    ),
    "detach of a tree": Scenario("tree", "detach", (Point.UNTRACKED, f"{Point.UNTRACKED}:2"), ("pre-dump",)),
}
FLATTEN = (
    Point.FLATTEN_BEGUN,
    Point.ROUND_MADE,
    Point.MANIFEST_RENAMED,
    Point.FLATTEN_WRITTEN,
    Point.FLATTEN_SWAPPED,
    Point.FLATTEN_MOVED,
    f"{Point.FLATTEN_MOVED}:2",
    Point.FLATTEN_REPLACED,
    Point.FLATTEN_REMOVED,
    f"{Point.FLATTEN_REMOVED}:3",
)
KEEPER_SCENARIOS = {
    "first pre-dump": Scenario(
        "memory",
        "pre-dump",
        (Point.KEEPER_HOLD, Point.KEEPER_ANSWERED, Point.KEEPER_COMMIT, f"{Point.KEEPER_ANSWERED}:2"),
    ),
    "next pre-dump": Scenario(
        "memory",
        "pre-dump",
        (Point.KEEPER_BEGIN, Point.KEEPER_LENT, f"{Point.KEEPER_COMMIT}:2", f"{Point.KEEPER_ANSWERED}:3"),
        ("pre-dump",),
    ),
    "dump": Scenario("memory", "dump", (Point.KEEPER_BEGIN, Point.KEEPER_LENT, Point.KEEPER_RELEASE), ("pre-dump",)),
    "dump --keep-tracking": Scenario(
        "memory",
        "dump --keep-tracking",
        (Point.KEEPER_BEGIN, Point.KEEPER_LENT, f"{Point.KEEPER_COMMIT}:3"),  # the first dump has a round before it
        ("dump --keep-tracking",),
    ),
    "run": Scenario("memory", "run", (Point.KEEPER_LENT, f"{Point.KEEPER_COMMIT}:2"), ("pre-dump",)),
    "detach": Scenario(
        "selfcheck", "detach", (Point.KEEPER_BEGIN, Point.KEEPER_LENT, Point.KEEPER_RELEASE), ("pre-dump",)
    ),
    "first pre-dump of a tree": Scenario("tree", "pre-dump", (Point.KEEPER_HOLD, Point.KEEPER_COMMIT)),
    "next pre-dump of a tree": Scenario("tree", "pre-dump", (Point.KEEPER_LENT,), ("pre-dump",)),
}

THROTTLE = {
    Point.GOVERNOR_MADE,
    Point.GOVERNOR_MOVED,
    Point.GOVERNOR_STOPPED,
    Point.GOVERNOR_LIFTED,
    Point.THROTTLED,
    Point.UNTHROTTLED,
}
"""tests/e2e/test_throttle.py has deaths at these."""


RECEIVER = {Point.RECEIVED, Point.JOURNALED, Point.ACKNOWLEDGED, Point.INTENDED, Point.RENEWED}
"""tests/stream/test_receiver_deaths.py has deaths at these."""
CONNECTIONS = {Point.CONNECTIONS_HELD, Point.CONNECTIONS_TAKEN, Point.CONNECTIONS_DOOMED}
"""tests/crash/test_deaths_with_connections.py has deaths at these."""


HANDOVER = {point for point in Point if point.value.startswith(("handover-", "takeover-"))}
"""tests/stream/test_handover.py has deaths at these."""


RESTORE = {point for point in Point if point.value.startswith("restore")}
"""tests/restore/test_failing_calls.py has deaths at these."""
LAZY = {Point.LAZY_PIECE}
"""tests/restore/test_memory_lazy.py has deaths at these."""
REWIND = {point for point in Point if point.value.startswith(("rewind-", "guard-"))}
"""tests/restore/test_rewind_deaths.py has deaths at these."""


def cases(scenarios: dict[str, Scenario]) -> list[tuple[str, str]]:
    return [(name, point) for name, scenario in scenarios.items() for point in scenario.points]


def params(scenarios: dict[str, Scenario]) -> list[ParameterSet]:
    """The same for pytest: each point once, or twice if it is that often passed, and all others as thorough ones."""
    seen: set[str] = set()
    found = []
    for name, point in cases(scenarios):
        found.append(pytest.param(name, point, marks=[pytest.mark.thorough] if point in seen else []))
        seen.add(point)
    return found


def test_every_point_has_a_death(tally: Tally) -> None:
    """Each case below asserts that its point was reached."""
    tally.add(Count.FAULT_POINTS, len(Point))
    tried = {point.partition(":")[0] for _, point in (*cases(SCENARIOS), *cases(KEEPER_SCENARIOS))}
    tried |= {point.partition(":")[0] for point in FLATTEN}
    assert tried | THROTTLE | RECEIVER | CONNECTIONS | HANDOVER | RESTORE | LAZY | REWIND == set(Point)


@pytest.mark.parametrize(("name", "point"), params(SCENARIOS))
def test_predump_dies(name: str, point: str, zygote: Zygote, tmp_path: Path, tally: Tally) -> None:
    scenario = SCENARIOS[name]
    with patient_of(scenario.kind, tmp_path, zygote, tally) as patient:
        for command in scenario.before:
            patient.run(command)
        earlier = patient.files()
        done = patient.run(scenario.command, expect=None, die_at=point)
        assert done.returncode == -signal.SIGKILL, f"{point} was not reached\n{done}"
        tally.add(Count.KILLS_AT_POINTS)
        assert earlier.items() <= patient.files().items(), "earlier rounds are as they were"
        last_step = Point(point.partition(":")[0])
        if "--kill" in scenario.command and last_step in STAYS:
            assert_killed(patient)
            return
        if "--leave-stopped" in scenario.command and last_step in STAYS:
            assert_stops(patient, complete=point not in (Point.SIGNALLED, f"{Point.SIGNALLED}:2"))
        patient.assert_goes_on()
        patient.assert_next_commands_are_right()


@pytest.mark.parametrize(("point", "keep"), [(point, number % 2) for number, point in enumerate(FLATTEN)])
def test_flatten_dies(point: str, keep: int, zygote: Zygote, tmp_path: Path, tally: Tally) -> None:
    """Before or after the swap, the next round goes on from the last one, and holds only what was written."""
    with patient_of("memory", tmp_path, zygote, tally) as patient:
        for _ in range(3 + keep):
            patient.run("pre-dump")
        last = patient.rounds()[-1]
        done = patient.run(f"flatten --drop --keep {keep}", expect=None, die_at=point)
        assert done.returncode == -signal.SIGKILL, f"{point} was not reached\n{done}"
        tally.add(Count.KILLS_AT_POINTS)
        patient.assert_verified()
        assert patient.rounds()[-1] == last
        assert patient.run("pre-dump").result["full"] is False
        is_swapped = Point(point.partition(":")[0]) not in FLATTEN[:4]
        first = 3 if is_swapped else 1
        assert patient.rounds()[0][0] == first, "what was begun is over, and what was not is as it was"
        assert not (patient.checkpoint / "flatten.tmp").exists()
        patient.assert_goes_on()
        patient.assert_next_commands_are_right()


def assert_killed(patient: Patient) -> None:
    """As was asked for, with the dump on disk."""
    assert patient.target.wait() == -signal.SIGKILL
    assert patient.rounds()[-1][1] is RoundKind.DUMP
    patient.assert_verified()


def assert_stops(patient: Patient, *, complete: bool) -> None:
    """The dump is on disk, and its processes were told to stop, all of them if `complete`; they go on after it."""
    assert patient.rounds()[-1][1] is RoundKind.DUMP
    if complete or len(patient.pids) == 1:
        patient.wait_until_stopped()
        patient.assert_dumped()
    patient.resume()


@pytest.mark.parametrize(("name", "point"), params(KEEPER_SCENARIOS))
def test_the_keeper_dies(name: str, point: str, zygote: Zygote, tmp_path: Path, tally: Tally) -> None:
    """The command that it dies under ends well; the next one takes everything again, if the tracking went with it."""
    scenario = KEEPER_SCENARIOS[name]
    with patient_of(scenario.kind, tmp_path, zygote, tally) as patient:
        for command in scenario.before:
            patient.run(command, die_at=point)
            assert keeper_pids(patient.pid), f"the keeper dies later than at '{command}'"
        earlier = set(keeper_pids(patient.pid))
        done = patient.run(scenario.command, die_at=point, expect=None)
        assert done.returncode in (0, 3), str(done)
        tally.add(Count.KILLS_AT_POINTS)
        poll_until(lambda: not earlier & set(keeper_pids(patient.pid)), 10, f"the keeper to die at {point}")
        patient.assert_goes_on()
        if scenario.command == "pre-dump" and point == Point.KEEPER_BEGIN:
            assert done.result["full"] is True, "nobody lends anything"
            assert len(keeper_pids(patient.pid)) == 1, "there is a new one"
        elif scenario.command == "pre-dump":
            poll_until(lambda: not keeper_pids(patient.pid), 10, f"the keeper to die at {point}")
            is_last = point in (f"{Point.KEEPER_ANSWERED}:2", f"{Point.KEEPER_ANSWERED}:3")
            assert is_last or "keeper-lost" in [event.get("subject") for event in done.events]
            assert patient.run("pre-dump").result["full"] is True
        patient.assert_next_commands_are_right()
