"""The state of stopped threads: right values, nothing changed, and no harm whenever the reader dies."""

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dumper.kernel.ptrace import O_SUSPEND_SECCOMP, InjectionSite, ThreadSet
from dumper.kernel.state import ASK_STEPS, RawProcess, RawThread, StateReader, leave_vdso
from dumper.proc.maps import MapsParser, read_maps
from dumper.site import find_site
from dumper.target import Target as DumpTarget
from formats.faults import VARIABLE, Point
from tests.harness import COMMAND_S, REPO, Target, is_stopped, is_untouched, poll_until, stopped

pytestmark = pytest.mark.usefixtures("targets")

ALL_SIGNALS = (1 << 64) - 1
STOP_NS = 500_000_000
ALT_STACK_BYTES = 65536
MS_NS = 1_000_000
S_NS = 1_000_000_000
DEATHS = 20
RANDOM_DEATHS = 150
MASKS = ["urgent-unblocked", "all-blocked"]  # one stop for all calls of a thread, or two for each
PAUSE = 34  # pause(2)
ONE_BY_ONE_STEPS = (Point.ASK_ENTERED, Point.ASK_RETURNED, Point.ASK_AGAIN)
HUNDREDS = 300
READ_AND_DIE = """
import sys
from dumper.kernel.ptrace import ThreadSet
from dumper.kernel.state import StateReader
from dumper.proc.maps import MapsParser, read_maps
from dumper.site import find_site
from dumper.target import Target
pid = int(sys.argv[1])
with Target(pid) as target:
    site = find_site(target, MapsParser().parse(read_maps(pid)))
    reader = StateReader(64)
    print("reading", flush=True)
    while True:
        threads = ThreadSet(pid)
        threads.stop(500_000_000)
        reader.read(threads, pid, target.mem_fd, site, signals=2**64 - 1, timer_ids=[0, 2])
        threads.resume()
        assert reader.process().refusal == "", reader.process().refusal
"""


@contextmanager
def frozen(pid: int, options: int = 0) -> Iterator[ThreadSet]:
    threads = ThreadSet(pid)
    try:
        threads.stop(STOP_NS, options)
        yield threads
    finally:
        threads.resume()


def site_of(target: DumpTarget) -> InjectionSite:
    return find_site(target, MapsParser().parse(read_maps(target.pid)))


def read_state(
    pid: int, *, options: int = 0, inject: bool = True, timer_ids: tuple[int, ...] = (0, 1, 2)
) -> tuple[list[RawThread], RawProcess]:
    reader = StateReader(64)
    with DumpTarget(pid) as target:
        site = site_of(target) if inject else None
        with frozen(pid, options) as threads:
            reader.read(threads, pid, target.mem_fd, site, signals=ALL_SIGNALS, timer_ids=timer_ids)
    return reader.threads(), reader.process()


def facts_of(target: Target) -> dict[str, object]:
    facts = json.loads(target.ready.removeprefix("ready "))
    assert isinstance(facts, dict)
    return facts


def signal_numbers(siginfos: list[bytes]) -> list[tuple[int, int]]:
    """Number and value of each queued signal: siginfo_t, si_signo and si_value."""
    return [(*struct.unpack_from("=i", info), *struct.unpack_from("=i", info, 24)) for info in siginfos]


def is_pausing(pid: int, tid: int) -> bool:
    """Whether the thread waits in pause(2): proc_pid_syscall(5)."""
    return Path(f"/proc/{pid}/task/{tid}/syscall").read_text().startswith(f"{PAUSE} ")


