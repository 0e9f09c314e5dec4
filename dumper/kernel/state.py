"""The state of stopped threads: what the kernel tells from outside, and what injected calls make them tell.

Inside the freeze `StateReader.read` only fills buffers that were there before; they are unpacked after it.
"""

import errno
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dumper.kernel.native import checked, ffi, lib, new_array
from dumper.kernel.ptrace import REGISTER_NAMES, InjectionSite, StopError, ThreadSet, native_site
from formats.closing import Closing
from formats.faults import Point, native_step

SIGINFO_BYTES = 128
ARENA_BYTES_PER_THREAD = 4096  # of /proc/PID/task/TID/status, and a few queued signals
ARENA_SPARE_BYTES = 64 << 10
FIRST_READ_BYTES = 4096
MAX_POSIX_TIMERS = 256  # there is room for more, but not beforehand
ASK_TIMEOUT_NS = 500_000_000  # of a busy host: what is not answered is missing, and such a dump cannot be restored
LEAVE_VDSO_TIMEOUT_NS = 20_000_000
MAX_STUCK_THREADS = 4096
ASK_STEPS = {
    Point.ASK_FRAMES: lib.PD_ASK_STEP_FRAMES,
    Point.ASK_SET: lib.PD_ASK_STEP_SET,
    Point.ASK_MASKED: lib.PD_ASK_STEP_MASKED,
    Point.ASK_ENTERED: lib.PD_ASK_STEP_ENTERED,
    Point.ASK_RETURNED: lib.PD_ASK_STEP_RETURNED,
    Point.ASK_AGAIN: lib.PD_ASK_STEP_AGAIN,
    Point.ASK_CHAIN: lib.PD_ASK_STEP_CHAIN,
    Point.ASK_CHAINED: lib.PD_ASK_STEP_CHAINED,
    Point.ASK_UNMASKED: lib.PD_ASK_STEP_UNMASKED,
    Point.ASK_REGISTERS: lib.PD_ASK_STEP_REGISTERS,
    Point.ASK_PARTLY: lib.PD_ASK_STEP_PARTLY,
}
SETTINGS = [  # in the order of PD_PRCTL_*
    "dumpable",
    "keepcaps",
    "securebits",
    "child_subreaper",
    "tsc",
    "mce_kill",
    "mdwe",
    "io_flusher",
    "memory_merge",
    "cpuid",
    "xcomp_perm",
]
REFUSALS = {
    errno.ENOEXEC: "it runs no 64-bit code, has a shadow stack, or its code has changed",
    errno.EPERM: "its seccomp filter could not be suspended",
    errno.ENOSPC: "its stack has no room for a signal frame",
    errno.ETIMEDOUT: "it does not run the call: its cgroup may be frozen",
}


@dataclass(frozen=True, slots=True)
class RawRseq:
    """The registration of rseq(2); `abort_addr` is 0 unless the thread was stopped inside the section."""

    addr: int
    size_bytes: int
    signature: int
    flags: int
    section_addr: int
    abort_addr: int


@dataclass(frozen=True, slots=True)
class RawThread:
    """A thread as it was stopped, before anything was injected.

    `code` is what lies ahead of the instruction pointer where a call goes on by restart_syscall(2), else zeros.
    `pending` holds a siginfo_t each, `seccomp_filters` struct sock_filter arrays, oldest first (None: they may not be
    read), `robust_list` address and bytes. The last four may be None where nothing could be injected.
    """

    tid: int
    general: dict[str, int]
    code: bytes
    fpregs: bytes
    xstate: bytes
    signal_mask: int
    pending: list[bytes]
    restarted_instead_of_eintr: bool
    rseq: RawRseq | None
    robust_list: tuple[int, int]
    sched_attr: bytes
    cpus: list[int]
    io_priority: int
    seccomp_filters: list[bytes] | None
    status: bytes
    signal_stack: tuple[int, int, int] | None
    clear_child_tid_addr: int | None
    parent_death_signal: int | None
    timer_slack_ns: int | None


