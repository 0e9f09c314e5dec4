"""Where a command's events, result and errors go: JSON Lines on stdout, or text for people."""

import json
import os
import sys
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from display.units import clip, printable

if TYPE_CHECKING:
    from rich.console import Console

SENTENCE_MAX = 4000  # characters: a path may have almost so many
PIPE_COLUMNS = 160  # in a pipe there is no edge to break lines at


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console  # loading it takes longer than many a command with --json that needs none

    return Console(stderr=stderr, soft_wrap=True, emoji=False)  # :bug: in a path means itself


def _sentence(text: str) -> str:
    """One line that ends like a sentence; images and names of files may be hostile, and endless."""
    text = printable(clip(text, SENTENCE_MAX))
    return text if text.endswith((".", "?", "!")) else f"{text}."


class Reporter:
    """Where a command's events, result and errors go: JSON Lines on stdout, or text for people."""

    def __init__(self, command: str, *, as_json: bool) -> None:
        self.command = command
        self.as_json = as_json
        self._out_is_free = True
        self._in_line = False

    def leave_stdout(self) -> None:
        """Standard output carries something else: from now on everything goes to standard error."""
        self._out_is_free = False

    @cached_property
    def errors(self) -> "Console":
        """Progress, logs and errors."""
        return _console(stderr=True)

    @cached_property
    def out(self) -> "Console":
        """Results."""
        console = _console(stderr=not self._out_is_free)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = PIPE_COLUMNS
        return console

    def event(self, event: dict[str, object]) -> None:
        """One JSON line; nothing without --json."""
        if self.as_json:
            if self._in_line:
                sys.stdout.write("\n")  # a long line that was interrupted is none, but what follows it is one
            # In one piece: a signal between text and newline would join this line with the error's.
            lines = sys.stdout if self._out_is_free else sys.stderr
            lines.write(json.dumps({"type": event["type"], "command": self.command} | event) + "\n")
            lines.flush()

    def notice(self, subject: str, message: str) -> None:
        """Something the user should know, at once; `subject` names it for programs."""
        self.event({"type": "notice", "subject": subject, "message": message})
        if not self.as_json:
            self.errors.print(_sentence(message), highlight=False, markup=False)

    def finding(self, text: str) -> None:
        """A line of the result for people, as an image may have it: nothing of it drives the terminal."""
        if not self.as_json:
            self.out.print(printable(text), highlight=False, markup=False)

    def plain(self, lines: Iterable[str]) -> None:
        """Many lines of the result for people, as they are to be printed, without style."""
        out = sys.stdout if self._out_is_free else sys.stderr
        out.writelines(f"{printable(line)}\n" for line in lines)
        out.flush()

    def result(self, fields: dict[str, object], text: str, exit_code: int = 0) -> None:
        """The last event, or its text."""
        if self.as_json:
            self.event(fields | {"type": "result", "exit_code": exit_code})
        elif text:
            self.out.print("\n".join(map(printable, text.split("\n"))), highlight=False, markup=False)

    def long_result(self, fields: dict[str, object], name: str, text: Iterable[str] | None, exit_code: int) -> None:
        """The last event, with one more field whose JSON text comes in pieces (None: without it)."""
        if not self.as_json or text is None:
            self.result(fields, "", exit_code)
            return
        event = {"type": "result", "command": self.command, **fields, "exit_code": exit_code}
        lines = sys.stdout if self._out_is_free else sys.stderr
        self._in_line = True
        lines.write(f"{json.dumps(event)[:-1]}, {json.dumps(name)}: ")
        lines.writelines(text)
        lines.write("}\n")
        lines.flush()
        self._in_line = False

    def error(self, message: str, hint: str, exit_code: int, fields: dict[str, str | int]) -> None:
        """What happened and what to do about it."""
        if self.as_json:
            self.event(
                {
                    **fields,
                    "type": "error",
                    "message": message,
                    "hint": hint,
                    "exit_code": exit_code,
                }
            )
            if not self._out_is_free:
                return  # its JSON line is on standard error already
        self.complaint(message, hint)

    def complaint(self, message: str, hint: str) -> None:
        """What is wrong and what to do about it, on standard error, where the result says it, too."""
        self.errors.print(f"predump: {_sentence(message)}", style="red", highlight=False, markup=False)
        if hint:
            self.errors.print(f"  {_sentence(hint)}", highlight=False, markup=False)
