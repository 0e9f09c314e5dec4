"""What was read of a process, as the record of a dump."""

from collections.abc import Sequence

from dumper.kernel.state import RawProcess
from dumper.proc.cgroup import at_home, parse_cgroups
from dumper.proc.limits import parse_limits
from dumper.proc.maps import Mapping
from dumper.proc.namespaces import KINDS, parse_inode
from dumper.proc.stat import ProcessStat, parse_process_stat
from dumper.proc.status import ThreadStatus
from dumper.proc.timens import parse_offsets
from dumper.proc.timers import parse_timers
from dumper.state.files import LEADER_STAT, ProcFiles
from dumper.state.lineage import lineage_record
from dumper.state.notes import Notes
from dumper.state.threads import credentials, pending_signals
from formats.processstate import (
    Disposition,
    IntervalTimer,
    Limit,
    MemoryLayout,
    Namespace,
    PosixTimer,
    ProcessState,
)

SIGNALS = range(1, 65)
SIG_IGN = 1


class ProcessRecord:
    """Makes the record of one process; what is missing is noted, with `silence` as the reason if it did not tell it."""

    def __init__(
        self,
        files: ProcFiles,
        raw: RawProcess,
        status: ThreadStatus,
        mappings: Sequence[Mapping],
        silence: str,
        notes: Notes,
    ) -> None:
        self._files = files
        self._raw = raw
        self._status = status
        self._mappings = mappings
        self._silence = silence
        self._notes = notes

    def make(self, seccomp_filters: list[bytes], *, stopped: bool) -> ProcessState:
        """Everything but descriptors and locks."""
        files, status = self._files, self._status
        stat = parse_process_stat(files.content("stat"))
        leader = parse_process_stat(files.content(LEADER_STAT)) if LEADER_STAT in files.contents else stat
        monotonic_offset_ns, boottime_offset_ns = self._time_offsets()
        return ProcessState(
            lineage=lineage_record(leader, status),
            auxv=self._notes.attempt("auxiliary vector", lambda: files.content("auxv"), b""),
            environment=self._notes.attempt("environment", lambda: files.content("environ"), b""),
            layout=self._layout(stat),
            dispositions=self._dispositions(),
            pending=pending_signals(self._raw.pending, status.shared_pending_signals),
            posix_timers=self._notes.attempt("POSIX timers", self._posix_timers, []),
            interval_timers=self._interval_timers(),
            limits=self._notes.attempt("resource limits", self._limits, []),
            credentials=credentials(status),
            seccomp_filters=seccomp_filters,
            umask=self._umask(),
            cwd=self._notes.attempt("working directory", lambda: files.link("cwd"), ""),
            root=self._notes.attempt("root directory", lambda: files.link("root"), ""),
            namespaces=self._namespaces(),
            monotonic_offset_ns=monotonic_offset_ns,
            boottime_offset_ns=boottime_offset_ns,
            cgroups=self._notes.attempt("cgroups", lambda: [*map(at_home, parse_cgroups(files.content("cgroup")))], []),
            personality=self._number("personality", "personality", 16),
            oom_score_adj=self._number("oom_score_adj", "OOM score adjustment", 10),
            coredump_filter=self._number("coredump_filter", "core dump filter", 16),
            thp_disabled=status.thp_disabled,
            stopped=stopped,
            prctl=self._prctl(),
        )

    def _number(self, name: str, what: str, base: int) -> int:
        return self._notes.attempt(what, lambda: int(self._files.content(name), base), 0)

    def _umask(self) -> int:
        if self._status.umask is None:
            self._notes.add("umask", "the kernel does not tell it")
        return self._status.umask or 0

    def _layout(self, stat: ProcessStat) -> MemoryLayout | None:
        if not stat.start_code_addr or not stat.start_stack_addr:
            self._notes.add("memory layout", "the kernel tells it only to those who may trace the process")
            return None
        return MemoryLayout(
            start_code_addr=stat.start_code_addr,
            end_code_addr=stat.end_code_addr,
            start_data_addr=stat.start_data_addr,
            end_data_addr=stat.end_data_addr,
            start_brk_addr=stat.start_brk_addr,
            brk_addr=self._brk_addr(stat.start_brk_addr),
            start_stack_addr=stat.start_stack_addr,
            arg_start_addr=stat.arg_start_addr,
            arg_end_addr=stat.arg_end_addr,
            env_start_addr=stat.env_start_addr,
            env_end_addr=stat.env_end_addr,
        )

    def _brk_addr(self, start_brk_addr: int) -> int:
        if self._raw.brk_addr is not None:
            return self._raw.brk_addr
        self._notes.add("program break, but for the page it is in", self._silence)
        return max((m.end_addr for m in self._mappings if m.path == "[heap]"), default=start_brk_addr)

    def _dispositions(self) -> list[Disposition]:
        if self._raw.dispositions is not None:
            found = [
                Disposition(number=number, handler_addr=handler, flags=flags, restorer_addr=restorer, mask=mask)
                for number, handler, flags, restorer, mask in self._raw.dispositions
            ]
            return [one for one in found if one.handler_addr or one.flags or one.mask]
        if caught := [number for number in SIGNALS if self._status.caught_signals >> (number - 1) & 1]:
            self._notes.add(f"handlers of signals {', '.join(map(str, caught))}", self._silence)
        return [
            Disposition(number=number, handler_addr=SIG_IGN, flags=0, restorer_addr=0, mask=0)
            for number in SIGNALS
            if self._status.ignored_signals >> (number - 1) & 1
        ]

    def _posix_timers(self) -> list[PosixTimer]:
        """Raises OSError, ValueError."""
        told = self._raw.posix_timers or {}
        found = []
        for timer in parse_timers(self._files.content("timers")):
            if timer.id not in told:
                self._notes.add(f"time of POSIX timer {timer.id}", self._silence)
            interval_ns, remaining_ns, overruns = told.get(timer.id, (0, 0, 0))
            found.append(
                PosixTimer(
                    id=timer.id,
                    clock=timer.clock,
                    signal=timer.signal,
                    value=timer.value,
                    notify=timer.notify,
                    tid=timer.tid,
                    interval_ns=interval_ns,
                    remaining_ns=remaining_ns,
                    overruns=overruns,
                )
            )
        return found

    def _interval_timers(self) -> list[IntervalTimer]:
        if self._raw.interval_timers is None:
            self._notes.add("interval timers", self._silence)
        return [
            IntervalTimer(which=which, interval_us=interval_us, remaining_us=remaining_us)
            for which, interval_us, remaining_us in self._raw.interval_timers or []
            if interval_us or remaining_us
        ]

    def _limits(self) -> list[Limit]:
        """Raises OSError, ValueError."""
        return [
            Limit(resource=resource, soft=soft, hard=hard)
            for resource, soft, hard in parse_limits(self._files.content("limits"))
        ]

    def _namespaces(self) -> list[Namespace]:
        found = []
        for kind in KINDS:
            link = self._files.links[f"ns/{kind}"]
            if isinstance(link, FileNotFoundError):
                continue  # a kernel without that kind
            inode = self._notes.attempt(f"{kind} namespace", lambda: parse_inode(self._files.link(f"ns/{kind}")), 0)  # noqa: B023
            if inode:
                found.append(Namespace(kind=kind, inode=inode))
        return found

    def _time_offsets(self) -> tuple[int, int]:
        if isinstance(self._files.contents["timens_offsets"], FileNotFoundError):
            return 0, 0  # a kernel without time namespaces
        if self._files.links["ns/time"] != self._files.links["ns/time_for_children"]:
            # The file has those of the namespace that its children will be in: time_namespaces(7).
            self._notes.add(
                "clock offsets", "it has unshared its time namespace, and the kernel tells only the new one's"
            )
            return 0, 0
        return self._notes.attempt(
            "clock offsets", lambda: parse_offsets(self._files.content("timens_offsets")), (0, 0)
        )

    def _prctl(self) -> dict[str, int]:
        if self._raw.prctl is None:
            self._notes.add("settings that only prctl(2) tells", self._silence)
        return dict(self._raw.prctl or {})
