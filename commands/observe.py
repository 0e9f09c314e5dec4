"""`observe`: what a target writes, and what to expect of `run`."""

import os
import select
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING

import click

from commands.options import (
    Duration,
    Rate,
    Target,
    level_option,
    policy_options,
    quiet_option,
    target_options,
    threads_option,
)
from display.reporter import Reporter
from formats.closing import Closing

if TYPE_CHECKING:
    from dumper.convergence import Policy
    from dumper.events import Emit
    from dumper.observe import Observation
    from dumper.projection import Projection

EXIT_INTERRUPTED = 130
EXIT_TARGET_GONE = 10
DEFAULT_LINKS = (125_000_000, 1_250_000_000, 3_125_000_000)  # 1, 10 and 25 Gbit/s
MIN_INTERVAL_NS = 10_000_000


class Patience(Closing):
    """Waits, until Ctrl-C: the first one is noted, the next one interrupts as usual."""

    def __init__(self) -> None:
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:  # a shell without job control ignores it for what runs in the background
            signal.signal(signal.SIGINT, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, self._before)
        os.write(self._wake, b"!")

    def wait(self, seconds: float) -> bool:
        """Waits so long; True at once if Ctrl-C was pressed."""
        return bool(select.select([self._woken], [], [], seconds)[0])

    def close(self) -> None:
        """Ctrl-C interrupts as usual again."""
        signal.signal(signal.SIGINT, self._before)
        os.close(self._woken)
        os.close(self._wake)


@target_options
@click.option("--duration", type=Duration(), help="Observe so long; until Ctrl-C if it is not given.")
@click.option("--interval", type=Duration(), default="0.1s", show_default=True, help="Time between two looks.")
@click.option(
    "--link",
    "links",
    type=Rate(),
    multiple=True,
    help="A link to migrate over, such as 1Gbit/s or 100M/s; may be repeated.  [default: 1, 10 and 25 Gbit/s]",
)
@policy_options
@level_option
@threads_option("Threads that would compress.")
@quiet_option
def observe(
    reporter: Reporter,
    target: Target,
    duration: int | None,
    interval: int,
    links: Sequence[int],
    max_freeze: int,
    max_rounds: int,
    timeout: int,
    level: int,
    threads: int,
    quiet: bool,
) -> int:
    """Show what a process writes, and what to expect of 'run'.

    \b
    Nothing is dumped, and the process runs on: it is stopped once for less than
    a millisecond, and takes a fault (0.8 µs) for each page that it writes in
    each interval. Afterwards it is as it was. Ctrl-C ends it; the result is
    shown in any case. Link 'none': as fast as pages are compressed.
    Exit code 130: Ctrl-C came before the end of --duration; 10: the process
    ended meanwhile.
      predump observe -p 1234 --duration 10s --link 2.5Gbit/s
    """
    from dumper.convergence import Policy
    from dumper.events import Event
    from dumper.observe import EndedBy, Observer, Settings

    if interval < MIN_INTERVAL_NS:
        raise click.UsageError("--interval is 10ms at least")
    if duration is not None and duration < interval:
        raise click.UsageError("--duration is one --interval at least")

    def emit_json(event: Event) -> None:
        reporter.event(asdict(event))

    with ExitStack() as stack:
        emit: Emit = emit_json
        if not reporter.as_json:
            from display.observe import ObserveView

            emit = stack.enter_context(ObserveView(reporter.errors, quiet=quiet))
        settings = Settings(interval_ns=interval, duration_ns=duration, level=level)
        observer = stack.enter_context(Observer(target.pid, settings, emit, tree=target.tree))
        patience = stack.enter_context(Patience())
        seen = observer.observe(patience.wait)
    policy = Policy(max_freeze_ns=max_freeze, max_rounds=max_rounds, timeout_ns=timeout)
    projections = _projections(seen, threads, links or DEFAULT_LINKS, policy)
    exit_code = {
        EndedBy.DURATION: 0,
        EndedBy.INTERRUPT: 0 if duration is None else EXIT_INTERRUPTED,
        EndedBy.TARGET: EXIT_TARGET_GONE,
    }[seen.ended_by]
    if not reporter.as_json:
        from display.observe import whole

        reporter.out.print(whole(seen, projections, max_freeze))
    fields = asdict(seen) | {
        "max_freeze_ns": max_freeze,
        "projections": [asdict(projection) for projection in projections],
    }
    reporter.result(fields, "", exit_code)
    return exit_code


def _projections(seen: "Observation", threads: int, links: Sequence[int], policy: "Policy") -> list["Projection"]:
    """For each link, and for none, which comes last."""
    from dumper.projection import Load, project
    from dumper.workingset import WorkingSet

    load = Load(
        pages_present=seen.pages_present,
        working_set=WorkingSet(seen.working_set, seen.pages_present),
        first=seen.first,
        later=seen.later,
        scan_ns=seen.scan_ns,
        size=seen.size,
        cpus=len(os.sched_getaffinity(0)),
        compress_threads=threads,
        other_threads=seen.other_threads,
    )
    return [project(load, link, policy) for link in (*links, None)]
