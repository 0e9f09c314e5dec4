"""What `receive --restore` has beside `receive`: a process that arrives, and runs here."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from commands.comeback import Comeback, comeback_options
from commands.filelimit import allow_many_files
from commands.options import Duration, handover_timeout_option
from display.reporter import Reporter
from display.units import duration_text

if TYPE_CHECKING:
    from streams.takeover import Takeover


def restoring_options(function: Callable[..., int]) -> Callable[..., int]:
    """--restore, and what goes with it; the command gets `restoring`."""

    @click.option("--restore", is_flag=True, help="Bring the process back here, in the place of the original.")
    @comeback_options("With --restore: ")
    @click.option(
        "--exec-before-resume",
        metavar="COMMAND",
        default="",
        help="With --restore: run this by sh when the original will not run again, and this one is about to.",
    )
    @click.option("--exec-timeout", type=Duration(), default="3s", show_default=True, help="Time for that command.")
    @handover_timeout_option("With --restore: how long a process that was built waits for the word to run.")
    @functools.wraps(function)
    def wrapped(
        reporter: Reporter,
        *,
        restore: bool,
        comeback: Comeback,
        exec_before_resume: str,
        exec_timeout: int,
        handover_timeout: int,
        **options: object,
    ) -> int:
        restoring = Restoring(restore, comeback, exec_before_resume, exec_timeout, handover_timeout)
        return function(reporter, restoring=restoring, **options)

    return wrapped


class Restoring(NamedTuple):
    """The options; times are in ns."""

    is_wanted: bool
    comeback: Comeback
    before_resume: str
    exec_timeout_ns: int
    handover_ns: int

    @contextmanager
    def takeover(self, reporter: Reporter, directory: Path, threads: int) -> Iterator["Takeover | None"]:
        """For a Receiver; None if the process is not to run here. Raises click.UsageError."""
        if not self.is_wanted:
            if self.before_resume:
                raise click.UsageError("--exec-before-resume needs --restore")
            yield None
            return
        from restorer.arrival import Arrival, BeforeResume
        from restorer.files.choices import FileChoices
        from restorer.restore import RestoreOptions
        from streams.takeover import Takeover

        def tell(what: str) -> None:
            reporter.notice("restore", f"Not as it was: {what}.")

        allow_many_files()
        options = RestoreOptions(
            same_pids=self.comeback.same_pids,
            pid_namespace=self.comeback.pid_namespace,
            own_session=True,
            threads=threads,
            files=FileChoices(tcp=self.comeback.tcp_choice, outside=self.comeback.outside_choice),
        )
        before_resume = BeforeResume(command=self.before_resume, timeout_s=self.exec_timeout_ns / 1e9)
        arrival = Arrival(directory, options, tell, before_resume)
        with Takeover(directory, arrival, self.handover_ns / 1e9) as takeover:
            yield takeover


def restored(takeover: "Takeover") -> tuple[dict[str, object], str, int]:
    """What became of the process, for a result: fields, a sentence, and the exit code."""
    running = takeover.running
    if running is None:
        return {"pids": []}, "The sender ended without a dump, and so nothing was restored.", 1
    if not running.is_known:
        what = "A receiver before this one was to let the process run, and it is not there: look at the original."
        return {"pids": []}, what, 1
    if not running.pids:
        return {"pids": []}, "The process runs; a receiver before this one let it go.", 0
    ready_ns = running.hook_ns + running.resume_ns
    what = f"The process runs as {running.pids[0]}, {duration_text(ready_ns)} after the word for it came."
    return {"pids": running.pids, "hook_ns": running.hook_ns, "resume_ns": running.resume_ns}, what, 0