def test_threads_tell_what_they_set_up() -> None:
    with Target.spawn("state-threads") as target:
        told = facts_of(target)["threads"]
        assert isinstance(told, list)
        poll_until(lambda: all(is_pausing(target.pid, one["tid"]) for one in told), COMMAND_S, "all threads to pause")
        threads, process = read_state(target.pid)
    assert process.refusal == ""
    assert len(threads) == len(told) + 1
    by_tid = {thread.tid: thread for thread in threads}
    for k, facts in enumerate(told):
        thread = by_tid[facts["tid"]]
        assert thread.signal_stack == (facts["signal_stack"], ALT_STACK_BYTES + 4096 * k, 0)
        assert thread.clear_child_tid_addr == facts["clear_child_tid"]
        assert thread.robust_list == (facts["robust_list"], 24)
        assert thread.parent_death_signal == signal.SIGUSR1 + k
        assert thread.timer_slack_ns == (0 if k == 0 else 100000 + k)  # none under SCHED_FIFO
        blocked = ALL_SIGNALS & ~(1 << 8 | 1 << 18 | 3 << 31 | 1 << (signal.SIGTERM + k - 1))
        assert thread.signal_mask == blocked
        assert signal_numbers(thread.pending) == [(signal.SIGRTMIN + 5 + k, 1000 + k)] * (k + 1)
        assert thread.rseq is not None
        assert thread.rseq.size_bytes >= 32
        assert thread.rseq.signature == 0x53053053
        assert (thread.rseq.section_addr, thread.rseq.abort_addr) == (0, 0)
        assert f"Pid:\t{thread.tid}\n".encode() in thread.status
        assert thread.general["orig_rax"] == PAUSE
        assert thread.seccomp_filters == []
        assert thread.fpregs[:464] == thread.xstate[:464]


def test_scheduling_is_read_of_each_thread() -> None:
    with Target.spawn("state-threads") as target:
        threads, _ = read_state(target.pid)
        told = facts_of(target)["threads"]
        cpus = sorted(os.sched_getaffinity(target.pid))
    assert isinstance(told, list)
    fifo, batch, idle = [next(t for t in threads if t.tid == facts["tid"]) for facts in told]
    attributes = [struct.unpack_from("=IIQiI", thread.sched_attr) for thread in (fifo, batch, idle)]
    assert [(policy, nice, priority) for _, policy, _, nice, priority in attributes] == [
        (1, 0, 7),
        (3, 5, 0),
        (5, 0, 0),
    ]
    assert all(
        size == len(thread.sched_attr) for thread, (size, *_) in zip((fifo, batch, idle), attributes, strict=True)
    )
    assert (fifo.cpus, batch.cpus) == ([0], cpus)
    assert batch.io_priority == 2 << 13 | 6


def test_the_process_tells_what_it_set_up() -> None:
    with Target.spawn("state-threads") as target:
        _, process = read_state(target.pid)
        facts = facts_of(target)
    assert process.brk_addr == facts["brk"]
    assert signal_numbers(process.pending) == [(signal.SIGRTMIN + 10, 4711), (signal.SIGRTMIN + 11, 4711)]
    assert process.dispositions is not None
    assert [d[0] for d in process.dispositions] == list(range(1, 65))
    number, handler, flags, restorer, mask = process.dispositions[signal.SIGUSR1 - 1]
    assert (number, handler) == (signal.SIGUSR1, facts["handler"])
    assert flags == 0x4 | 0x08000000 | 0x10000000 | 0x04000000  # SIGINFO, ONSTACK, RESTART, RESTORER
    assert restorer
    assert mask == 1 << (signal.SIGHUP - 1) | 1 << (signal.SIGTERM - 1)
    assert process.dispositions[signal.SIGPIPE - 1][1] == 1
    assert process.dispositions[signal.SIGTERM - 1][1] == 0
    assert process.prctl is not None
    wanted = {
        "dumpable": 1,
        "keepcaps": 1,
        "child_subreaper": 1,
        "mce_kill": 1,
        "tsc": 1,
        "securebits": 16,
    }  # SECBIT_KEEP_CAPS
    assert wanted.items() <= process.prctl.items()