@dataclass(frozen=True, slots=True)
class RawProcess:
    """What is one for all threads. Without injection all but `pending` is None, and `refusal` says why.

    dispositions: number, handler, flags, restorer, mask of each signal that was asked for; interval_timers: which,
    interval and remaining time in us; posix_timers: by id interval, remaining time (ns) and overruns, without those
    that were gone; prctl: by name, without those the kernel does not know.
    """

    pending: list[bytes]
    dispositions: list[tuple[int, int, int, int, int]] | None
    interval_timers: list[tuple[int, int, int]] | None
    posix_timers: dict[int, tuple[int, int, int]] | None
    brk_addr: int | None
    prctl: dict[str, int] | None
    injected_calls: int
    refusal: str


class StateReader(Closing):
    """Reads the state of all threads of a stopped process; one for many freezes.

    The buffers are allocated, and touched, for `capacity_threads` threads; with more of them the freeze gets longer.
    """

    def __init__(self, capacity_threads: int) -> None:
        self._process = ffi.new("struct pd_process_state *")
        self._arena = ffi.new("struct pd_arena *")
        self._asking = ffi.new("struct pd_asking *")
        self._count = 0
        self._timers: Any = None
        self._timer_count = 0
        self._reserve_threads(capacity_threads)
        self._reserve_arena(capacity_threads * ARENA_BYTES_PER_THREAD + ARENA_SPARE_BYTES)
        self._reserve_timers(MAX_POSIX_TIMERS)
        self._has_site = False
        self._files: Any = ffi.NULL
        self._file_count = 0

    def open_files(self, pid: int) -> None:
        """Opens files of the threads of a process ahead: in the freeze they need only be read. `close` closes them.

        Raises OSError: ENOENT if the process is gone.
        """
        tids = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - twice as fast
        rows = [(tid, _opened(f"/proc/{pid}/task/{tid}/status"), _opened(f"/proc/{tid}/timerslack_ns")) for tid in tids]
        self._files, self._file_count = ffi.new("struct pd_thread_files[]", rows), len(rows)

    def close(self) -> None:
        """Closes what `open_files` opened."""
        for k in range(self._file_count):
            files = self._files[k]
            for fd in (files.status_fd, files.timer_slack_fd):
                if fd >= 0:
                    os.close(fd)
        self._files, self._file_count = ffi.NULL, 0

    def _reserve_threads(self, count: int) -> None:
        self._capacity = max(count, 1)
        self._states = _touched("struct pd_thread_state", self._capacity)

    def _reserve_arena(self, size_bytes: int) -> None:
        self._arena_bytes = _touched("uint8_t", size_bytes)
        self._arena.bytes = self._arena_bytes
        self._arena.capacity_bytes = size_bytes

    def _reserve_timers(self, count: int) -> None:
        self._timers = _touched("struct pd_posix_timer", count)
        self._timers_capacity = count

    def read(
        self,
        threads: ThreadSet,
        pid: int,
        mem_fd: int,
        site: InjectionSite | None,
        *,
        signals: int,
        timer_ids: Sequence[int],
    ) -> None:
        """Reads everything; inside the freeze. `threads` and `process` give it later.

        `signals`: bit n-1 asks for the disposition of signal n. Without a `site` nothing is injected. Threads that
        are killed meanwhile are left out.
        """
        self._read_outside(threads, pid, mem_fd)
        self._timer_count = len(timer_ids)
        if self._timer_count > self._timers_capacity:
            self._reserve_timers(self._timer_count)
        for k, timer_id in enumerate(timer_ids):
            self._timers[k] = (timer_id, 0, 0, 0, 0)
        self._asking[0] = ffi.new("struct pd_asking *")[0]
        self._has_site = site is not None
        if site is None:
            return
        c_site = native_site(site)
        self._asking.site = c_site
        self._asking.mem_fd = mem_fd
        self._asking.seccomp_suspended = threads.seccomp_suspended
        self._asking.in_stop = threads.in_stop
        self._asking.timeout_ns = ASK_TIMEOUT_NS
        self._asking.die_at, self._asking.victim = native_step(ASK_STEPS)
        checked(lib.pd_ask_threads(self._states, self._count, self._asking))
        checked(
            lib.pd_ask_process(
                self._states, self._count, self._asking, signals, self._timers, self._timer_count, self._process
            )
        )

    def _read_outside(self, threads: ThreadSet, pid: int, mem_fd: int) -> None:
        thread_list = threads.native_list
        self._count = int(thread_list.n_threads)
        if self._count > self._capacity:
            self._reserve_threads(self._count)
        while True:
            result = lib.pd_read_threads(
                pid,
                thread_list,
                mem_fd,
                self._files,
                self._file_count,
                self._states,
                self._capacity,
                self._process,
                self._arena,
            )
            if result != -errno.ENOSPC:
                break
            self._reserve_arena(2 * int(self._arena.capacity_bytes))
        checked(result)

    def _bytes(self, at: int, count: int) -> bytes:
        return bytes(ffi.buffer(self._arena_bytes + at, count))

    def _pending(self, owner: Any) -> list[bytes]:
        first = int(owner.pending_at)
        return [self._bytes(first + k * SIGINFO_BYTES, SIGINFO_BYTES) for k in range(owner.n_pending)]

    def _filters(self, state: Any) -> list[bytes] | None:
        if state.n_filters < 0:
            return None
        filters = []
        at = int(state.filters_at)
        for _ in range(state.n_filters):
            (length,) = struct.unpack("=I", self._bytes(at, 4))
            filters.append(self._bytes(at + 4, length))
            at += 4 + length
        return filters

    def _alive(self) -> list[Any]:
        return [self._states[i] for i in range(self._count) if self._states[i].tid]

    def asked_tids(self) -> list[int]:
        """The threads that answered injected calls."""
        return [int(state.tid) for state in self._alive() if state.asked == lib.PD_ASKED]

    def threads(self) -> list[RawThread]:
        """The threads that `read` found, by thread id; after the freeze."""
        return sorted((self._thread(state) for state in self._alive()), key=lambda thread: thread.tid)

    def _thread(self, state: Any) -> RawThread:
        words = ffi.cast("uint64_t *", state.gp)
        is_asked = state.asked == lib.PD_ASKED
        stack = (int(state.signal_stack_addr), int(state.signal_stack_bytes), int(state.signal_stack_flags))
        return RawThread(
            tid=int(state.tid),
            general={name: int(words[k]) for k, name in enumerate(REGISTER_NAMES)},
            code=bytes(ffi.buffer(state.code)),
            fpregs=bytes(state.fp),
            xstate=bytes(ffi.buffer(state.xstate, state.xstate_bytes)),
            signal_mask=int(state.signal_mask),
            pending=self._pending(state),
            restarted_instead_of_eintr=bool(state.restarted),
            rseq=_rseq(state),
            robust_list=(int(state.robust_list_addr), int(state.robust_list_bytes)),
            sched_attr=bytes(ffi.buffer(state.sched_attr, state.sched_attr_bytes)),
            cpus=_bits(bytes(ffi.buffer(state.cpus, state.cpus_bytes))),
            io_priority=int(state.io_priority),
            seccomp_filters=self._filters(state),
            status=self._bytes(int(state.status_at), int(state.status_bytes)),
            signal_stack=stack if is_asked else None,
            clear_child_tid_addr=int(state.clear_child_tid_addr) if state.clear_child_tid_known else None,
            parent_death_signal=int(state.parent_death_signal) if is_asked else None,
            timer_slack_ns=int(state.timer_slack_ns) if state.timer_slack_ns >= 0 else None,
        )

    def process(self) -> RawProcess:
        """What `read` found out about the process; after the freeze."""
        process = self._process
        is_asked = process.asked == lib.PD_ASKED
        timers = {int(t.id): (int(t.interval_ns), int(t.remaining_ns), int(t.overruns)) for t in self._known_timers()}
        return RawProcess(
            pending=self._pending(process),
            dispositions=_dispositions(process) if is_asked else None,
            interval_timers=_interval_timers(process) if is_asked else None,
            posix_timers=timers if is_asked else None,
            brk_addr=int(process.brk_addr) if is_asked else None,
            prctl=_settings(process) if is_asked else None,
            injected_calls=int(self._asking.n_calls),
            refusal=self._why_not(),
        )

    def _known_timers(self) -> list[Any]:
        return [timer for timer in self._timers[0 : self._timer_count] if timer.known]

    def _why_not(self) -> str:
        """Why not everything could be asked; "" if all was."""
        if not self._has_site:
            return "there is no place for an injected call"
        for state in self._alive():
            if state.asked not in (lib.PD_ASKED, lib.PD_NOT_ASKED, -errno.ESRCH):
                return f"thread {state.tid}: {_reason(-state.asked)}"
        if self._process.asked != lib.PD_ASKED:
            return f"the process: {_reason(-self._process.asked)}"
        return ""


