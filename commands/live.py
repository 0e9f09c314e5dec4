"""Commands on a live process: they load the engine when they run."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from commands.options import Duration, WorkOptions, after_options, directory_option, target_options, work_options
from display.reporter import Reporter
from display.units import duration_text

EXIT_NOT_CONVERGED = 3

if TYPE_CHECKING:
    from dumper.events import Emit, RoundFinished
    from dumper.session import Session


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


@target_options
@directory_option
@after_options
@click.option("--no-pre-dump", is_flag=True, help="Take no unfrozen round before.")
@work_options
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


@target_options
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