def test_timers_keep_their_ids_and_remaining_times() -> None:
    with Target.spawn("state-threads") as target:
        _, process = read_state(target.pid)
    assert process.interval_timers is not None
    (real, real_interval, real_left), (virtual, _, virtual_left), profiling = process.interval_timers
    assert (real, real_interval, virtual, profiling) == (0, 50_000_000, 1, (2, 0, 0))
    assert 0 < real_left <= 100_000_000
    assert 0 < virtual_left <= 77_010_000  # rounded up to ticks
    assert process.posix_timers is not None
    assert sorted(process.posix_timers) == [0, 2]
    assert process.posix_timers[0][0::2] == (30 * S_NS + 5, 0)
    assert 0 < process.posix_timers[0][1] <= 90 * S_NS
    assert process.posix_timers[2][0] == 0
    assert 0 < process.posix_timers[2][1] <= 60 * S_NS


def test_only_the_signals_asked_for_are_told() -> None:
    with Target.spawn("state-threads") as target, DumpTarget(target.pid) as dump_target:
        reader, site = StateReader(8), site_of(dump_target)
        with frozen(target.pid) as threads:
            reader.read(threads, target.pid, dump_target.mem_fd, site, signals=1 << (signal.SIGUSR1 - 1), timer_ids=[])
    dispositions = reader.process().dispositions
    assert dispositions is not None
    assert [d[0] for d in dispositions] == [signal.SIGUSR1]
    assert reader.process().posix_timers == {}


def test_seccomp_filters_come_oldest_first_and_are_suspended_for_the_calls() -> None:
    with Target.spawn("state-threads", "seccomp") as target:
        threads, process = read_state(target.pid, options=O_SUSPEND_SECCOMP)
        assert "ok" in target.command("died")
    assert process.refusal == ""
    filters = [thread.seccomp_filters for thread in threads if thread.seccomp_filters]
    assert len(filters) == 1
    assert [struct.unpack_from("=HBBI", code, 8)[3] for code in filters[0]] == [0x10001, 0x10002]


def test_a_thread_whose_filter_is_not_suspended_is_not_asked() -> None:
    with Target.spawn("state-threads", "seccomp") as target:
        threads, process = read_state(target.pid)
        assert "ok" in target.command("died")
    (filtered,) = [thread for thread in threads if thread.seccomp_filters]
    assert (filtered.signal_stack, filtered.clear_child_tid_addr, filtered.parent_death_signal) == (None, None, None)
    assert "seccomp" in process.refusal
    assert process.dispositions is not None, "the others are asked"


def test_without_a_site_everything_else_is_read() -> None:
    with Target.spawn("state-threads") as target:
        threads, process = read_state(target.pid, inject=False)
    assert process.refusal
    assert process.injected_calls == 0
    assert (process.dispositions, process.brk_addr, process.prctl, process.posix_timers) == (None, None, None, None)
    assert all(thread.signal_stack is None and thread.status for thread in threads)
    assert len(process.pending) == 2


def test_more_threads_and_signals_than_there_was_room_for() -> None:
    reader = StateReader(1)
    with Target.spawn("state-threads") as target, DumpTarget(target.pid) as dump_target:
        reader._reserve_arena(256)
        site = site_of(dump_target)
        with frozen(target.pid) as threads:
            reader.read(threads, target.pid, dump_target.mem_fd, site, signals=0, timer_ids=list(range(1000)))
    assert len(reader.threads()) == 4
    assert sorted(reader.process().posix_timers or {}) == [0, 2]


def memory_and_registers(pid: int, threads: ThreadSet) -> tuple[list[object], bytes]:
    """All that must not change. Of XSTATE not XSTATE_BV: whether zeros are stored as such is the processor's choice."""
    reader = StateReader(64)
    with DumpTarget(pid) as target:
        reader.read(threads, pid, target.mem_fd, None, signals=0, timer_ids=[])
        stack = next(m for m in MapsParser().parse(read_maps(pid)) if m.path == "[stack]")
        content = os.pread(target.mem_fd, stack.end_addr - stack.start_addr, stack.start_addr)
    facts: list[object] = [
        (t.tid, t.general, t.fpregs, t.xstate[:512], t.xstate[520:], t.signal_mask, t.rseq) for t in reader.threads()
    ]
    return facts, content


