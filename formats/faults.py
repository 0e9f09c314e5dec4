"""Named points at which a test has predump killed: the target must go on, and no round be half there.

With PREDUMP_DIE_AT=POINT in the environment, the process that finds it there is killed with SIGKILL as soon as it, or a
child that works for it, reaches that point; with POINT:N, when it does so for the Nth time. Without it nothing happens.
The keeper is a process of its own: it inherits the environment, and dies at its own points only. So does the server of
pages of a lazy restore, which stops there with SIGSTOP: then it is known how far it came.

A restore makes its processes by calls in them. With PREDUMP_FAIL_CALL=N[:ERRNO] the Nth of those fails with that error
(EPERM by default) instead of being made.

The points lie where a death leaves something half done. Those called inject-*, ask-*, clone-*, reap-* and guard-* are
steps of the native library, in the midst of a call that is injected into a target.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from enum import StrEnum

VARIABLE = "PREDUMP_DIE_AT"
FAIL_VARIABLE = "PREDUMP_FAIL_CALL"


class Point(StrEnum):
    """In the order in which a command comes to them."""

    # The target is stopped for its userfaultfd.
    ATTACH_FOUND = "attach-found"
    """Where to inject is known, nothing was touched."""
    STOPPED = "stopped"
    """One process, to attach to it or for the dump; others may not be."""
    INJECT_FRAMES = "inject-frames"
    INJECT_SET = "inject-set"
    INJECT_ENTERED = "inject-entered"
    INJECT_RETURNED = "inject-returned"
    INJECT_TAKEN = "inject-taken"
    INJECT_CLOSED = "inject-closed"
    ATTACH_TAKEN = "attach-taken"
    """The call is over, all stand still."""
    ATTACH_RESUMED = "attach-resumed"
    ATTACH_ENABLED = "attach-enabled"
    """The userfaultfd is ready, no memory is registered yet."""
    ATTACHED = "attached"
    """One process of the session, others may not be."""
    REGISTERED = "registered"

    # The keeper is found, or started.
    BORROWED = "borrowed"
    KEEPER_BOUND = "keeper-bound"
    """There is a socket, and nobody who answers it."""
    KEEPER_STARTED = "keeper-started"
    KEEPER_CONNECTED = "keeper-connected"

    # A round.
    ROUND_MADE = "round-made"
    """Its directory."""
    SCANNED = "scanned"
    """Written pages were reset, and are not copied yet."""
    SUBMITTED = "submitted"
    """Some pages are on their way to the disk."""
    FLUSHED = "flushed"
    FILES_SYNCED = "files-synced"
    """All files but the manifest are durable."""
    MANIFEST_WRITTEN = "manifest-written"
    """Under its temporary name."""
    MANIFEST_RENAMED = "manifest-renamed"
    """The round exists, its name may not be durable yet."""
    COMMITTED = "committed"
    HELD = "held"
    """The keeper has the userfaultfds, and knows nothing of the round."""
    TOLD = "told"
    """It knows of the round."""

    # A flattened round takes the place of others.
    FLATTEN_BEGUN = "flatten-begun"
    """There is a place for it."""
    FLATTEN_WRITTEN = "flatten-written"
    """It is whole, and nobody refers to it."""
    FLATTEN_SWAPPED = "flatten-swapped"
    FLATTEN_MOVED = "flatten-moved"
    """One earlier round is out of the checkpoint."""
    FLATTEN_REPLACED = "flatten-replaced"
    """All are, what is left is to remove them."""
    FLATTEN_REMOVED = "flatten-removed"
    """One of them."""

    # The dump.
    PREPARED = "prepared"
    HOOK_GUARDED = "hook-guarded"
    """The command before the freeze is about to run, and somebody waits to run the one after it."""
    HOOKED = "hooked"
    """It has run."""
    MICRO_ROUND = "micro-round"
    FORESEEN = "foreseen"
    """The undertaker waits, if there is to be a clone."""
    FROZEN = "frozen"
    """All are stopped."""
    SETTLED = "settled"
    ASK_FRAMES = "ask-frames"
    ASK_SET = "ask-set"
    ASK_MASKED = "ask-masked"
    ASK_ENTERED = "ask-entered"
    ASK_RETURNED = "ask-returned"
    ASK_AGAIN = "ask-again"
    ASK_CHAIN = "ask-chain"
    ASK_CHAINED = "ask-chained"
    ASK_UNMASKED = "ask-unmasked"
    ASK_REGISTERS = "ask-registers"
    ASK_PARTLY = "ask-partly"
    CONNECTIONS_HELD = "connections-held"
    """Another process has the TCP connections, too, and is about to lock them."""
    CONNECTIONS_TAKEN = "connections-taken"
    """They are locked and read."""
    ASKED = "asked"
    CLONE_FRAMES = "clone-frames"
    CLONE_SET = "clone-set"
    CLONE_ENTERED = "clone-entered"
    CLONE_RETURNED = "clone-returned"
    CLONE_HELD = "clone-held"
    """The clone would die with us."""
    CLONE_ANNOUNCED = "clone-announced"
    """The undertaker knows of it."""
    CLONED = "cloned"
    """One process, others may not be."""
    COPIED = "copied"
    OBJECTS_COPIED = "objects-copied"
    STREAMED = "streamed"
    """What did not fit the staging memory was written."""
    CONNECTIONS_DOOMED = "connections-doomed"
    """The dump is on disk: processes will be killed, and TCP connections end without a word."""
    SIGNALLED = "signalled"
    """SIGSTOP or SIGKILL was sent to one process."""
    THAWING = "thawing"
    THAWED = "thawed"
    RELEASED_FILES = "released-files"
    """The clone has no descriptors of the target any more."""
    WRITTEN = "written"
    CLONE_ENDED = "clone-ended"
    """It is a zombie of the target."""
    REAP_FRAMES = "reap-frames"
    REAP_SET = "reap-set"
    REAP_ENTERED = "reap-entered"
    REAP_RETURNED = "reap-returned"
    REAPED = "reaped"
    UNTRACKED = "untracked"
    """One process; the keeper still has it."""
    RELEASED = "released"

    # A process is rewound.
    REWIND_PLANNED = "rewind-planned"
    """All is read and checked, nothing is changed."""
    REWIND_GUARDED = "rewind-guarded"
    """From now on the process stops if we die."""
    GUARD_LED = "guard-led"
    GUARD_ENTERED = "guard-entered"
    GUARD_CALLS = "guard-calls"
    GUARD_CALLED = "guard-called"
    REWIND_MAPPED = "rewind-mapped"
    """Its mappings are those of then."""
    REWIND_WRITTEN = "rewind-written"
    """Its memory is that of then."""
    REWIND_SET = "rewind-set"
    """One thread is as it was, others may not be."""

    # In a receiver that keeps a journal; a round is committed there as everywhere.
    RECEIVED = "received"
    """A message is in its place, and the journal does not say so."""
    JOURNALED = "journaled"
    """It says so, the sender was not told."""
    ACKNOWLEDGED = "acknowledged"
    INTENDED = "intended"
    """The journal says that the round is about to be committed."""
    RENEWED = "renewed"
    """A new journal begins behind a committed round."""

    # In a receiver that brings the process back.
    TAKEOVER_BUILT = "takeover-built"
    """It stands there, and nobody knows."""
    TAKEOVER_RECORDED = "takeover-recorded"
    """It is written down that it runs, which it does not yet."""
    TAKEOVER_RUNS = "takeover-runs"
    """It runs, and the sender does not know."""

    # In the sender, with the original frozen.
    HANDOVER_BUILT = "handover-built"
    """The receiver has built it; the original would go on without us."""
    HANDOVER_HELD = "handover-held"
    """It would not any more, and the receiver has no word to let its own run."""
    HANDOVER_SENT = "handover-sent"
    """The receiver gets the word."""
    HANDOVER_HEARD = "handover-heard"
    """It runs there, and the original was not killed."""

    # In the keeper.
    KEEPER_BEGIN = "keeper-begin"
    KEEPER_LENT = "keeper-lent"
    """It has answered, and sent the userfaultfds."""
    KEEPER_HOLD = "keeper-hold"
    KEEPER_COMMIT = "keeper-commit"
    KEEPER_RELEASE = "keeper-release"
    KEEPER_ANSWERED = "keeper-answered"
    """Any of these, but for one that it lends something for."""

    # The CPU time of the target is limited, by a governor.
    GOVERNOR_MADE = "governor-made"
    """There is a cgroup, and nobody in it."""
    GOVERNOR_MOVED = "governor-moved"
    """The target is in it."""
    GOVERNOR_STOPPED = "governor-stopped"
    """In place of a cgroup: what ran is stopped for a moment."""
    GOVERNOR_LIFTED = "governor-lifted"
    """There is no limit any more, and the target is still in the cgroup."""
    THROTTLED = "throttled"
    """The target is limited, as predump knows."""
    UNTHROTTLED = "unthrottled"

    # A restore.
    RESTORE_SHELLS = "restore-shells"
    """All processes are there, empty."""
    RESTORE_CALL = "restore-call"
    """A call is about to be made in one of them."""
    RESTORE_BUILT = "restore-built"
    """All is done but their registers."""
    RESTORE_SET = "restore-set"
    """They are about to be let go."""
    RESTORED = "restored"

    # In the server of pages of a lazy restore.
    LAZY_PIECE = "lazy-piece"
    """It has brought some pages that nobody had asked for, others are missing."""


class _Death:
    """The death that is wanted, if any."""

    def __init__(self) -> None:
        self.point: Point | None = None
        self.victim_pid = 0
        self.signal = signal.SIGKILL
        self._passes_left = 0

    def want(self, text: str) -> None:
        name, _, times = text.partition(":")
        self.point = Point(name) if name else None
        self._passes_left = int(times or 1) - 1
        self.victim_pid = os.getpid()

    def is_due(self) -> bool:
        """Whether the point was passed often enough."""
        self._passes_left -= 1
        return self._passes_left < 0


_death = _Death()


def die_at(text: str) -> None:
    """Wants the death of this process as PREDUMP_DIE_AT would, "" for none. Raises ValueError for no point."""
    _death.want(text)


def stop_instead() -> None:
    """This process, a child of the one in which a death is wanted, stops where that would die."""
    _death.victim_pid, _death.signal = os.getpid(), signal.SIGSTOP


def reached(point: Point) -> None:
    """Kills the process if it is to die here."""
    if point is _death.point and _death.is_due():
        _death.point = None  # whoever only stops goes on some time
        os.kill(_death.victim_pid, _death.signal)


def native_step(steps: Mapping[Point, int]) -> tuple[int, int]:
    """The step of a native call at which it is to kill a process, and the pid of that; (0, 0) if at none."""
    point = _death.point
    if point is None or point not in steps or not _death.is_due():
        return 0, 0
    return steps[point], _death.victim_pid


class _Failure:
    """The injected call that is to fail, if any."""

    def __init__(self) -> None:
        self._calls_left = -1
        self._errno = errno.EPERM

    def want(self, text: str) -> None:
        number, _, error = text.partition(":")
        self._calls_left = int(number or 0) - 1
        self._errno = int(getattr(errno, error)) if error else errno.EPERM

    def take(self) -> int:
        """Its errno if the next call is the one, 0 otherwise."""
        self._calls_left -= 1
        return self._errno if self._calls_left == -1 else 0

    @property
    def is_wanted(self) -> bool:
        return self._calls_left >= 0


_failure = _Failure()


def fail_call(text: str) -> None:
    """Wants an injected call to fail as PREDUMP_FAIL_CALL would, "" for none. Raises ValueError, AttributeError."""
    _failure.want(text)


def calls_one_by_one() -> bool:
    """Whether a fault lies in an injected call: then each is made by itself, after `before_call`."""
    return _failure.is_wanted or _death.point is Point.RESTORE_CALL


def before_call() -> int:
    """The errno with which the next injected call is to fail, 0 if it is to be made; kills if it is to die here."""
    reached(Point.RESTORE_CALL)
    return _failure.take()


die_at(os.environ.get(VARIABLE, ""))
fail_call(os.environ.get(FAIL_VARIABLE, ""))
