"""A dump finds the whole state of a process and of each of its threads: every value that tests/targets/state.c set."""

from __future__ import annotations

import json
import os
import signal
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from formats.checkpoint import Checkpoint
from formats.manifest import Missing
from formats.processstate import Disposition, IntervalTimer, Limit, ProcessState
from formats.threadstate import PendingSignal, Restart, Thread
from tests.harness import Target, poll_until, predump

pytestmark = pytest.mark.usefixtures("targets")

NAMES = ["plain", "credentials", "sched:) uled", "filtered", "sleeper", "poller", "section", "spinner"]
READ, PAUSE, RESTART_SYSCALL, CLOCK_NANOSLEEP, EPOLL_WAIT = 0, 34, 219, 230, 232
CALLS = {"leader": READ, "plain": PAUSE, "sleeper": CLOCK_NANOSLEEP, "poller": EPOLL_WAIT}
STACK_BYTES = 16384
SA_RESTORER = 0x04000000
ALL_CAPS = (1 << 41) - 1
CAP_CHOWN, CAP_KILL, CAP_SYS_TIME = 1 << 0, 1 << 5, 1 << 25
SI_USER, SI_QUEUE, SI_TKILL = 0, -1, -6
RSEQ_SIGNATURE = 0x53053053
SIGEV_THREAD_ID = 4
CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME = 0, 1, 7
NS_PER_S = 10**9
RET_ALLOW = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)


@dataclass(frozen=True)
class Captured:
    """What the target told of itself, and what was captured of it."""

    pid: int
    info: dict[str, int]
    told_threads: dict[str, dict[str, int]]
    timers: list[int]
    directory: Path
    state: ProcessState
    threads: dict[str, Thread]
    missing: list[Missing]

    def told(self, name: str) -> int:
        """An address of the target."""
        return self.info[name]


def capture(pid: int) -> tuple[ProcessState, list[Thread], list[Missing]]:
    """The state of a process as a dump has it; it runs on afterwards."""
    with tempfile.TemporaryDirectory(prefix="predump-test-") as directory:
        checkpoint = Path(directory) / "checkpoint"
        predump("dump", "-p", pid, "-D", checkpoint, "--no-pre-dump")
        (process,) = Checkpoint.open(checkpoint).round().manifest.processes
    assert process.state is not None
    return process.state, process.threads, process.missing


def waits_in(pid: int, tid: int, call: int) -> bool:
    """Whether a thread sleeps in this system call."""
    return Path(f"/proc/{pid}/task/{tid}/syscall").read_text().startswith(f"{call} ")


