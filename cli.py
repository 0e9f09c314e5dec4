"""The command line: options in, exit code out. The one place where an exception becomes an exit code."""

import errno
import functools
import io
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from types import FrameType

import click

from display.reporter import Reporter
from formats.errors import PredumpError

EXIT_INTERRUPTED = 130
SHORTAGES = {
    errno.ENOMEM: ("there is not enough memory", "Free some, raise its limit (ulimit -v), or use less with --staging"),
    errno.EMFILE: ("predump may not open so many files", "Raise the limit on open files (ulimit -n)"),
    errno.ENFILE: ("too many files are open on this host", "Close some, or raise fs.file-max"),
}
"""What may run short anywhere, and what to do about it."""
NO_THREAD = ("can't start new thread",)  # a RuntimeError with no type of its own: Modules/_threadmodule.c of CPython
UNCOMMITTED_HINT = "What was not committed is not part of the checkpoint"
INTERRUPTED_HINTS = {
    "restore": "What was not running yet is gone again",
    "rewind": "If the process is stopped, rewind it again",
}
"""What an interruption leaves behind, where that is no round."""
USAGE_HINT = "Add --help to the command to see its options"


class Interrupted(BaseException):
    """SIGTERM or SIGHUP arrived; like KeyboardInterrupt it must not be caught on the way."""


COMMANDS = {
    "check": "live",
    "pre-dump": "live",
    "dump": "live",
    "run": "run",
    "detach": "live",
    "observe": "observe",
    "inspect": "inspect",
    "read": "read",
    "search": "search",
    "diff": "diff",
    "verify": "verify",
    "export": "export",
    "flatten": "flatten",
    "report": "report",
    "send": "send",
    "receive": "receive",
    "restore": "restore",
    "rewind": "rewind",
    "keys": "keys",
}
"""The module of `commands` with the function of each command."""


class _Commands(click.Group):
    """Loads a command when it is asked for: each has some modules of its own, and reading a page is to be quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        function = getattr(import_module(f"commands.{COMMANDS[cmd_name]}"), cmd_name.replace("-", "_"))
        return _command(cmd_name, function)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="predump", prog_name="predump")
def cli() -> None:
    """Captures memory and state of a running process with almost no pause.

    \b
    A first session, on a process of yours:
      predump check                      can this machine do it?
      predump pre-dump -p PID -D /tmp/ck take a round; the process is not frozen
      predump dump -p PID -D /tmp/ck     freeze it for a moment, take the rest
      predump inspect /tmp/ck            look at what was captured
    """


def _command(name: str, function: Callable[..., int]) -> click.Command:
    """A command of a function that returns its exit code, with the options that all commands have."""

    @functools.wraps(function)
    def guarded(*, as_json: bool, debug: bool, **options: object) -> None:
        context = click.get_current_context()
        reporter = Reporter(name, as_json=as_json)
        context.exit(_guarded(name, functools.partial(function, reporter, **options), reporter, debug))

    made = click.command(name)(guarded)
    made.params += [
        click.Option(["--json", "as_json"], is_flag=True, help="JSON Lines on stdout instead of text."),
        click.Option(["--debug"], is_flag=True, help="Show a traceback when something goes wrong."),
    ]
    return made


def _guarded(name: str, action: Callable[[], int], reporter: Reporter, debug: bool) -> int:
    """Runs a command; every exception ends here, as an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return action()
    except click.ClickException:
        raise  # wrong usage, which `main` reports
    except PredumpError as error:
        if debug:
            _print_traceback()
        reporter.error(error.message, error.hint, error.exit_code, error.fields)
        return error.exit_code
    except (KeyboardInterrupt, Interrupted):
        reporter.error("interrupted", INTERRUPTED_HINTS.get(name, UNCOMMITTED_HINT), EXIT_INTERRUPTED, {})
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more: end without a word, as other tools do
        return 1
    except Exception as error:
        if debug:
            _print_traceback()
        no_memory = isinstance(error, MemoryError) or error.args == NO_THREAD
        shortage = SHORTAGES.get(errno.ENOMEM if no_memory else getattr(error, "errno", 0))
        if shortage:
            reporter.error(*shortage, 1, {})
            return 1
        what = f"{type(error).__name__}: {error}"
        reporter.error(f"internal error: {what}", "Run it again with --debug and report the traceback", 1, {})
        return 1


def _print_traceback() -> None:
    import traceback  # noqa: PLC0415 -- what it needs would be loaded each time

    traceback.print_exc()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


def main() -> None:
    """Entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may have bytes that the terminal's encoding lacks
    try:
        sys.exit(cli(prog_name="predump", standalone_mode=False))
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        if "--json" in sys.argv:
            name = str(context.info_name) if context else "predump"
            fields: dict[str, str | int] = {}
            Reporter(name, as_json=True).error(error.format_message(), USAGE_HINT, error.exit_code, fields)
        else:
            error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