def leave_vdso(threads: ThreadSet, vdso_start_addr: int, vdso_end_addr: int) -> list[int]:
    """Lets threads that were stopped inside the vdso run until they are outside; right after the stop.

    They make no system call meanwhile but the vdso's own. Returns the threads that would not leave, or that a signal
    took to a handler above it.

    Raises:
        StopError: ETIMEDOUT, a thread would not stop again; resume them all.
    """
    stuck = new_array("int32_t", MAX_STUCK_THREADS)
    result = lib.pd_leave_vdso(
        threads.native_list,
        vdso_start_addr,
        vdso_end_addr,
        threads.seccomp_suspended,
        LEAVE_VDSO_TIMEOUT_NS,
        stuck,
        MAX_STUCK_THREADS,
    )
    if result < 0:
        raise StopError(-result, int(threads.native_list.failed_tid))
    return [int(tid) for tid in stuck[0:result]]


def _opened(path: str) -> int:
    """A descriptor that was read from once, so that the kernel has its buffer; -1 if it cannot be had."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    with suppress(OSError):
        os.pread(fd, FIRST_READ_BYTES, 0)
    return fd


def _touched(item_type: str, count: int) -> Any:
    """A new array whose pages are in memory."""
    array = new_array(item_type, count)
    ffi.memmove(array, bytes(ffi.sizeof(array)), ffi.sizeof(array))
    return array


def _reason(error: int) -> str:
    return REFUSALS.get(error, errno.errorcode.get(error, "no thread was left to ask"))


def _rseq(state: Any) -> RawRseq | None:
    if not state.rseq_addr:
        return None
    return RawRseq(
        addr=int(state.rseq_addr),
        size_bytes=int(state.rseq_bytes),
        signature=int(state.rseq_signature),
        flags=int(state.rseq_flags),
        section_addr=int(state.rseq_section_addr),
        abort_addr=int(state.rseq_abort_addr),
    )


def _bits(mask: bytes) -> list[int]:
    value = int.from_bytes(mask, "little")
    return [k for k in range(value.bit_length()) if value >> k & 1]


def _dispositions(process: Any) -> list[tuple[int, int, int, int, int]]:
    found = []
    for k in range(lib.PD_N_SIGNALS):
        if process.signals_known >> k & 1:
            d = process.dispositions[k]
            found.append((k + 1, int(d.handler_addr), int(d.flags), int(d.restorer_addr), int(d.mask)))
    return found


def _interval_timers(process: Any) -> list[tuple[int, int, int]]:
    timers = enumerate(process.interval_timers)
    return [(k, int(t.interval_us), int(t.remaining_us)) for k, t in timers if process.interval_timers_known >> k & 1]


def _settings(process: Any) -> dict[str, int]:
    values = enumerate(SETTINGS)
    return {name: int(process.prctl_values[k]) for k, name in values if process.prctl_known >> k & 1}
