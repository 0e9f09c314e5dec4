"""Commands on a live process: they load the engine when they run."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from commands.options import (
    NO_HOOKS,
    HookOptions,
    Target,
    WorkOptions,
    after_options,
    directory_option,
    freeze_option,
    hook_options,
    keep_tracking_option,
    strict_option,
    target_options,
    work_options,
)
from commands.streaming import Place, open_destination, place_options
from display.reporter import Reporter
from display.units import counted, duration_text

EXIT_HOOK_FAILED = 1  # of a command that runs after the freeze: there is a dump

if TYPE_CHECKING:
    from dumper.destination import Destination
    from dumper.events import Emit, RoundFinished
    from dumper.session import Session


@contextmanager
def open_session(
    reporter: Reporter,
    target: Target,
    destination: "Path | Destination",
    work: WorkOptions,
    *,
    strict: bool = False,
    keep_tracking: bool = False,
    freeze_by: str = "auto",
    hooks: HookOptions = NO_HOOKS,
) -> Iterator["Session"]:
    from dumper.events import Event
    from dumper.freezeplan import FreezeWish
    from dumper.hooks import HookCommands
    from dumper.limits import Limits
    from dumper.rounds import Options
    from dumper.session import Session

    options = Options(
        level=work["level"],
        compress_threads=work["threads"],
        staging_bytes=work["staging"],
        strict=strict,
        keep_tracking=keep_tracking,
        limits=Limits(work["bandwidth_limit"] or 0, work["cpu_limit"]),
        freeze_by=FreezeWish(freeze_by),
        hooks=HookCommands(hooks.before_freeze, hooks.after_freeze, hooks.after_dump, hooks.timeout_ns / 1e9),
    )

    def emit_json(event: Event) -> None:
        reporter.event(asdict(event))

    with ExitStack() as stack:
        emit: Emit = emit_json
        if not reporter.as_json:
            from display.progress import ProgressView

            emit = stack.enter_context(ProgressView(reporter.errors, quiet=work["quiet"]))
        yield stack.enter_context(Session(target.pid, destination, options, emit, tree=target.tree))


def _checkpoint_fields(finished: "RoundFinished", directory: Path) -> dict[str, object]:
    return asdict(finished) | {"checkpoint": str(directory.absolute())}


def dump_text(finished: "RoundFinished", place: Place, after: str) -> str:
    """What was done, and on a second line what the round lacks."""
    one = finished.processes == 1
    what = f"process {finished.pid}" if one else f"{finished.processes} processes (root {finished.pid})"
    fates = ("runs on", "is stopped", "was killed") if one else ("run on", "are stopped", "were killed")
    fate = dict(zip(("leave-running", "leave-stopped", "kill"), fates, strict=True))[after]
    predicted = f"{duration_text(finished.predicted_freeze_ns)} predicted, {finished.prediction_error_percent:+d} %"
    text = (
        f"{place.words}: {what} dumped in round {finished.round}, frozen for {duration_text(finished.frozen_ns)} "
        f"({predicted}); {'it' if one else 'they'} {fate}."
    )
    lacks = _lacks(finished, place)
    return f"{text}\n{lacks[:1].upper()}{lacks[1:]}." if lacks else text


def _lacks(finished: "RoundFinished", place: Place) -> str:
    """What a dump does not hold, in few words; "" if nothing."""
    from display.missing import missing_of, missing_summary
    from formats.checkpoint import Checkpoint

    if place.directory is not None:
        return missing_summary(missing_of(Checkpoint.open(place.directory).round(finished.round).manifest))
    if not finished.missing:
        return ""
    return f"{counted(finished.missing, 'thing')} could not be captured: 'predump inspect' names them at the receiver"


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


@target_options
@directory_option
@work_options
def pre_dump(reporter: Reporter, target: Target, directory: Path, **work: Unpack[WorkOptions]) -> int:
    """Take one round without freezing the target.

    \b
    Tracking stays armed: the next round holds only what was written since.
      predump pre-dump -p 1234 -D /var/tmp/ck
    """
    with open_session(reporter, target, directory, work) as session:
        finished = session.pre_dump()
    reporter.result(
        _checkpoint_fields(finished, directory),
        f"{directory}: round {finished.round} is complete. Take another, or finish with: "
        f"predump dump {target.words} -D {directory}",
    )
    return 0


@target_options
@place_options
@after_options
@keep_tracking_option
@freeze_option
@click.option("--no-pre-dump", is_flag=True, help="Take no unfrozen round before.")
@hook_options
@strict_option
@work_options
def dump(
    reporter: Reporter,
    target: Target,
    place: Place,
    after: str,
    keep_tracking: bool,
    freeze_by: str,
    no_pre_dump: bool,
    hooks: HookOptions,
    strict: bool,
    **work: Unpack[WorkOptions],
) -> int:
    """Freeze the target for a moment and dump what is left.

    \b
    On a new checkpoint an unfrozen round is taken first, so that the frozen
    part is small. Tracking ends with the dump, or goes on with --keep-tracking:
    the next dump then holds only what was written since.
      predump dump -p 1234 -D /var/tmp/ck
      predump dump -t 1234 -D /var/tmp/ck --kill
      predump dump -p 1234 -D /var/tmp/ck --keep-tracking
    """
    from dumper.dump import AfterDump

    with (
        open_destination(reporter, place, kill=after == AfterDump.KILL, keep_tracking=keep_tracking) as destination,
        open_session(
            reporter,
            target,
            destination,
            work,
            strict=strict,
            keep_tracking=keep_tracking,
            freeze_by=freeze_by,
            hooks=hooks,
        ) as session,
    ):
        finished = session.dump(AfterDump(after), pre_dump=not no_pre_dump)
    fields = asdict(finished) | place.fields | {"hooks_failed": session.failed_hooks}
    exit_code = EXIT_HOOK_FAILED if session.failed_hooks else 0
    reporter.result(fields, dump_text(finished, place, after), exit_code)
    return exit_code


@target_options
def detach(reporter: Reporter, target: Target) -> int:
    """Drop the tracking of a process and of all that were captured with it.

    \b
    They are as they were before.
      predump detach -p 1234
    """
    from dumper.session import detach as drop

    tracked = drop(target.pid)
    text = f"Process {target.pid} {'is no longer' if tracked else 'was not'} tracked."
    reporter.result({"pid": target.pid, "tracked": tracked}, text)
    return 0
