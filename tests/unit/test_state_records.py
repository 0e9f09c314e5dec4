"""From what the kernel layer read to the records of a dump, with what is missing named."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from dumper.kernel.state import RawProcess, RawThread
from dumper.proc.maps import Mapping
from dumper.proc.status import ThreadStatus, parse_thread_status
from dumper.state.files import CONTENTS, LEADER_STAT, LINKS, ProcFiles
from dumper.state.notes import Notes
from dumper.state.record import ProcessRecord
from dumper.state.threads import (
    FilterTable,
    credentials,
    note_silent_threads,
    pending_signals,
    system_call,
    thread_record,
)
from formats.processstate import Disposition, IntervalTimer, PosixTimer, ProcessState
from formats.threadstate import PendingSignal, Restart, SignalStack, SystemCall
from tests.unit.test_proc_state import LIMITS, STAT, STATUS, TIMERS

SILENCE = "no call could be injected"
REGISTERS = {"rax": 0, "orig_rax": 0, "rdi": 1, "rsi": 2, "rdx": 3, "r10": 4, "r8": 5, "r9": 6}
SCHED_ATTR = struct.pack("<IIQiIQQQII", 56, 6, 1, -5, 0, 10, 20, 30, 0, 1024)
RAW_THREAD = RawThread(
    tid=7,
    code=bytes(32),
    general=REGISTERS,
    fpregs=b"fp",
    xstate=b"x",
    signal_mask=5,
    pending=[],
    restarted_instead_of_eintr=False,
    rseq=None,
    robust_list=(0x1000, 24),
    sched_attr=SCHED_ATTR,
    cpus=[0, 3],
    io_priority=4,
    seccomp_filters=[b"old", b"new"],
    status=STATUS,
    signal_stack=(0x2000, 8192, 2),
    clear_child_tid_addr=0x3000,
    parent_death_signal=0,
    timer_slack_ns=50_000,
)
RAW_PROCESS = RawProcess(
    pending=[],
    dispositions=[(2, 0x4000, 4, 0x5000, 1), (17, 0, 0, 0, 0)],
    interval_timers=[(0, 0, 0), (2, 5, 6)],
    posix_timers={1: (1, 2, 3), 3: (0, 0, 0), 4: (0, 0, 0), 12: (0, 0, 0)},
    brk_addr=0x6000,
    prctl={"dumpable": 1},
    injected_calls=9,
    refusal="",
)
SILENT_PROCESS = replace(
    RAW_PROCESS, dispositions=None, interval_timers=None, posix_timers=None, brk_addr=None, prctl=None
)
FILES = ProcFiles(
    contents={
        "coredump_filter": b"00000033\n",
        "timens_offsets": b"monotonic 1 0\nboottime 2 0\n",
        "cgroup": b"0::/\n",
        "personality": b"00040000\n",
        "oom_score_adj": b"-1000\n",
        "limits": LIMITS,
        "timers": TIMERS,
        "auxv": b"auxv",
        "environ": b"A=1\0",
        "stat": STAT,
        "status": STATUS,
    },
    links={**dict.fromkeys(LINKS, "x:[77]"), "cwd": "/tmp", "root": "/"},
)
HEAP = Mapping(0x10000, 0x20000, "rw-p", 0, "00:00", 0, "[heap]")


def status() -> ThreadStatus:
    return parse_thread_status(STATUS)


def with_files(**contents: bytes | OSError) -> ProcFiles:
    return ProcFiles(contents={**FILES.contents, **contents}, links=FILES.links)


def make(files: ProcFiles = FILES, raw: RawProcess = RAW_PROCESS) -> tuple[ProcessState, dict[str, str]]:
    """The record, and the reason for each thing that is missing."""
    notes = Notes()
    state = ProcessRecord(files, raw, status(), [HEAP], SILENCE, notes).make([], stopped=False)
    return state, {one.what: one.reason for one in notes.missing()}


def test_everything_is_there() -> None:
    assert set(FILES.contents) == set(CONTENTS)
    state, missing = make()
    assert missing == {}
    assert state.dispositions == [Disposition(number=2, handler_addr=0x4000, flags=4, restorer_addr=0x5000, mask=1)]
    assert state.interval_timers == [IntervalTimer(which=2, interval_us=5, remaining_us=6)]
    assert state.posix_timers[0] == PosixTimer(
        id=1,
        clock=1,
        signal=39,
        value=0xFEEDFACECAFE,
        notify=0,
        tid=0,
        interval_ns=1,
        remaining_ns=2,
        overruns=3,
    )
    assert state.layout
    assert state.layout.brk_addr == 0x6000
    assert (state.monotonic_offset_ns, state.boottime_offset_ns) == (10**9, 2 * 10**9)
    assert (state.personality, state.oom_score_adj, state.coredump_filter) == (0x40000, -1000, 0x33)
    assert (state.lineage.terminal, state.lineage.exit_signal, state.prctl) == (34816, 17, {"dumpable": 1})


def test_what_only_the_process_could_tell_is_named_with_the_reason() -> None:
    state, missing = make(raw=SILENT_PROCESS)
    assert missing == dict.fromkeys(
        [
            "program break, but for the page it is in",
            "handlers of signals 2, 32, 33",
            "time of POSIX timer 1",
            "time of POSIX timer 3",
            "time of POSIX timer 4",
            "time of POSIX timer 12",
            "interval timers",
            "settings that only prctl(2) tells",
        ],
        SILENCE,
    )
    # What is known all the same is kept.
    assert state.dispositions == [Disposition(number=13, handler_addr=1, flags=0, restorer_addr=0, mask=0)]
    assert [(timer.id, timer.signal) for timer in state.posix_timers] == [(1, 39), (3, 41), (4, 0), (12, 14)]
    assert state.layout
    assert state.layout.brk_addr == HEAP.end_addr


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("auxv", "auxiliary vector"),
        ("environ", "environment"),
        ("limits", "resource limits"),
        ("timers", "POSIX timers"),
        ("cgroup", "cgroups"),
        ("personality", "personality"),
        ("timens_offsets", "clock offsets"),
        ("oom_score_adj", "OOM score adjustment"),
        ("coredump_filter", "core dump filter"),
    ],
)
def test_a_file_that_was_refused_is_named(name: str, what: str) -> None:
    _, missing = make(with_files(**{name: PermissionError(errno.EACCES, "no")}))
    assert missing == {what: "could not be read: Permission denied"}


@pytest.mark.parametrize(("name", "what"), [("limits", "resource limits"), ("personality", "personality")])
def test_a_file_that_is_not_understood_is_named(name: str, what: str) -> None:
    _, missing = make(with_files(**{name: b"junk"}))
    assert list(missing) == [what]
    assert "junk" in missing[what]


def test_links_that_were_refused_or_that_the_kernel_lacks() -> None:
    links: dict[str, str | OSError] = {
        **FILES.links,
        "cwd": PermissionError(errno.EACCES, "no"),
        "ns/net": PermissionError(errno.EACCES, "no"),
        "ns/cgroup": FileNotFoundError(errno.ENOENT, "none"),
    }
    state, missing = make(ProcFiles(contents=FILES.contents, links=links))
    assert sorted(missing) == ["net namespace", "working directory"]
    assert {one.kind for one in state.namespaces} == {
        "ipc",
        "mnt",
        "pid",
        "pid_for_children",
        "time",
        "time_for_children",
        "user",
        "uts",
    }


def test_clock_offsets_of_children_are_not_taken_for_those_of_the_process() -> None:
    state, missing = make(
        ProcFiles(contents=FILES.contents, links={**FILES.links, "ns/time_for_children": "time:[78]"})
    )
    assert (state.monotonic_offset_ns, state.boottime_offset_ns) == (0, 0)
    assert list(missing) == ["clock offsets"]


def test_a_layout_that_the_kernel_keeps_secret() -> None:
    state, missing = make(with_files(stat=STAT.replace(b"93925502562304 93925502582185", b"1 1")))
    assert state.layout is None
    assert list(missing) == ["memory layout"]


def test_the_exit_signal_is_that_of_the_leader() -> None:
    assert STAT.count(b" 0 17 0 ") == 1
    files = with_files(stat=STAT.replace(b" 0 17 0 ", b" 0 -1 0 "))
    files.contents[LEADER_STAT] = STAT
    assert make(files)[0].lineage.exit_signal == 17


# ---- threads ----


def test_signals_out_of_the_queue_come_with_what_the_kernel_would_make_up() -> None:
    queue = [struct.pack("<iii", number, 0, -1).ljust(128, b"\7") for number in (35, 35, 9)]
    found = pending_signals(queue, 1 << 34 | 1 << 11 | 1 << 63)
    assert found == [
        PendingSignal(number=35, siginfo=queue[0]),
        PendingSignal(number=35, siginfo=queue[1]),
        PendingSignal(number=9, siginfo=queue[2]),
        PendingSignal(number=12, siginfo=struct.pack("<i", 12) + bytes(124)),
        PendingSignal(number=64, siginfo=struct.pack("<i", 64) + bytes(124)),
    ]


@pytest.mark.parametrize(
    ("rax", "restart"),
    [
        (-512, Restart.AGAIN),
        (-513, Restart.AGAIN),
        (-514, Restart.AGAIN),
        (-516, Restart.REMAINING),
        (-515, Restart.FINISHED),
        (-4, Restart.FINISHED),
        (0, Restart.FINISHED),
        (10, Restart.FINISHED),
    ],
)
def test_system_calls(rax: int, restart: Restart) -> None:
    registers = {**REGISTERS, "orig_rax": 35, "rax": rax & (1 << 64) - 1}
    found = system_call(replace(RAW_THREAD, general=registers))
    assert found == SystemCall(number=35, arguments=[1, 2, 3, 4, 5, 6], restart=restart)


def test_a_call_that_starts_over_instead_of_failing_and_a_thread_in_no_call() -> None:
    registers = {**REGISTERS, "rax": (1 << 64) - 514}
    again = system_call(replace(RAW_THREAD, general=registers, restarted_instead_of_eintr=True))
    assert again
    assert again.restart == Restart.AGAIN_INSTEAD_OF_EINTR
    assert system_call(replace(RAW_THREAD, general={**REGISTERS, "orig_rax": (1 << 64) - 1})) is None


def test_a_thread() -> None:
    notes, filters = Notes(), FilterTable()
    filters.index(b"new")
    thread = thread_record(RAW_THREAD, status(), status(), filters, notes)
    assert notes.missing() == []
    assert (thread.name, thread.ns_tids, thread.seccomp_mode) == ("back\\slash\nnewline: x", [29079, 13, 2], 2)
    assert filters.filters == [b"new", b"old"]
    assert thread.seccomp_filters == [1, 0]
    assert thread.signal_stack == SignalStack(addr=0x2000, size_bytes=8192, flags=2)
    assert (thread.robust_list_addr, thread.robust_list_bytes) == (0x1000, 24)
    assert thread.pending == [PendingSignal(number=10, siginfo=struct.pack("<i", 10) + bytes(124))]
    scheduling = thread.scheduling
    assert scheduling
    assert (scheduling.policy, scheduling.flags, scheduling.nice, scheduling.priority) == (6, 1, -5, 0)
    assert (scheduling.runtime_ns, scheduling.deadline_ns, scheduling.period_ns) == (10, 20, 30)
    assert (scheduling.cpus, scheduling.io_priority, scheduling.timer_slack_ns) == ([0, 3], 4, 50_000)
    assert thread.credentials is None


def test_credentials_of_a_thread_that_differ() -> None:
    of_process, notes = replace(status(), uids=[9, 9, 9, 9]), Notes()
    thread = thread_record(RAW_THREAD, status(), of_process, FilterTable(), notes)
    assert thread.credentials == credentials(status())
    assert notes.missing() == []


def test_an_umask_of_its_own_is_named() -> None:
    notes = Notes()
    thread_record(RAW_THREAD, status(), replace(status(), umask=0), FilterTable(), notes)
    assert [one.what for one in notes.missing()] == ["umask of thread 7"]


def test_filters_and_scheduling_that_could_not_be_read() -> None:
    notes = Notes()
    raw = replace(RAW_THREAD, seccomp_filters=None, sched_attr=b"")
    thread = thread_record(raw, status(), status(), FilterTable(), notes)
    assert (thread.seccomp_filters, thread.scheduling) == ([], None)
    assert [one.what for one in notes.missing()] == ["seccomp filters of thread 7", "scheduling of thread 7"]


def test_threads_that_did_not_tell_share_a_note() -> None:
    silent = replace(
        RAW_THREAD, signal_stack=None, clear_child_tid_addr=None, parent_death_signal=None, timer_slack_ns=None
    )
    notes = Notes()
    note_silent_threads([silent, replace(silent, tid=8)], SILENCE, notes)
    note_silent_threads([RAW_THREAD, replace(RAW_THREAD, tid=8, timer_slack_ns=None)], "why", notes)
    note_silent_threads([RAW_THREAD], "never", notes)
    assert [(one.what, one.reason) for one in notes.missing()] == [
        ("signal stack, clear_child_tid, parent death signal, timer slack of all threads", SILENCE),
        ("timer slack of threads 8", "why"),
    ]


def test_own_files_are_all_read() -> None:
    assert all((Path("/proc/self") / name).exists() for name in CONTENTS)
