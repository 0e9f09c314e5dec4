"""The state of one process and its threads: asked in the freeze, made into records after it."""

import errno

from dumper.errors import TargetUntraceable
from dumper.kernel.ptrace import InjectionSite, ThreadSet
from dumper.kernel.state import StateReader
from dumper.proc.cgroup import frozen_cgroup
from dumper.proc.maps import Mapping
from dumper.proc.status import ThreadStatus, handled_signals, parse_thread_status, read_thread_status
from dumper.proc.timers import timer_ids
from dumper.site import find_site, site_like
from dumper.state.files import ProcFiles, ProcReader
from dumper.state.notes import Notes
from dumper.state.record import ProcessRecord
from dumper.state.threads import FilterTable, note_silent_threads, thread_record
from dumper.state.unshared import note_unshared
from dumper.target import Target
from formats.closing import Closing
from formats.manifest import Missing
from formats.processstate import ProcessState
from formats.threadstate import Thread

SPARE_THREADS = 4  # may be born until the freeze
SIGCHLD_BIT = 1 << 16  # its default has a flag that matters: SA_NOCLDWAIT
CAP_SYS_ADMIN = 21  # include/uapi/linux/capability.h
NEEDS_CAP_SYS_ADMIN = "it needs CAP_SYS_ADMIN, and a predump without a filter of its own"


def handles_seccomp() -> bool:
    """Whether this process may read and suspend the seccomp filters of others: ptrace(2)."""
    own = read_thread_status("self")
    return own.seccomp_mode == 0 and bool(own.caps[2] >> CAP_SYS_ADMIN & 1)


class ProcessCapture(Closing):
    """The state of one process: `read` is for the freeze, `records` for after it.

    site: where calls are injected; without one (None) what only the process can tell is missing.
    """

    def __init__(
        self,
        target: Target,
        mappings: list[Mapping],
        hint: InjectionSite | None = None,
        *,
        stands_still: bool = False,
    ) -> None:
        """Searches the target's code for a site, unless `hint`, that of its parent, is one of its own as well.

        What can be done before the freeze is done here; with `stands_still` no more than is needed.

        Raises OSError: ENOENT or ESRCH if the process is gone; TargetGone.
        """
        self._target = target
        self._mappings = mappings
        self._reader = StateReader(target.thread_count() + SPARE_THREADS)
        self._proc = ProcReader(target)
        self._files = ProcFiles()
        self._was_stopped = False
        self.injected_calls = 0
        """How many calls were injected; known after `records`."""
        self._silence = ""
        self.site = self._find_site(hint)
        self._notes = Notes()
        if not stands_still:
            note_unshared(target, self._notes)
            self._reader.open_files(target.pid)

    def close(self) -> None:
        """Closes what was opened for the freeze."""
        self._proc.close()
        self._reader.close()

    def _find_site(self, hint: InjectionSite | None) -> InjectionSite | None:
        if self._target.status.shadow_stack:
            self._silence = "the process has a shadow stack, and no call can be injected"
            return None
        if path := frozen_cgroup(self._target.tid):
            self._silence = f"the process is frozen by its cgroup {path}, and no call can be injected"
            return None
        if hint and (site := site_like(hint, self._target, self._mappings)):
            return site
        try:
            return find_site(self._target, self._mappings)
        except TargetUntraceable:
            self._silence = "the process offers no safe place to inject a call"
            return None

    def foresee(self) -> list[Missing]:
        """What will be missing, as far as it is known before anything is touched."""
        notes = self._notes.copy()
        silence = self._silence
        if self._target.status.seccomp_mode and not handles_seccomp():
            notes.add("seccomp filters", NEEDS_CAP_SYS_ADMIN)
            silence = silence or "its seccomp filter cannot be suspended"
        if silence:
            notes.add("signal handlers, time of timers, signal stacks, program break, prctl settings", silence)
        return notes.missing()

    def read(self, threads: ThreadSet) -> None:
        """Reads everything of the stopped process.

        Raises OSError: ENOENT or ESRCH if it was killed meanwhile.
        """
        self._was_stopped = threads.in_stop
        files = self._files = self._proc.read()
        timers = files.contents["timers"]
        self._reader.read(
            threads,
            self._target.pid,
            self._target.mem_fd,
            self.site,
            signals=handled_signals(files.content("status")) | SIGCHLD_BIT,
            timer_ids=timer_ids(timers) if isinstance(timers, bytes) else [],
        )

    def asked_tids(self) -> list[int]:
        """The threads that could be asked, as of the last `read`: a call can be injected into each of them."""
        return self._reader.asked_tids()

    def records(self, mappings: list[Mapping] | None = None) -> tuple[ProcessState, list[Thread], list[Missing]]:
        """What was read, threads by their ids; `mappings` are those of the freeze, if they are known.

        Raises OSError: ESRCH if the process was killed while it was read.
        """
        raw_threads, raw = self._reader.threads(), self._reader.process()
        if not raw_threads:
            raise _killed()
        self.injected_calls = raw.injected_calls
        silence = self._silence or raw.refusal or "the process did not tell"
        status = _parsed(self._files.content("status"))
        notes = self._notes.copy()
        filters = FilterTable()
        threads = [thread_record(thread, _parsed(thread.status), status, filters, notes) for thread in raw_threads]
        note_silent_threads(raw_threads, silence, notes)
        state = ProcessRecord(self._files, raw, status, mappings or self._mappings, silence, notes).make(
            filters.filters, stopped=self._was_stopped
        )
        return state, sorted(threads, key=lambda thread: thread.tid), notes.missing()


def _parsed(status: bytes) -> ThreadStatus:
    """Raises ProcessLookupError if there is nothing in it: the thread was killed before it was read."""
    if not status:
        raise _killed()
    return parse_thread_status(status)


def _killed() -> ProcessLookupError:
    return ProcessLookupError(errno.ESRCH, "the process was killed while it was read")
