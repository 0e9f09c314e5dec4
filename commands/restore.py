"""The command that brings processes back."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING

import click

from commands.comeback import Comeback, comeback_options
from commands.filelimit import allow_many_files
from commands.options import path_argument, quiet_option, round_option, threads_option
from display.reporter import Reporter
from display.units import counted, duration_text

if TYPE_CHECKING:
    from restorer.checks import Findings
    from restorer.restore import Restoration, RestoreOptions


@path_argument
@round_option
@comeback_options()
@click.option("--detach/--wait", default=False, help="Leave them alone, or wait for the first one to end (default).")
@click.option(
    "--time-namespace",
    is_flag=True,
    help="In a time namespace, where CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from where they were.",
)
@click.option("--stopped", is_flag=True, help="Leave them stopped; SIGCONT lets them run.")
@click.option(
    "--lazy",
    is_flag=True,
    help="Let them run at once: pages come when they are asked for, and all others in the background.",
)
@click.option("--check", "only_check", is_flag=True, help="Say what stands in the way, and make nothing.")
@click.option("--trust", is_flag=True, help="Restore an image that others own or may write to: it is code that runs.")
@click.option("--tty", is_flag=True, help="Your terminal in the place of one that others drove.")
@click.option(
    "--inherit-fd",
    "inherited",
    multiple=True,
    metavar="N[:M]",
    help="Your descriptor M (or N) in the place of what the root process has as N: --inherit-fd 1 for its output.",
)
@click.option(
    "--track",
    is_flag=True,
    help="Track their writes from the beginning: the next round in the same directory holds only what they wrote.",
)
@threads_option("Threads that decompress and fill memory.")
@quiet_option
def restore(
    reporter: Reporter,
    path: Path,
    number: int | None,
    comeback: Comeback,
    detach: bool,
    time_namespace: bool,
    stopped: bool,
    lazy: bool,
    only_check: bool,
    trust: bool,
    tty: bool,
    inherited: tuple[str, ...],
    track: bool,
    threads: int,
    quiet: bool,
) -> int:
    """Bring the processes of a dump back to life.

    \b
    They go on where they were when the round was taken. What fails half way
    leaves no process behind.
      predump dump -t 1234 -D /var/tmp/ck --kill
      predump restore /var/tmp/ck --check
      predump restore /var/tmp/ck --detach
      predump restore /var/tmp/ck --inherit-fd 0 --inherit-fd 1 --inherit-fd 2
    """
    from restorer.files.choices import FileChoices
    from restorer.restore import RestoreOptions

    if track and (lazy or comeback.pid_namespace or not comeback.same_pids):
        raise click.UsageError("--track is for processes with their own ids and with their pages: it excludes --lazy.")

    allow_many_files()
    options = RestoreOptions(
        same_pids=comeback.same_pids,
        pid_namespace=comeback.pid_namespace,
        time_namespace=time_namespace,
        own_session=detach,
        stopped=stopped,
        lazy=lazy,
        trust=trust,
        track=track,
        threads=threads,
        files=FileChoices(
            tty=tty,
            tcp=comeback.tcp_choice,
            outside=comeback.outside_choice,
            inherit=dict(map(_inherited, inherited)),
        ),
    )
    restoration = _opened(reporter, path, number, options, quiet)
    if only_check:
        with restoration as checked:
            findings = checked.check()
        return _say(reporter, path, findings)
    return _bring_back(reporter, path, restoration, options, quiet)


@contextmanager
def _opened(
    reporter: Reporter, path: Path, number: int | None, options: "RestoreOptions", quiet: bool
) -> Iterator["Restoration"]:
    from formats.checkpoint import Checkpoint
    from restorer.restore import Restoration

    with (
        _told_afterwards(reporter, quiet) as tell,
        Restoration(Checkpoint.open(path), number, options, tell) as restoration,
    ):
        if not options.same_pids:
            tell("ids, which a program may remember: in pid files, in locks that it holds, of its children")
        yield restoration


def _bring_back(
    reporter: Reporter,
    path: Path,
    opened: AbstractContextManager["Restoration"],
    options: "RestoreOptions",
    quiet: bool,
) -> int:
    """Detached, or until the first one ends: its exit code then."""
    from dataclasses import asdict

    from restorer.foreground import Foreground
    from restorer.waiting import wait_for

    started_ns = monotonic_ns()
    is_detached = options.own_session
    with Foreground() as foreground:
        with opened as restoration:
            restoration.build()
            waited_for = restoration.waited_for
            is_job = not (is_detached or options.stopped) and foreground.give(restoration.job)
            done = restoration.release(started_ns)
        fields = asdict(done) | {"checkpoint": str(path.absolute())}
        back = counted(len(done.pids), "process", "processes")
        text = f"{path}: {back} of round {done.round} back as {done.pids[0]}, in {duration_text(done.duration_ns)}."
        if is_detached:
            reporter.result(fields, text)
            return 0
        reporter.event({"type": "restored", **fields})
        if not (quiet or reporter.as_json):
            reporter.errors.print(text, highlight=False, markup=False)
        exit_code = _exit_code(wait_for(waited_for, done.pids[0], foreground if is_job else None))
    reporter.result(fields | {"status": exit_code}, f"Process {done.pids[0]} ended with {exit_code}.", exit_code)
    return exit_code


@contextmanager
def _told_afterwards(reporter: Reporter, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Takes what is not as it was, and says it when the processes run, who need not wait for that, or will not."""
    told: list[str] = []
    try:
        yield told.append
    finally:
        for what in told if not quiet else ():
            reporter.notice("restore", f"Not as it was: {what}.")


def _say(reporter: Reporter, path: Path, findings: "Findings") -> int:
    """All that was found out, and what it comes to."""
    from dataclasses import asdict

    for one in (*findings.problems, *findings.warnings):
        reporter.event({"type": "problem", **asdict(one)})
        verdict = "" if one.stops else "Not as it was: "
        reporter.finding(f"{verdict}{one.message}{f' {one.hint}' if one.hint else ''}")
    n_problems = len(findings.problems)
    text = f"{path}: it can be restored."
    if n_problems:
        text = f"{path}: it cannot be restored; {counted(n_problems, 'thing')} in the way."
    fields: dict[str, object] = {
        "checkpoint": str(path.absolute()),
        "restorable": not n_problems,
        "problems": n_problems,
        "differences": len(findings.warnings),
    }
    reporter.result(fields, text, findings.exit_code)
    return findings.exit_code


def _inherited(text: str) -> tuple[int, int]:
    """N or N:M as (N, M)."""
    theirs, _, ours = text.partition(":")
    if not theirs.isdecimal() or not (ours or theirs).isdecimal():
        raise click.UsageError(f"--inherit-fd {text}: two descriptors are numbers with a colon between them.")
    try:
        os.fstat(int(ours or theirs))
    except OSError as error:
        raise click.UsageError(f"--inherit-fd {text}: predump has no descriptor {ours or theirs}.") from error
    return int(theirs), int(ours or theirs)


def _exit_code(status: int) -> int:
    """As a shell tells it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
