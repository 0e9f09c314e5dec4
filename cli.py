"""The command line: options in, exit code out. The one place where an exception becomes an exit code."""

import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from display.reporter import Reporter
from display.units import bytes_text, duration_text
from formats.errors import PredumpError, UsageError

EXIT_NOT_CONVERGED = 3
EXIT_INTERRUPTED = 130
USAGE_HINT = "Add --help to the command to see its options"
MAX_DEFAULT_THREADS = 8
READ_MAX_BYTES = 1 << 30

if TYPE_CHECKING:  # the engine is loaded by the commands that need it: reading images starts without it
    from dumper.events import Emit, RoundFinished
    from dumper.session import Session


class WorkOptions(TypedDict):
    """The options of `work_options`."""

    level: int
    threads: int
    staging: int
    quiet: bool


class Interrupted(BaseException):
    """SIGTERM or SIGHUP arrived; like KeyboardInterrupt it must not be caught on the way."""


class Duration(click.ParamType[int]):
    """A time such as 20ms, 1.5s or 2 (seconds), as nanoseconds."""

    name = "time"
    UNITS = (("us", 1e3), ("ms", 1e6), ("s", 1e9), ("", 1e9))

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip().lower()
        unit, factor = next(u for u in self.UNITS if text.endswith(u[0]))
        try:
            ns = int(float(text.removesuffix(unit)) * factor)
        except (ValueError, OverflowError):
            ns = -1
        if ns < 0:
            self.fail(f"{value!r} is no time; write for example 20ms, 1.5s or 2", param, ctx)
        return ns


class Size(click.ParamType[int]):
    """A number of bytes such as 64M, 1G or 4096."""

    name = "size"
    UNITS = (("k", 1 << 10), ("m", 1 << 20), ("g", 1 << 30), ("", 1))

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip().lower().removesuffix("ib").removesuffix("b")
        unit, factor = next(u for u in self.UNITS if text.endswith(u[0]))
        try:
            n_bytes = int(float(text.removesuffix(unit)) * factor)
        except (ValueError, OverflowError):
            n_bytes = 0
        if n_bytes <= 0:
            self.fail(f"{value!r} is no size; write for example 64M or 1G", param, ctx)
        return n_bytes


class Address(click.ParamType[int]):
    """A number, hexadecimal with 0x in front."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(str(value), 0)
        except ValueError:
            number = -1
        if number < 0:
            self.fail(f"{value!r} is no number; write 4096 or 0x7f0000001000", param, ctx)
        return number


def command(function: Callable[..., int]) -> Callable[..., None]:
    """A command that returns its exit code; adds the options that all commands have."""

    @click.option("--json", "as_json", is_flag=True, help="JSON Lines on stdout instead of text.")
    @click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
    @functools.wraps(function)
    def wrapped(*, as_json: bool, debug: bool, **options: object) -> None:
        context = click.get_current_context()
        reporter = Reporter(str(context.info_name), as_json=as_json)
        context.exit(_guarded(functools.partial(function, reporter, **options), reporter, debug))

    return wrapped


def _guarded(action: Callable[[], int], reporter: Reporter, debug: bool) -> int:
    """Runs a command; every exception ends here, as an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return action()
    except PredumpError as error:
        if debug:
            traceback.print_exc()
        reporter.error(error.message, error.hint, error.exit_code, error.fields)
        return error.exit_code
    except (KeyboardInterrupt, Interrupted):
        reporter.error(
            "interrupted",
            "What was not committed is not part of the checkpoint",
            EXIT_INTERRUPTED,
            {},
        )
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more: end without a word, as other tools do
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        reporter.error(f"internal error: {what}", "Run it again with --debug and report the traceback", 1, {})
        return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


