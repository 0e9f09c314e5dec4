"""Sessions of the commands that take rounds, and what `dump` and `run` have in common."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from commands.options import Duration, Target, WorkOptions, handover_timeout_option
from commands.streaming import Place, open_destination
from display.reporter import Reporter
from display.units import counted, duration_text

if TYPE_CHECKING:
    from dumper.destination import Destination
    from dumper.events import Emit, HandedOver, RoundFinished
    from dumper.session import Session

EXIT_HOOK_FAILED = 1  # of a command that runs after the freeze: there is a dump


class HookOptions(NamedTuple):
    """The options of `dump_options`; the timeout is in ns."""

    before_freeze: str
    after_freeze: str
    after_dump: str
    timeout_ns: int


NO_HOOKS = HookOptions("", "", "", 0)


def _hook_options(function: Callable[..., int]) -> Callable[..., int]:
    """Commands around a dump; the command gets `hooks`."""

    @click.option(
        "--exec-before-freeze",
        metavar="COMMAND",
        default="",
        help="Run this by sh before the last pages are copied; if it fails there is no dump.",
    )
    @click.option("--exec-after-freeze", metavar="COMMAND", default="", help="Run this when the target runs on.")
    @click.option("--exec-after-dump", metavar="COMMAND", default="", help="Run this when the dump is on disk.")
    @click.option(
        "--exec-timeout", type=Duration(), default="10s", show_default=True, help="Time for each of these commands."
    )
    @functools.wraps(function)
    def wrapped(
        reporter: Reporter,
        *,
        exec_before_freeze: str,
        exec_after_freeze: str,
        exec_after_dump: str,
        exec_timeout: int,
        **options: object,
    ) -> int:
        hooks = HookOptions(exec_before_freeze, exec_after_freeze, exec_after_dump, exec_timeout)
        return function(reporter, hooks=hooks, **options)

    return wrapped


def _strict_option(function: Callable[..., int]) -> Callable[..., int]:
    """--strict."""
    return click.option(
        "--strict", is_flag=True, help="Fail, if possible beforehand, where something cannot be captured."
    )(function)


def _freeze_option(function: Callable[..., int]) -> Callable[..., int]:
    """--freeze-by."""
    return click.option(
        "--freeze-by",
        type=click.Choice(["auto", "copy", "clone"]),
        default="auto",
        show_default=True,
        help="How the last pages are got: copied in the freeze, or, with --leave-running, from a copy-on-write clone "
        "made then. By default what is predicted to be shorter.",
    )(function)


def _after_options(function: Callable[..., int]) -> Callable[..., int]:
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


def _keep_tracking_option(function: Callable[..., int]) -> Callable[..., int]:
    """--keep-tracking, which makes sense of a checkpoint directory and of targets that run on only."""

    @click.option("--keep-tracking", is_flag=True, help="Go on from the dump: the next round holds only what is new.")
    @functools.wraps(function)
    def wrapped(reporter: Reporter, *, keep_tracking: bool, after: str, **options: object) -> int:
        if keep_tracking and after != "leave-running":
            raise click.UsageError(f"--keep-tracking and --{after} exclude each other")
        return function(reporter, keep_tracking=keep_tracking, after=after, **options)

    return wrapped


def _tcp_options(function: Callable[..., int]) -> Callable[..., int]:
    """--tcp-established, which only one of two processes can make use of, and --tcp-hold."""

    @click.option(
        "--tcp-established",
        is_flag=True,
        help="Capture TCP connections, and close them without a word to their peers. Needs --kill.",
    )
    @click.option(
        "--tcp-hold",
        "tcp_hold_ns",
        type=Duration(),
        default="60s",
        show_default=True,
        help="For so long, captured connections are kept, silent, for a restore on this host.",
    )
    @functools.wraps(function)
    def wrapped(reporter: Reporter, *, tcp_established: bool, after: str, **options: object) -> int:
        if tcp_established and after != "kill":
            raise click.UsageError(
                "--tcp-established needs --kill: a connection goes on with the target, or with what is restored"
            )
        return function(reporter, tcp_established=tcp_established, after=after, **options)

    return wrapped


class DumpChoices(NamedTuple):
    """The options of `dump_options`: what becomes of the target, and how it is dumped; times in ns."""

    after: str
    keep_tracking: bool
    freeze_by: str
    strict: bool
    hooks: HookOptions
    tcp_established: bool
    tcp_hold_ns: int
    handover_ns: int
    copy_files: bool


NO_CHOICES = DumpChoices("leave-running", False, "auto", False, NO_HOOKS, False, 0, 0, False)


def dump_options(function: Callable[..., int]) -> Callable[..., int]:
    """What `dump` and `run` have in common; the command gets `choices`."""

    @_after_options
    @_keep_tracking_option
    @_freeze_option
    @_hook_options
    @_strict_option
    @_tcp_options
    @handover_timeout_option("With --kill and 'receive --restore': time until it runs there, else it goes on here.")
    @click.option("--copy-files", is_flag=True, help="With 'receive --restore': send files that are missing there.")
    @functools.wraps(function)
    def wrapped(
        reporter: Reporter,
        *,
        after: str,
        keep_tracking: bool,
        freeze_by: str,
        strict: bool,
        hooks: HookOptions,
        tcp_established: bool,
        tcp_hold_ns: int,
        handover_timeout: int,
        copy_files: bool,
        **options: object,
    ) -> int:
        choices = DumpChoices(
            after,
            keep_tracking,
            freeze_by,
            strict,
            hooks,
            tcp_established,
            tcp_hold_ns,
            handover_timeout,
            copy_files,
        )
        return function(reporter, choices=choices, **options)

    return wrapped


@contextmanager
def open_session(
    reporter: Reporter,
    target: Target,
    destination: "Path | Destination",
    work: WorkOptions,
    choices: DumpChoices = NO_CHOICES,
) -> Iterator["Session"]:
    """Whose events are shown. Raises as Session."""
    from dumper.events import Event
    from dumper.freezeplan import FreezeWish
    from dumper.hooks import HookCommands
    from dumper.limits import Limits
    from dumper.rounds import Options
    from dumper.session import Session

    hooks = choices.hooks
    options = Options(
        level=work["level"],
        compress_threads=work["threads"],
        staging_bytes=work["staging"],
        strict=choices.strict,
        keep_tracking=choices.keep_tracking,
        limits=Limits(work["bandwidth_limit"] or 0, work["cpu_limit"]),
        freeze_by=FreezeWish(choices.freeze_by),
        hooks=HookCommands(hooks.before_freeze, hooks.after_freeze, hooks.after_dump, hooks.timeout_ns / 1e9),
        tcp_established=choices.tcp_established,
        tcp_hold_s=choices.tcp_hold_ns / 1e9,
    )

    def emit_json(event: Event) -> None:
        reporter.event(asdict(event))

    with ExitStack() as stack:
        emit: Emit = emit_json
        if not reporter.as_json:
            from display.progress import ProgressView

            emit = stack.enter_context(ProgressView(reporter.errors, quiet=work["quiet"]))
        yield stack.enter_context(Session(target.pid, destination, options, emit, tree=target.tree))


@contextmanager
def open_dumping(
    reporter: Reporter, target: Target, place: Place, work: WorkOptions, choices: DumpChoices
) -> Iterator["Session"]:
    """A session that ends with a dump at that place. Raises as `open_destination` and `open_session`."""
    kill = choices.after == "kill"
    with (
        open_destination(
            reporter,
            place,
            kill=kill,
            keep_tracking=choices.keep_tracking,
            handover_ns=choices.handover_ns,
            copy_files=choices.copy_files,
        ) as destination,
        open_session(reporter, target, destination, work, choices) as session,
    ):
        yield session


def handover_fields(session: "Session") -> dict[str, object]:
    """For a result: what there is to say of a process that was handed over."""
    handed_over = session.handed_over
    if handed_over is None:
        return {}
    names = ("pids", "downtime_ns", "handover_ns", "build_ns", "hook_ns", "resume_ns")
    return {"handover": {name: getattr(handed_over, name) for name in names}}


def _handover_text(handed_over: "HandedOver", place: Place) -> str:
    parts = {
        "last bytes": handed_over.downtime_ns - handed_over.handover_ns,
        "restore": handed_over.build_ns,
        "commands": handed_over.hook_ns,
        "resume": handed_over.resume_ns,
    }
    told = ", ".join(f"{name} {duration_text(ns)}" for name, ns in parts.items() if ns)
    as_what = f" as {handed_over.pids[0]}" if handed_over.pids else ""
    return (
        f"It runs at {place.words}{as_what}, {duration_text(handed_over.downtime_ns)} after the freeze began ({told})."
    )


def dump_text(finished: "RoundFinished", place: Place, after: str, handed_over: "HandedOver | None") -> str:
    """What was done, and on lines of their own where it runs, what it lacks, and if it can be restored."""
    from display.restorable import restorable_line

    one = finished.processes == 1
    what = f"process {finished.pid}" if one else f"{finished.processes} processes (root {finished.pid})"
    fates = ("runs on", "is stopped", "was killed") if one else ("run on", "are stopped", "were killed")
    fate = dict(zip(("leave-running", "leave-stopped", "kill"), fates, strict=True))[after]
    predicted = f"{duration_text(finished.predicted_freeze_ns)} predicted, {finished.prediction_error_percent:+d} %"
    text = (
        f"{place.words}: {what} dumped in round {finished.round}, frozen for {duration_text(finished.frozen_ns)} "
        f"({predicted}); {'it' if one else 'they'} {fate}."
    )
    if handed_over:
        text += f"\n{_handover_text(handed_over, place)}"
    lacks = _lacks(finished, place)
    lines = [text, *([f"{lacks[:1].upper()}{lacks[1:]}."] if lacks else [])]
    return "\n".join([*lines, f"{restorable_line(finished.obstacles, finished.differences, is_tree=not one)}."])


def _lacks(finished: "RoundFinished", place: Place) -> str:
    """What a dump does not hold, in few words; "" if nothing."""
    from display.missing import missing_of, missing_summary
    from formats.checkpoint import Checkpoint

    if place.directory is not None:
        return missing_summary(missing_of(Checkpoint.open(place.directory).round(finished.round).manifest))
    if not finished.missing:
        return ""
    return f"{counted(finished.missing, 'thing')} could not be captured: 'predump inspect' names them at the receiver"
