"""Commands on a live process: they load the engine when they run."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from commands.options import Target, WorkOptions, directory_option, target_options, work_options
from commands.sessions import (
    EXIT_HOOK_FAILED,
    DumpChoices,
    dump_options,
    dump_text,
    handover_fields,
    open_dumping,
    open_session,
)
from commands.streaming import Place, place_options
from display.reporter import Reporter

if TYPE_CHECKING:
    from dumper.events import RoundFinished


def _checkpoint_fields(finished: "RoundFinished", directory: Path) -> dict[str, object]:
    return asdict(finished) | {"checkpoint": str(directory.absolute())}


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
@dump_options
@click.option("--no-pre-dump", is_flag=True, help="Take no unfrozen round before.")
@work_options
def dump(
    reporter: Reporter,
    target: Target,
    place: Place,
    choices: DumpChoices,
    no_pre_dump: bool,
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

    with open_dumping(reporter, target, place, work, choices) as session:
        finished = session.dump(AfterDump(choices.after), pre_dump=not no_pre_dump)
    fields = asdict(finished) | place.fields | {"hooks_failed": session.failed_hooks} | handover_fields(session)
    exit_code = EXIT_HOOK_FAILED if session.failed_hooks else 0
    reporter.result(fields, dump_text(finished, place, choices.after, session.handed_over), exit_code)
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
