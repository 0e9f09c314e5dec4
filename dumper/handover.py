"""The sending side of a handover: the original stands still until it is decided which of the two runs on.

Build    refused, cut off or too late: the original goes on, for nothing runs there without a word
hold     SIGSTOP waits for every thread: should we be killed from now on, it stands still all the same
Go       refused: nothing runs there, the original goes on
         answered: it runs there, the original is killed
         neither: nobody here can know, and the original stays stopped; never are there two
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Never

from dumper.errors import HandoverFailed, HandoverUndecided
from dumper.events import Emit, HandedOver, Notice
from dumper.freeze import Freeze
from dumper.target import gone
from formats.faults import Point, reached
from streams.errors import StreamBroken, StreamCorrupt, StreamRefused
from streams.questions import Build, Built, Go, Offer, Offered, Running
from streams.sender import Asked, Sender

OFFER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverOptions:
    """timeout_s: until the receiver has built the process, and until it says that it runs.

    patience_s: how much longer it is waited for that word, since without it an operator has to look.
    copies_files: what the receiver lacks of the files that the process needs is sent.
    """

    timeout_s: float = 5.0
    patience_s: float = 60.0
    copies_files: bool = False


class Handover:
    """One handover. Made before the first round, since the receiver has to know; `take_place` is the rest of it."""

    def __init__(self, sender: Sender, name: str, options: HandoverOptions) -> None:
        """Raises StreamBroken, StreamRefused, StreamCorrupt, HandoverFailed."""
        self._sender = sender
        self._name = name
        self._options = options
        offered = sender.ask(Offer(), Offered, OFFER_S)
        if offered is None:
            raise HandoverFailed(
                f"the receiver behind {name} does not say whether it restores processes", hint="Start it anew."
            )
        self.is_wanted = offered.restores
        """Whether the receiver brings the process back; if not, it only writes rounds down."""
        self._asked: Asked | None = None

    def ask_to_build(self, sender: Sender) -> None:
        """Right behind the dump, before it is known to have arrived. Raises StreamBroken, StreamRefused."""
        self._sender = sender
        self._asked = sender.start(Build())

    def take_place(self, freeze: Freeze, emit: Emit, round_number: int, confirm: Callable[[], None]) -> None:
        """After `ask_to_build`, within the freeze; whoever comes back may kill the original, which is replaced.

        `confirm` is called when it is built, and may raise HandoverFailed, too.
        Raises TargetGone, HandoverFailed, StreamBroken, StreamRefused, StreamCorrupt: nothing runs there. Raises
        HandoverUndecided: it stays stopped after the freeze.
        """
        assert self._asked
        since_ns = time.monotonic_ns()
        built = self._asked.wait(Built, self._options.timeout_s)
        if built is None:
            raise HandoverFailed(
                f"the process was not ready to run at {self._name} within {self._options.timeout_s:g} s",
                hint="It goes on here. Look what the receiver waits for, or raise --handover-timeout on both sides.",
            )
        reached(Point.HANDOVER_BUILT)
        for process in freeze.processes:
            if process.target.has_ended:
                raise gone(process.target.pid)
        confirm()
        freeze.hold()
        reached(Point.HANDOVER_HELD)
        running = self._word(freeze, emit)
        reached(Point.HANDOVER_HEARD)
        emit(
            HandedOver(
                pid=freeze.processes[0].target.pid,
                round=round_number,
                pids=running.pids,
                downtime_ns=freeze.frozen_ns,
                handover_ns=time.monotonic_ns() - since_ns,
                build_ns=built.build_ns,
                hook_ns=running.hook_ns,
                resume_ns=running.resume_ns,
            )
        )

    def _word(self, freeze: Freeze, emit: Emit) -> Running:
        """What comes back when it is to run there. Raises StreamRefused: it does not."""
        try:
            running = self._ask_to_run(freeze, emit)
        except StreamRefused:
            freeze.take_hold_back()
            raise
        except (StreamBroken, StreamCorrupt) as error:
            self._undecided(freeze, error.message.rstrip("."))
        except BaseException:  # an interrupt, by whatever signal
            self._undecided(freeze, "it was not waited for any longer")
        if running is None:
            waited_s = self._options.timeout_s + self._options.patience_s
            self._undecided(freeze, f"there was no word from {self._name} for {waited_s:g} s")
        if not running.is_known:
            self._undecided(freeze, "the receiver was killed when it was about to let it run, and it is not there now")
        return running

    def _ask_to_run(self, freeze: Freeze, emit: Emit) -> Running | None:
        answer = self._sender.start(Go())
        reached(Point.HANDOVER_SENT)
        running = answer.wait(Running, self._options.timeout_s)
        if running is not None or not self._options.patience_s:
            return running
        pid = freeze.processes[0].target.pid
        emit(
            Notice(
                pid=pid,
                subject="handover-waiting",
                message=f"{self._name} does not say whether the process runs there: process {pid} stays frozen, and "
                f"it is asked for {self._options.patience_s:g} s more",
            )
        )
        return answer.wait(Running, self._options.patience_s)

    def _undecided(self, freeze: Freeze, why: str) -> Never:
        pids = [process.target.pid for process in freeze.processes]
        words = " ".join(map(str, pids))
        raise HandoverUndecided(
            f"nobody can tell whether process {pids[0]} runs at {self._name}: {why}; here it stays stopped",
            hint=f"Look there. If it runs: kill -KILL {words}. If it does not, and only then: kill -CONT {words}.",
            pid=pids[0],
        ) from None
