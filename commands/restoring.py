"""What `receive --restore` has beside `receive`: a process that arrives, and runs here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from commands.filelimit import allow_many_files
from display.reporter import Reporter
from display.units import duration_text

if TYPE_CHECKING:
    from streams.takeover import Takeover


class Restoring(NamedTuple):
    """The options; times are in ns."""

    is_wanted: bool
    pid: str
    before_resume: str
    exec_timeout_ns: int
    handover_ns: int
    threads: int

    @contextmanager
    def takeover(self, reporter: Reporter, directory: Path) -> Iterator["Takeover | None"]:
        """For a Receiver; None if the process is not to run here. Raises click.UsageError."""
        if not self.is_wanted:
            if self.before_resume:
                raise click.UsageError("--exec-before-resume needs --restore")
            yield None
            return
        from restorer.arrival import Arrival, BeforeResume
        from restorer.restore import RestoreOptions
        from streams.takeover import Takeover

        def tell(what: str) -> None:
            reporter.notice("restore", f"Not as it was: {what}.")

        allow_many_files()
        options = RestoreOptions(same_pids=self.pid == "original", threads=self.threads)
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