def target_options(function: Callable[..., None]) -> Callable[..., None]:
    """-t/--tree and -p/--pid, of which exactly one is needed; the command gets `pid`."""

    @click.option(
        "-t",
        "--tree",
        type=click.IntRange(min=1),
        metavar="PID",
        help="The process (its children are not taken yet).",
    )
    @click.option("-p", "--pid", type=click.IntRange(min=1), metavar="PID", help="The process.")
    @functools.wraps(function)
    def wrapped(*, tree: int | None, pid: int | None, **options: object) -> None:
        if (tree is None) == (pid is None):
            raise click.UsageError("name one process, with -t PID or -p PID")
        function(pid=tree if pid is None else pid, **options)

    return wrapped


def directory_option(function: Callable[..., None]) -> Callable[..., None]:
    """-D/--images-dir."""
    return click.option(
        "-D",
        "--images-dir",
        "directory",
        type=click.Path(path_type=Path),
        required=True,
        metavar="DIR",
        help="The checkpoint; made if it is missing.",
    )(function)


def work_options(function: Callable[..., None]) -> Callable[..., None]:
    """How to compress, and with how much memory."""
    for option in (
        click.option("--level", type=click.IntRange(-7, 19), default=1, show_default=True, help="zstd level."),
        click.option(
            "--threads",
            type=click.IntRange(1, 64),
            default=lambda: min(os.cpu_count() or 1, MAX_DEFAULT_THREADS),
            show_default="one a processor",
            help="Threads that compress.",
        ),
        click.option(
            "--staging",
            type=Size(),
            default="256M",
            show_default=True,
            help="Memory that takes the last pages while the target is frozen.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
    ):
        function = option(function)
    return function


def after_options(function: Callable[..., None]) -> Callable[..., None]:
    """What becomes of the target."""
    for after, text in (
        ("kill", "Kill the target once the dump is on disk."),
        ("leave-stopped", "Leave the target stopped (SIGSTOP)."),
        ("leave-running", "Let the target run on (default)."),
    ):
        function = click.option(f"--{after}", "after", flag_value=after, type=str, default="leave-running", help=text)(
            function
        )
    return function


@contextmanager
def _session(reporter: Reporter, pid: int, directory: Path, work: WorkOptions) -> Iterator["Session"]:
    from dumper.events import Event
    from dumper.rounds import Options
    from dumper.session import Session

    options = Options(level=work["level"], compress_threads=work["threads"], staging_bytes=work["staging"])

    def emit_json(event: Event) -> None:
        reporter.event(asdict(event))

    with ExitStack() as stack:
        emit: Emit = emit_json
        if not reporter.as_json:
            from display.progress import ProgressView

            emit = stack.enter_context(ProgressView(reporter.errors, quiet=work["quiet"]))
        yield stack.enter_context(Session(pid, directory, options, emit))


def _checkpoint_fields(finished: "RoundFinished", directory: Path) -> dict[str, object]:
    return asdict(finished) | {"checkpoint": str(directory.absolute())}


def _dump_text(finished: "RoundFinished", directory: Path, after: str) -> str:
    fate = {"leave-running": "runs on", "leave-stopped": "is stopped", "kill": "was killed"}[after]
    return (
        f"{directory}: process {finished.pid} dumped in round {finished.round}, frozen for "
        f"{duration_text(finished.frozen_ns)}; it {fate}."
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


@cli.command()
@command
def check(reporter: Reporter) -> int:
    """Say what this host can do, and what to do about what is missing.

    \b
    Each feature is tried, not looked up by version. Exit code 12: the kernel
    lacks something that is needed; 11: a privilege is missing.
      predump check
    """
    from display.checks import checks_table
    from dumper.checks import run_checks

    checks = run_checks()
    exit_code = max((c.exit_code for c in checks if c.required and not c.ok), default=0)
    for item in checks:
        reporter.event({"type": "check", **asdict(item)})
    if not reporter.as_json:
        reporter.out.print(checks_table(checks))
    verdict = "This host can pre-dump." if exit_code == 0 else "This host lacks something that predump needs."
    reporter.result({"ok": exit_code == 0}, verdict, exit_code)
    return exit_code


@cli.command("pre-dump")
@target_options
@directory_option
@work_options
@command
def pre_dump(reporter: Reporter, pid: int, directory: Path, **work: Unpack[WorkOptions]) -> int:
    """Take one round without freezing the target.

    \b
    Tracking stays armed: the next round holds only what was written since.
      predump pre-dump -p 1234 -D /var/tmp/ck
    """
    with _session(reporter, pid, directory, work) as session:
        finished = session.pre_dump()
    reporter.result(
        _checkpoint_fields(finished, directory),
        f"{directory}: round {finished.round} is complete. Take another, or finish with: "
        f"predump dump -p {pid} -D {directory}",
    )
    return 0


@cli.command()
@target_options
@directory_option
@after_options
@click.option("--no-pre-dump", is_flag=True, help="Take no unfrozen round before.")
@work_options
@command
def dump(
    reporter: Reporter,
    pid: int,
    directory: Path,
    after: str,
    no_pre_dump: bool,
    **work: Unpack[WorkOptions],
) -> int:
    """Freeze the target for a moment and dump what is left.

    \b
    On a new checkpoint an unfrozen round is taken first, so that the frozen
    part is small. Tracking ends with the dump.
      predump dump -p 1234 -D /var/tmp/ck
      predump dump -p 1234 -D /var/tmp/ck --kill
    """
    from dumper.rounds import AfterDump

    with _session(reporter, pid, directory, work) as session:
        finished = session.dump(AfterDump(after), pre_dump=not no_pre_dump)
    reporter.result(_checkpoint_fields(finished, directory), _dump_text(finished, directory, after))
    return 0


@cli.command()
@target_options
@directory_option
@after_options
@click.option(
    "--max-rounds",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Rounds before the dump, at most.",
)
@click.option(
    "--max-freeze",
    type=Duration(),
    default="20ms",
    show_default=True,
    help="Dump once a freeze is predicted to fit this.",
)
@click.option("--interval", type=Duration(), default="0s", show_default=True, help="Pause between rounds.")
@click.option(
    "--timeout",
    type=Duration(),
    default="60s",
    show_default=True,
    help="Dump after this time in any case.",
)
@work_options
@command
def run(
    reporter: Reporter,
    pid: int,
    directory: Path,
    after: str,
    max_rounds: int,
    max_freeze: int,
    interval: int,
    timeout: int,
    **work: Unpack[WorkOptions],
) -> int:
    """Take rounds until the freeze will be short, then dump.

    \b
    Exit code 3: dumped, but the freeze was not predicted to fit.
      predump run -p 1234 -D /var/tmp/ck --max-freeze 5ms
    """
    from dumper.convergence import Decision, Policy
    from dumper.rounds import AfterDump

    policy = Policy(max_freeze_ns=max_freeze, max_rounds=max_rounds, timeout_ns=timeout)
    with _session(reporter, pid, directory, work) as session:
        finished, verdict = session.run(policy, AfterDump(after), interval / 1e9)
    converged = verdict.decision is Decision.FREEZE
    exit_code = 0 if converged else EXIT_NOT_CONVERGED
    text = _dump_text(finished, directory, after)
    if not converged:
        text += f" It did not converge: {verdict.reason}."
    fields = {
        "converged": converged,
        "predicted_freeze_ns": verdict.predicted_freeze_ns,
        "reason": verdict.reason,
    }
    reporter.result(_checkpoint_fields(finished, directory) | fields, text, exit_code)
    return exit_code


@cli.command()
@target_options
@command
def detach(reporter: Reporter, pid: int) -> int:
    """Drop the tracking of a process; it is as it was before.

    \b
      predump detach -p 1234
    """
    from dumper.session import detach as drop

    tracked = drop(pid)
    text = f"Process {pid} is no longer tracked." if tracked else f"Process {pid} was not tracked."
    reporter.result({"pid": pid, "tracked": tracked}, text)
    return 0


path_argument = click.argument("path", type=click.Path(path_type=Path))


@cli.command()
@path_argument
@click.option("--round", "number", type=click.IntRange(min=1), help="Of this round (default: the last).")
@command
def inspect(reporter: Reporter, path: Path, number: int | None) -> int:
    """Show what a checkpoint or a round holds.

    \b
      predump inspect /var/tmp/ck
      predump inspect /var/tmp/ck/0001
    """
    from display import inspect as view
    from formats.checkpoint import Checkpoint
    from formats.records import encode_record

    checkpoint = Checkpoint.open(path)
    info = checkpoint.round(number)
    if reporter.as_json:
        for round_ in checkpoint.rounds:
            stats = asdict(round_.manifest.stats)
            reporter.event(
                {
                    "type": "round",
                    "round": round_.number,
                    "kind": round_.manifest.kind.value,
                    **stats,
                }
            )
        manifest = encode_record(info.manifest)
        reporter.result(
            {
                "checkpoint": str(checkpoint.path.absolute()),
                "round": info.number,
                "manifest": manifest,
            },
            "",
        )
    else:
        reporter.out.print(view.whole(checkpoint, info, reporter.out.width))
    return 0


@cli.command()
@path_argument
@click.argument("address", type=Address())
@click.argument("length", type=Address())
@click.option("--round", "number", type=click.IntRange(min=1), help="As of this round (default: the last).")
@click.option("--pid", type=click.IntRange(min=1), help="Of this process (default: the root).")
@click.option("--raw", is_flag=True, help="The bytes as they are, on stdout.")
@command
def read(
    reporter: Reporter,
    path: Path,
    address: int,
    length: int,
    number: int | None,
    pid: int | None,
    raw: bool,
) -> int:
    """Print LENGTH bytes of memory from ADDRESS on.

    \b
      predump read /var/tmp/ck 0x7ffd1c0e2000 64
      predump read /var/tmp/ck 0x7ffd1c0e2000 4096 --raw | sha256sum
    """
    from display.hexdump import hexdump
    from formats.chain import Checkpoint, MemoryView

    if raw and reporter.as_json:
        raise UsageError("--raw and --json exclude each other", hint="Choose one of them.")
    if length > READ_MAX_BYTES:
        raise UsageError(
            f"{length} bytes are too many for one read",
            hint=f"Read at most {bytes_text(READ_MAX_BYTES)} at once.",
        )
    checkpoint = Checkpoint.open(path)
    with MemoryView(checkpoint, number, pid) as memory:
        content = memory.read(address, length)
    if raw:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    elif reporter.as_json:
        fields: dict[str, object] = {"addr": address, "length": length, "hex": content.hex()}
        reporter.result(fields | {"round": number or checkpoint.selected}, "")
    else:
        for line in hexdump(content, address):
            reporter.out.print(line, highlight=False, markup=False)
    return 0


@cli.command()
@path_argument
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@command
def verify(reporter: Reporter, path: Path, quiet: bool) -> int:
    """Read everything: every checksum, every parent, every page.

    \b
    Exit code 20: damaged; 21: written by a newer version; 22: a round is missing.
      predump verify /var/tmp/ck
    """
    from display.verifying import VerifyProgress
    from formats.check import verify as check_images
    from formats.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(path)
    with VerifyProgress(reporter.errors, quiet=quiet or reporter.as_json) as progress:
        report = check_images(checkpoint, progress)
    for finding in report.findings:
        reporter.event({"type": "finding", **asdict(finding)})
        if not reporter.as_json:
            reporter.out.print(f"{finding.severity.value}: {finding.message}", highlight=False, markup=False)
    errors = sum(1 for finding in report.findings if finding.exit_code)
    fields: dict[str, object] = {
        "rounds": report.rounds,
        "files": report.files,
        "stored_bytes": report.stored_bytes,
        "pages_data": report.data_pages,
        "errors": errors,
        "checkpoint": str(checkpoint.path.absolute()),
    }
    amount = f"{report.rounds} round(s), {report.files} files, {bytes_text(report.stored_bytes)}"
    verdict = "everything is in order" if not errors else f"{errors} error(s)"
    reporter.result(fields, f"{checkpoint.path}: {amount}: {verdict}.", report.exit_code)
    return report.exit_code


def main() -> None:
    """Entry point."""
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