@pytest.mark.parametrize("blocked", MASKS)
def test_nothing_is_changed_while_the_threads_stand_still(blocked: str) -> None:
    with Target.spawn("selfcheck", blocked) as target, DumpTarget(target.pid) as dump_target:
        reader, site = StateReader(64), site_of(dump_target)
        for _ in range(20):
            with frozen(target.pid) as threads:
                before = memory_and_registers(target.pid, threads)
                reader.read(threads, target.pid, dump_target.mem_fd, site, signals=ALL_SIGNALS, timer_ids=[0])
                assert memory_and_registers(target.pid, threads) == before
            assert reader.process().refusal == ""
        assert "errors=0" in target.command("status")


@pytest.mark.parametrize("blocked", MASKS)
def test_hundreds_of_readings_go_unnoticed(blocked: str) -> None:
    reader = StateReader(64)
    with Target.spawn("selfcheck", blocked) as target, DumpTarget(target.pid) as dump_target:
        site = site_of(dump_target)
        for _ in range(HUNDREDS):
            with frozen(target.pid) as threads:
                reader.read(threads, target.pid, dump_target.mem_fd, site, signals=ALL_SIGNALS, timer_ids=[0])
            assert reader.process().refusal == ""
        assert "errors=0" in target.command("status")
        assert is_untouched(target.pid)


@contextmanager
def reader_process(pid: int, die_at: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", READ_AND_DIE, str(pid)],
        cwd=REPO,
        env={**os.environ, VARIABLE: die_at},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=COMMAND_S)


@pytest.mark.parametrize("step", ASK_STEPS)
def test_death_at_every_step_leaves_the_target_as_it_was(step: Point) -> None:
    blocked = "all-blocked" if step in ONE_BY_ONE_STEPS else "urgent-unblocked"
    with Target.spawn("selfcheck", blocked) as target:
        for _ in range(DEATHS):
            with reader_process(target.pid, step) as process:
                _, errors = process.communicate(timeout=COMMAND_S)
                assert process.returncode == -signal.SIGKILL, errors
        assert "errors=0" in target.command("status")
        assert is_untouched(target.pid)


@pytest.mark.parametrize("blocked", MASKS)
def test_death_at_any_instant_leaves_the_target_as_it_was(blocked: str) -> None:
    """But for an EINTR of a call that was stopped when the death came, which no tracer can prevent."""
    chance = random.Random(3)
    with Target.spawn("selfcheck", "interruptible", blocked) as target:
        for _ in range(RANDOM_DEATHS):
            with reader_process(target.pid, "") as process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"reading\n"
                time.sleep(chance.uniform(0, 0.02))  # any instant will do
        assert "errors=0" in target.command("status")
        assert is_untouched(target.pid)


def test_a_target_that_was_stopped_stays_stopped() -> None:
    with Target.spawn("selfcheck") as target:
        with stopped(target.pid):
            for _ in range(10):
                _, process = read_state(target.pid)
                assert process.refusal == ""
                poll_until(lambda: is_stopped(target.pid), COMMAND_S, "all threads to be stopped again")
        assert "errors=0" in target.command("status")