@pytest.fixture(scope="module")
def captured(targets: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:  # noqa: ARG001
    directory = tmp_path_factory.mktemp("state") / "a directory"
    directory.mkdir()
    with Target.spawn("state", directory) as target:
        info = json.loads(target.command("info").removeprefix("ok "))
        told_threads = info.pop("threads")
        for name, call in CALLS.items():
            tid = told_threads[name]["tid"]
            poll_until(partial(waits_in, target.pid, tid, call), 10, f"thread {name} to be in call {call}")
        state, threads, missing = capture(target.pid)
        timers = info.pop("timers")
        by_tid = {thread.tid: thread for thread in threads}
        by_name = {name: by_tid.pop(told["tid"]) for name, told in told_threads.items()}
        assert not by_tid, "threads that do not exist"
        yield Captured(target.pid, info, told_threads, timers, directory, state, by_name, missing)
        target.check()


def bits(*signals: int) -> int:
    return sum(1 << (number - 1) for number in signals)


# ---- signals ----


def test_nothing_is_missing(captured: Captured) -> None:
    assert captured.missing == []


def test_dispositions(captured: Captured) -> None:
    found = {one.number: one for one in captured.state.dispositions if one.number not in (32, 33)}
    restorer = found[signal.SIGUSR1].restorer_addr
    assert restorer
    assert found == {
        signal.SIGUSR1: Disposition(
            number=signal.SIGUSR1,
            handler_addr=captured.told("on_siginfo"),
            flags=0x4 | 0x10000000 | 0x08000000 | SA_RESTORER,  # SA_SIGINFO, SA_RESTART, SA_ONSTACK
            restorer_addr=restorer,
            mask=bits(signal.SIGHUP, signal.SIGUSR2, 64),
        ),
        40: Disposition(
            number=40,
            handler_addr=captured.told("on_signal"),
            flags=0x40000000 | 0x80000000 | SA_RESTORER,  # SA_NODEFER, SA_RESETHAND
            restorer_addr=restorer,
            mask=0,
        ),
        signal.SIGCHLD: Disposition(
            number=signal.SIGCHLD,
            handler_addr=0,
            flags=1 | 2 | SA_RESTORER,  # SA_NOCLDSTOP, SA_NOCLDWAIT
            restorer_addr=restorer,
            mask=0,
        ),
        signal.SIGWINCH: Disposition(
            number=signal.SIGWINCH, handler_addr=1, flags=SA_RESTORER, restorer_addr=restorer, mask=0
        ),
    }


def pending(signals: list[PendingSignal], pid: int) -> list[tuple[int, int, int]]:
    """Number, si_code, si_value of each, all of which the process must have sent itself."""
    found = []
    for one in signals:
        assert len(one.siginfo) == 128
        number, _, code, sender_pid, sender_uid, value = struct.unpack_from("<iii4xiiQ", one.siginfo)
        assert (number, sender_pid, sender_uid) == (one.number, pid, os.getuid())
        found.append((number, code, value))
    return found


def test_pending_signals(captured: Captured) -> None:
    assert pending(captured.state.pending, captured.pid) == [
        (signal.SIGUSR1, SI_USER, 0),
        (35, SI_QUEUE, 0x1122334455667788),
        (35, SI_QUEUE, 222),
    ]
    assert pending(captured.threads["plain"].pending, captured.pid) == [
        (36, SI_QUEUE, 333),
        (signal.SIGUSR1, SI_TKILL, 0),
    ]
    assert pending(captured.threads["leader"].pending, captured.pid) == [(37, SI_QUEUE, 444)]
    assert captured.threads["sleeper"].pending == []


def test_signal_masks_and_stacks(captured: Captured) -> None:
    for index, name in enumerate([*NAMES, "leader"]):
        thread = captured.threads[name]
        assert thread.signal_mask == bits(signal.SIGUSR1, 35, 36, 37, 38)
        assert thread.signal_stack
        assert thread.signal_stack.addr == captured.told("stacks") + STACK_BYTES * index
        assert thread.signal_stack.size_bytes == (STACK_BYTES - 16 * index)
        assert thread.signal_stack.flags == 0


# ---- timers ----


def test_posix_timers(captured: Captured) -> None:
    by_signal, silent, by_thread, late = (
        next(timer for timer in captured.state.posix_timers if timer.id == number) for number in captured.timers
    )
    assert len(captured.state.posix_timers) == 4
    assert captured.timers == [1, 2, 3, 4], "the ids after one that was deleted"

    assert (by_signal.clock, by_signal.notify, by_signal.signal) == (CLOCK_MONOTONIC, 0, 39)
    assert (by_signal.value, by_signal.tid) == (0xFEEDFACECAFE, 0)
    assert by_signal.interval_ns == 3 * NS_PER_S
    assert 4000 * NS_PER_S < by_signal.remaining_ns <= 5000 * NS_PER_S

    assert (silent.clock, silent.notify, silent.interval_ns) == (CLOCK_REALTIME, 1, 0)
    assert 5000 * NS_PER_S < silent.remaining_ns <= 6000 * NS_PER_S

    assert (by_thread.clock, by_thread.notify, by_thread.signal) == (CLOCK_BOOTTIME, SIGEV_THREAD_ID, 41)
    assert (by_thread.value, by_thread.tid) == (5, captured.told_threads["plain"]["tid"])
    assert (by_thread.interval_ns, by_thread.remaining_ns) == (0, 0)

    assert (late.clock, late.signal, late.interval_ns, late.overruns) == (CLOCK_REALTIME, 38, 1000 * NS_PER_S, 5)
    assert by_signal.overruns == 0


def test_interval_timers(captured: Captured) -> None:
    real, profiling = captured.state.interval_timers
    assert (real.which, real.interval_us) == (0, 7_000_008)
    assert 6_000_000_000 < real.remaining_us <= 7_000_000_000
    assert (profiling.which, profiling.interval_us) == (2, 0)
    # Two threads spin, and the kernel counts this clock in ticks.
    assert 8_000_000_000 < profiling.remaining_us <= 9_000_100_000
    assert isinstance(real, IntervalTimer)


# ---- the process ----


def test_layout(captured: Captured) -> None:
    layout = captured.state.layout
    assert layout
    assert layout.start_code_addr <= captured.told("main") < layout.end_code_addr
    assert layout.start_data_addr < layout.end_data_addr <= captured.told("data"), "it lies in .bss"
    assert layout.arg_start_addr == captured.told("argv0")
    assert layout.arg_end_addr == layout.env_start_addr == captured.told("environ0")
    assert layout.env_end_addr > layout.env_start_addr
    assert layout.start_brk_addr < layout.brk_addr == captured.told("brk")
    assert layout.start_stack_addr < layout.arg_start_addr


def test_identity_of_the_process(captured: Captured) -> None:
    state, lineage = captured.state, captured.state.lineage
    assert lineage.ns_pids == [captured.pid]
    assert (lineage.process_group, lineage.session) == (os.getpgid(captured.pid), os.getsid(captured.pid))
    assert lineage.ns_process_groups == [lineage.process_group]
    assert lineage.ns_sessions == [lineage.session]
    assert lineage.exit_signal == signal.SIGCHLD
    assert state.auxv == Path(f"/proc/{captured.pid}/auxv").read_bytes()
    assert state.environment == Path(f"/proc/{captured.pid}/environ").read_bytes()
    assert b"PATH=" in state.environment


def test_what_the_process_set(captured: Captured) -> None:
    state = captured.state
    assert state.umask == 0o27
    assert (state.cwd, state.root) == (str(captured.directory), "/")
    assert state.personality == 0x0040000 | 0x0020000  # ADDR_NO_RANDOMIZE, UNAME26
    assert (state.oom_score_adj, state.coredump_filter, state.thp_disabled) == (77, 0x21, True)
    limits = {limit.resource: limit for limit in state.limits}
    assert sorted(limits) == list(range(16))
    assert limits[7] == Limit(resource=7, soft=123, hard=456)  # RLIMIT_NOFILE
    assert limits[4] == Limit(resource=4, soft=0, hard=(1 << 64) - 1)  # RLIMIT_CORE
    assert limits[0] == Limit(resource=0, soft=100_000, hard=200_000)  # RLIMIT_CPU
    assert state.prctl["child_subreaper"] == 1
    assert state.prctl["securebits"] == 1 << 7  # SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED
    assert state.prctl["dumpable"] == 0, "a thread has changed its user"


def test_namespaces_and_cgroups(captured: Captured) -> None:
    state = captured.state
    found = {one.kind: one.inode for one in state.namespaces}
    for kind in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time"):
        assert found[kind] == Path(f"/proc/self/ns/{kind}").stat().st_ino
    assert (state.monotonic_offset_ns, state.boottime_offset_ns) == (0, 0)
    assert state.cgroups == Path(f"/proc/{captured.pid}/cgroup").read_text().splitlines()


# ---- threads ----


def test_threads_by_name(captured: Captured) -> None:
    names = {name: thread.name for name, thread in captured.threads.items() if name != "leader"}
    assert names == {name: name for name in NAMES}
    assert captured.threads["leader"].name == "state"
    for thread in captured.threads.values():
        assert thread.ns_tids == [thread.tid]


def test_what_the_thread_library_registered(captured: Captured) -> None:
    for name, told in captured.told_threads.items():
        thread = captured.threads[name]
        assert thread.clear_child_tid_addr == told["clear_tid"]
        assert (thread.robust_list_addr, thread.robust_list_bytes) == (told["robust_list"], told["robust_bytes"])
        assert thread.rseq
        assert (thread.rseq.addr, thread.rseq.signature) == (told["rseq"], RSEQ_SIGNATURE)
        assert thread.rseq.size_bytes >= captured.told("rseq_bytes")
        assert thread.rseq.flags == 0
        if name != "section":
            assert (thread.rseq.section_addr, thread.rseq.abort_addr) == (0, 0)


def test_a_thread_in_a_restartable_sequence(tmp_path: Path) -> None:
    with Target.spawn("state", tmp_path) as target:
        info = json.loads(target.command("info").removeprefix("ok "))
        tid = info["threads"]["section"]["tid"]
        found: set[tuple[int, int]] = set()

        def is_inside() -> bool:
            (thread,) = (thread for thread in capture(target.pid)[1] if thread.tid == tid)
            assert thread.rseq
            found.add((thread.rseq.section_addr, thread.rseq.abort_addr))
            return (info["section"], info["abort"]) in found

        # Where the thread had lost its processor it was stopped at the abort handler, on its way in again.
        poll_until(is_inside, 10, "the thread to be stopped inside")
        assert found <= {(info["section"], info["abort"]), (info["section"], 0), (0, 0)}
        target.check()


def test_a_call_that_was_interrupted_before_is_known_by_its_arguments(tmp_path: Path) -> None:
    with Target.spawn("state", tmp_path) as target:
        info = json.loads(target.command("info").removeprefix("ok "))
        tid = info["threads"]["sleeper"]["tid"]
        calls = []
        for call in (CLOCK_NANOSLEEP, RESTART_SYSCALL):
            poll_until(partial(waits_in, target.pid, tid, call), 10, "the thread to sleep")
            calls += [thread.system_call for thread in capture(target.pid)[1] if thread.tid == tid]
        first, second = calls
        assert first
        assert second
        assert first.number == second.number == CLOCK_NANOSLEEP  # in its registers it is RESTART_SYSCALL now
        assert first.arguments == second.arguments
        assert first.restart == second.restart == Restart.REMAINING
        target.check()


def test_credentials(captured: Captured) -> None:
    own = captured.threads["credentials"].credentials
    assert own
    assert (own.uids, own.gids, own.groups) == ([3001, 3002, 3003, 3002], [2001, 2002, 2003, 2002], [1001, 1002])
    assert (own.cap_permitted, own.cap_effective) == (CAP_KILL | CAP_CHOWN, CAP_KILL)
    assert (own.cap_inheritable, own.cap_ambient) == (CAP_CHOWN, CAP_CHOWN)
    assert not own.cap_bounding & CAP_SYS_TIME
    assert not own.no_new_privs

    of_process = captured.state.credentials
    assert (of_process.uids, of_process.gids) == ([os.getuid()] * 4, [os.getgid()] * 4)
    assert of_process.groups == sorted(os.getgroups())
    assert of_process.cap_bounding == own.cap_bounding | CAP_SYS_TIME
    assert of_process.cap_effective & ALL_CAPS

    filtered = captured.threads["filtered"].credentials
    assert filtered
    assert filtered.no_new_privs
    same = set(NAMES) - {"credentials", "filtered"} | {"leader"}
    assert all(captured.threads[name].credentials is None for name in same)


def test_scheduling(captured: Captured) -> None:
    batch = captured.threads["sched:) uled"].scheduling
    assert batch
    assert (batch.policy, batch.flags & 1, batch.nice) == (3, 1, 7)  # SCHED_BATCH, SCHED_FLAG_RESET_ON_FORK
    assert (batch.cpus, batch.io_priority, batch.timer_slack_ns) == ([0], 2 << 13 | 6, 123_456)
    normal = captured.threads["plain"].scheduling
    assert normal
    assert (normal.policy, normal.nice, normal.priority) == (0, 0, 0)
    assert set(normal.cpus) == os.sched_getaffinity(captured.pid)
    assert normal.timer_slack_ns == 50_000
    leader = captured.threads["leader"].scheduling
    assert leader
    assert leader.timer_slack_ns == 77_777


def test_seccomp_filters(captured: Captured) -> None:
    filtered = captured.threads["filtered"]
    assert filtered.seccomp_mode == 2
    programs = [captured.state.seccomp_filters[index] for index in filtered.seccomp_filters]
    assert programs == [struct.pack("<HBBI", 0, 0, 0, code) + RET_ALLOW for code in (0x1111, 0x2222)]
    others = [thread for name, thread in captured.threads.items() if name != "filtered"]
    assert all(thread.seccomp_mode == 0 and thread.seccomp_filters == [] for thread in others)


def test_parent_death_signals(captured: Captured) -> None:
    assert captured.threads["leader"].parent_death_signal == signal.SIGKILL
    assert captured.threads["credentials"].parent_death_signal == signal.SIGUSR2
    assert captured.threads["plain"].parent_death_signal == 0


def test_system_calls(captured: Captured) -> None:
    calls = {name: thread.system_call for name, thread in captured.threads.items()}
    assert calls["spinner"] is None
    assert calls["section"] is None
    leader, plain, sleeper, poller = (calls[name] for name in ("leader", "plain", "sleeper", "poller"))
    assert leader
    assert plain
    assert sleeper
    assert poller
    assert (leader.number, leader.arguments[0], leader.restart) == (READ, 0, Restart.AGAIN)
    assert (plain.number, plain.restart) == (PAUSE, Restart.AGAIN)
    assert (sleeper.number, sleeper.arguments[:2], sleeper.restart) == (CLOCK_NANOSLEEP, [1, 0], Restart.REMAINING)
    assert (poller.number, poller.arguments[2:4]) == (EPOLL_WAIT, [1, 100_000_000])
    assert poller.restart == Restart.AGAIN_INSTEAD_OF_EINTR
