"""What the engine says while it works. Names and units are those of the contract's JSON events."""

from collections.abc import Callable
from dataclasses import dataclass, field

from dumper.heat import HotVma
from dumper.workingset import Window
from formats.restorable import Obstacle


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; `type` tells which."""

    type: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached(Event):
    """Tracking began: the target was stopped once, for `attach_stop_ns`."""

    type: str = "attached"
    threads: int
    attach_stop_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundStarted(Event):
    """A round begins; a full one says why it cannot build on an earlier one."""

    type: str = "round-start"
    round: int
    kind: str
    full: bool
    full_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundProgress(Event):
    """Pages dealt with so far; `pages_expected` is an estimate, 0 if there is none."""

    type: str = "progress"
    round: int
    pages_done: int
    pages_expected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroRound(Event):
    """A micro-round before the freeze: what was written since the one before was copied again."""

    type: str = "micro-round"
    pages_written: int
    duration_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFinished(Event):
    """A round is on disk. `prediction_error_percent`: by how much more than the freeze took had been predicted."""

    type: str = "round"
    round: int
    kind: str
    full: bool
    full_reason: str
    streamed_while_frozen: bool
    freeze_by: str
    processes: int
    missing: int
    restorable: bool
    obstacles: list[Obstacle]
    differences: int
    pages_present: int
    pages_written: int
    pages_data: int
    pages_zero: int
    pages_parent: int
    pages_deferred: int
    pages_unreadable: int
    raw_bytes: int
    stored_bytes: int
    duration_ns: int
    frozen_ns: int
    attach_stop_ns: int
    scan_ns: int
    copy_ns: int
    micro_rounds: int
    predicted_freeze_ns: int
    prediction_error_percent: int
    pages_copied_frozen: int
    stop_ns: int
    state_ns: int
    maps_ns: int
    holes_ns: int
    clone_ns: int
    stream_ns: int
    resume_ns: int
    injected_calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted(Event):
    """What a freeze now would cost (0: not known yet), and what the policy makes of it."""

    type: str = "prediction"
    round: int
    predicted_freeze_ns: int
    decision: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed(Event):
    """What was seen of a target since the sample before, in `period_ns`; a page counts once a tick.

    `working_set` is of all ticks so far, `vmas` are the hottest of the period.
    """

    type: str = "sample"
    elapsed_ns: int
    period_ns: int
    ticks: int
    processes: int
    pages_present: int
    pages_written: int
    pages_written_per_s: float
    bytes_written_per_s: float
    working_set: list[Window]
    vmas: list[HotVma]


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFinished(Event):
    """A command of the user's has run, `hook` says which; `message` is what went wrong, "" if `ok`."""

    type: str = "hook"
    hook: str
    ok: bool
    message: str
    duration_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver(Event):
    """The process runs at the receiver, with `pids` there; the original is killed."""

    type: str = "handover"
    round: int
    pids: list[int]
    downtime_ns: int
    handover_ns: int
    build_ns: int
    hook_ns: int
    resume_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something the user should know; `subject` names it for programs."""

    type: str = "notice"
    subject: str
    message: str
    fields: dict[str, str | int] = field(default_factory=dict)


Emit = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """An Emit for those who do not want to know."""


class Announcer:
    """Passes events on; between `hold` and `release` it keeps them: whoever listens may be slow."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._held: list[Event] = []
        self._is_holding = False

    def __call__(self, event: Event) -> None:
        """Passes it on, now or at `release`."""
        if self._is_holding:
            self._held.append(event)
        else:
            self._emit(event)

    def hold(self) -> None:
        """Keeps what comes from now on."""
        self._is_holding = True

    def release(self) -> None:
        """Passes on what was kept; a second call does nothing."""
        self._is_holding = False
        held, self._held = self._held, []
        for event in held:
            self._emit(event)
