"""Commands of the user's around a dump: before the freeze, after it, and once the dump is on disk.

Each gets one line of JSON on its standard input: `hook` says which one it is, the rest is what is known of the round by
then. None runs while a target is frozen that is to go on.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dumper.events import Emit, HookFinished
from dumper.shellcommand import run_command
from formats.errors import PredumpError
from formats.faults import Point, reached

DEFAULT_TIMEOUT_S = 10.0


class Hook(StrEnum):
    """Which one."""

    BEFORE_FREEZE = "before-freeze"
    AFTER_FREEZE = "after-freeze"
    AFTER_DUMP = "after-dump"


@dataclass(frozen=True, slots=True)
class HookCommands:
    """Shell commands, "" for none, and how long each of them may take."""

    before_freeze: str = ""
    after_freeze: str = ""
    after_dump: str = ""
    timeout_s: float = DEFAULT_TIMEOUT_S


class HookFailed(PredumpError):
    """The command that goes before the freeze failed: there is no dump."""


class Hooks:
    """Those of one attempt at a dump."""

    def __init__(self, commands: HookCommands, emit: Emit, pid: int) -> None:
        self._commands = commands
        self._emit = emit
        self._pid = pid
        self._directory = Path.cwd()
        self._is_due = False
        self._guard: subprocess.Popen[str] | None = None

    @contextmanager
    def around_freeze(self, fields: Mapping[str, object]) -> Iterator[None]:
        """Runs the command before the freeze; `after_freeze` has been called at the end of the block, whatever happens.

        Raises HookFailed.
        """
        commands = self._commands
        if commands.before_freeze and commands.after_freeze:
            self._guard = self._start_guard(self._text(Hook.AFTER_FREEZE, {**fields, "captured": False}))
            reached(Point.HOOK_GUARDED)
        self._is_due = True
        try:
            self._before_freeze(fields)
            yield
        finally:
            self.after_freeze({**fields, "captured": False})

    def after_freeze(self, fields: Mapping[str, object]) -> None:
        """Runs the command, once for each time that the one before the freeze did."""
        if not self._is_due:
            return
        self._is_due = False
        if self._commands.after_freeze:
            self._run(Hook.AFTER_FREEZE, self._commands.after_freeze, fields)

    def after_dump(self, fields: Mapping[str, object]) -> None:
        """Runs the command."""
        if self._commands.after_dump:
            self._run(Hook.AFTER_DUMP, self._commands.after_dump, fields)

    def _before_freeze(self, fields: Mapping[str, object]) -> None:
        command = self._commands.before_freeze
        if command and (problem := self._run(Hook.BEFORE_FREEZE, command, fields)):
            raise HookFailed(
                f"the command to run before the freeze {problem}: {command}",
                hint="Nothing was frozen. Mend the command, or leave --exec-before-freeze out.",
                pid=self._pid,
                hook=Hook.BEFORE_FREEZE.value,
            )
        reached(Point.HOOKED)

    def _run(self, hook: Hook, command: str, fields: Mapping[str, object]) -> str:
        since_ns = time.monotonic_ns()
        text = self._text(hook, fields)
        if hook is Hook.AFTER_FREEZE and self._guard:
            problem = self._run_by_guard(self._guard, text)
        else:
            problem = run_command(command, text, self._commands.timeout_s, self._directory)
        self._emit(
            HookFinished(
                pid=self._pid,
                hook=hook.value,
                ok=not problem,
                message=f"the command to run {hook.value.replace('-', ' the ')} {problem}: {command}"
                if problem
                else "",
                duration_ns=time.monotonic_ns() - since_ns,
            )
        )
        return problem

    def _text(self, hook: Hook, fields: Mapping[str, object]) -> str:
        return json.dumps({"hook": hook.value, "pid": self._pid, **fields}) + "\n"

    def _start_guard(self, text: str) -> "subprocess.Popen[str]":
        commands = self._commands
        try:
            return subprocess.Popen(
                [
                    *(sys.executable, "-S", "-E", "-m", "dumper.hookguard"),
                    *(commands.after_freeze, str(commands.timeout_s), str(self._directory), text),
                ],
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            raise HookFailed(
                f"no process could be started to see to the command to run after the freeze: {error.strerror}",
                hint="Nothing was frozen. Free some memory or processes.",
                pid=self._pid,
                hook=Hook.AFTER_FREEZE.value,
            ) from None

    def _run_by_guard(self, guard: "subprocess.Popen[str]", text: str) -> str:
        answer, _ = guard.communicate(text)
        if answer:
            return str(json.loads(answer))
        # Somebody has ended it: the command may have run by half, and must run.
        return run_command(self._commands.after_freeze, text, self._commands.timeout_s, self._directory)
