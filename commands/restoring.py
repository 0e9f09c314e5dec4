"""What `receive --restore` has beside `receive`: a process that arrives, and runs here."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from commands.filelimit import allow_many_files
from commands.options import Duration, handover_timeout_option
from display.reporter import Reporter
from display.units import duration_text

if TYPE_CHECKING:
    from streams.takeover import Takeover


def restoring_options(function: Callable[..., int]) -> Callable[..., int]:
    """--restore, and what goes with it; the command gets `restoring`."""

    @click.option("--restore", is_flag=True, help="Bring the process back here, in the place of the original.")
    @click.option(
        "--pid",
        type=click.Choice(["original", "new"]),
        default="original",
        show_default=True,
        help="With --restore: the ids that the processes had, or new ones.",
    )
    @click.option("--pid-namespace", is_flag=True, help="With --restore: in a pid namespace, where their ids are free.")
    @click.option(
        "--tcp",
        type=click.Choice(["restore", "close"]),
        default="restore",
        show_default=True,
        help="With --restore: established TCP connections go on, or the program finds them reset.",
    )
    @click.option(
        "--outside",
        type=click.Choice(["refuse", "close"]),
        default="refuse",
        show_default=True,
        help="With --restore: pipes and Unix connections to processes that stay behind are refused, or found closed.",
    )
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
        pid: str,
        pid_namespace: bool,
        tcp: str,
        outside: str,
        exec_before_resume: str,
        exec_timeout: int,
        handover_timeout: int,
        **options: object,
    ) -> int:
        if pid_namespace and pid == "new":
            raise click.UsageError("--pid-namespace and --pid new exclude each other")
        restoring = Restoring(
            restore, pid, pid_namespace, tcp, outside, exec_before_resume, exec_timeout, handover_timeout
        )
        return function(reporter, restoring=restoring, **options)

    return wrapped


class Restoring(NamedTuple):
    """The options; times are in ns."""

    is_wanted: bool
    pid: str
    pid_namespace: bool
    tcp: str
    outside: str
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
        from restorer.files.choices import FileChoices, OutsideChoice, TcpChoice
        from restorer.restore import RestoreOptions
        from streams.takeover import Takeover

        def tell(what: str) -> None:
            reporter.notice("restore", f"Not as it was: {what}.")

        allow_many_files()
        options = RestoreOptions(
            same_pids=self.pid == "original",
            pid_namespace=self.pid_namespace,
            own_session=True,
            threads=threads,
            files=FileChoices(tcp=TcpChoice(self.tcp), outside=OutsideChoice(self.outside)),
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
