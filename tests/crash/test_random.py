"""SIGKILL at random instants, hundreds of times on one target: of predump in each of its commands, and of the keeper.

--seed repeats a run, as far as the machine does.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.crash.patients import Patient, patient_of
from tests.crash.zygote import Zygote
from tests.harness import is_stopped, keeper_pids
from tests.tally import Count, Tally

pytestmark = pytest.mark.usefixtures("targets")

COMMANDS = (
    "pre-dump",
    "pre-dump",
    "dump",
    "pre-dump",
    "run --max-freeze 1us --max-rounds 3",
    "dump --leave-stopped",
    "pre-dump",
    "detach",
    "dump --no-pre-dump",
    "run --leave-stopped",
    "dump --staging 1M",
)
DEFAULT_S = 12.0
LATEST = 1.1
"""A kill comes within so many times what the command took last."""
KILLS_PER_CHECK = 10
KILLS_PER_CHECKPOINT = 50
KEEPER_TURN = 4
"""Every so many turns it is the keeper that dies."""
KINDS = ("selfcheck interruptible", "memory", "tree")


class Killer:
    """Kills again and again, and knows how long each command takes."""

    def __init__(self, patient: Patient, rng: random.Random) -> None:
        self._patient = patient
        self._random = rng
        self._durations_s: dict[str, float] = {}
        for command in COMMANDS:
            self.measure(command)

    def measure(self, command: str) -> None:
        """Run it undisturbed."""
        done = self._patient.run(command, expect=None)
        assert done.returncode in (0, 3), str(done)
        self._durations_s[command] = self._patient.zygote.last_duration_s
        self.go_on()

    def kill_predump(self, command: str) -> str:
        """Whenever; says when it was."""
        patient, delay_s = self._patient, self._random.uniform(0, LATEST * self._durations_s[command])
        done = patient.zygote.run(*patient.words(command), kill_after_s=delay_s, expect=None)
        assert done.returncode in (-signal.SIGKILL, 0, 3), str(done)
        if done.returncode == -signal.SIGKILL:
            patient.tally.add(Count.KILLS_AT_RANDOM)
        return f"predump killed after {delay_s * 1000:.1f} ms of '{command}'"

    def kill_keeper(self, command: str) -> str:
        """While the command works, if there is a keeper then; the command ends well."""
        patient, delay_s = self._patient, self._random.uniform(0, self._durations_s[command])
        running = patient.zygote.begin(*patient.words(command))
        time.sleep(delay_s)  # any instant will do
        for keeper in keeper_pids(patient.pid):
            os.kill(keeper, signal.SIGKILL)
            patient.tally.add(Count.KILLS_AT_RANDOM)
        done = running.finish()
        assert done.returncode in (0, 3), str(done)
        return f"the keeper killed after {delay_s * 1000:.1f} ms of '{command}'"

    def go_on(self) -> None:
        """A target that was told to stop has its dump; it is let run on."""
        if all(map(is_stopped, self._patient.pids)):
            self._patient.assert_dumped()
        self._patient.resume()


@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_random(
    kind: str, zygote: Zygote, tmp_path: Path, tally: Tally, seconds: float | None, rng: random.Random
) -> None:
    end_s = time.monotonic() + (seconds or DEFAULT_S) / len(KINDS)
    with patient_of(kind, tmp_path, zygote, tally) as patient:
        killer = Killer(patient, rng)
        turn = 0
        while turn < KILLS_PER_CHECK or time.monotonic() < end_s:
            turn += 1
            command = COMMANDS[turn % len(COMMANDS)]
            kill = killer.kill_keeper if turn % KEEPER_TURN == 0 else killer.kill_predump
            what = f"turn {turn}: {kill(command)}"
            print(what)
            killer.go_on()
            patient.assert_goes_on()
            if turn % KILLS_PER_CHECK == 0:
                patient.assert_next_commands_are_right()
            if turn % KILLS_PER_CHECKPOINT == 0:
                patient.checkpoint = tmp_path / f"checkpoint-{turn}"
        patient.assert_next_commands_are_right()