def test_a_thread_leaves_the_vdso() -> None:
    with Target.spawn("state-threads", "vdso") as target, DumpTarget(target.pid) as dump_target:
        vdso = next(m for m in MapsParser().parse(read_maps(target.pid)) if m.path == "[vdso]")
        site, reader = site_of(dump_target), StateReader(16)

        def instruction_addrs(threads: ThreadSet) -> list[int]:
            reader.read(threads, target.pid, dump_target.mem_fd, None, signals=0, timer_ids=[])
            return [thread.general["rip"] for thread in reader.threads()]

        inside = 0
        for _ in range(500):
            with frozen(target.pid) as threads:
                if any(vdso.start_addr <= addr < vdso.end_addr for addr in instruction_addrs(threads)):
                    inside += 1
                    assert leave_vdso(threads, vdso.start_addr, vdso.end_addr) == []
                    addrs = instruction_addrs(threads)
                    assert not any(vdso.start_addr <= addr < vdso.end_addr for addr in addrs)
                    reader.read(threads, target.pid, dump_target.mem_fd, site, signals=0, timer_ids=[])
                    assert reader.process().refusal == ""
        assert inside > 10
        assert "handled=0" in target.command("died")
        assert is_untouched(target.pid)


def test_a_thread_killed_in_the_freeze_is_left_out() -> None:
    with Target.spawn("state-threads") as target, DumpTarget(target.pid) as dump_target:
        site, reader = site_of(dump_target), StateReader(16)
        with frozen(target.pid) as threads:
            os.kill(target.pid, signal.SIGKILL)
            poll_until(lambda: "Z" in Path(f"/proc/{target.pid}/stat").read_text(), COMMAND_S, "the target to end")
            reader.read(threads, target.pid, dump_target.mem_fd, site, signals=ALL_SIGNALS, timer_ids=[0])
    assert reader.threads() == []
    assert reader.process().dispositions is None
    assert reader.process().refusal


@pytest.mark.parametrize("call", ["nanosleep", "clock_nanosleep", "futex", "poll"])
def test_blocked_calls_keep_their_remaining_time(call: str) -> None:
    """The kernel's own restart block must survive: a sleep of 600 ms, disturbed often, ends after 600 ms, in time."""
    with Target.spawn("sleeper", call, 600) as target, DumpTarget(target.pid) as dump_target:
        site, reader = site_of(dump_target), StateReader(4)
        target.send("sleep")
        for _ in range(10):
            time.sleep(0.02)
            with frozen(target.pid) as threads:
                reader.read(threads, target.pid, dump_target.mem_fd, site, signals=ALL_SIGNALS, timer_ids=[])
            assert reader.process().refusal == ""
        words = target.answer("sleep").split()
        assert words[1] == "result=0"
        slept_ns = int(words[2].removeprefix("ns="))
    assert 600 * MS_NS <= slept_ns < 790 * MS_NS, (
        "the last disturbance came after 200 ms: a whole new wait would be 800"
    )


@contextmanager
def frozen_cgroup(pid: int) -> Iterator[None]:
    """`pid` in a cgroup of its own that is frozen; thawed, emptied and removed again."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    root = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if root is None:
        pytest.skip("no cgroup2 is mounted")
    cgroup = root / f"predump-test-{pid}"
    cgroup.mkdir()
    try:
        (cgroup / "cgroup.procs").write_text(str(pid))
        (cgroup / "cgroup.freeze").write_text("1")
        poll_until(lambda: "frozen 1" in (cgroup / "cgroup.events").read_text(), COMMAND_S, "the cgroup to freeze")
        yield
    finally:
        (cgroup / "cgroup.freeze").write_text("0")
        (root / "cgroup.procs").write_text(str(pid))
        cgroup.rmdir()


@pytest.mark.parametrize("blocked", MASKS)
def test_a_thread_in_a_frozen_cgroup_is_read_but_not_asked(blocked: str) -> None:
    with Target.spawn("selfcheck", blocked) as target:
        with frozen_cgroup(target.pid):
            threads, process = read_state(target.pid)
        assert "cgroup" in process.refusal
        assert process.dispositions is None
        assert all(thread.signal_stack is None and thread.status for thread in threads)
        assert "errors=0" in target.command("status")
        assert is_untouched(target.pid)
