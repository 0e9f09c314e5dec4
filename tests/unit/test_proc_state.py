"""The /proc parsers behind the state of a process: on captured text, and on anything at all."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumper.proc.cgroup import at_home, parse_cgroups
from dumper.proc.cpuinfo import parse_instructions, read_instructions
from dumper.proc.limits import INFINITY, NAMES, parse_limits
from dumper.proc.namespaces import KINDS, parse_inode, read_own
from dumper.proc.smaps import GUARD_FLAG, MADV_GUARD_INSTALL, parse_smaps_flags, read_smaps, shows_guards
from dumper.proc.stat import parse_process_stat
from dumper.proc.status import handled_signals, parse_thread_status, read_thread_status
from dumper.proc.timens import parse_offsets
from dumper.proc.timers import Timer, parse_timers, timer_ids

STAT = (
    b"29077 (ca (t) R) R 29071 29070 26990 34816 -1 4194304 102 0 0 0 0 0 0 0 20 0 1 0 108533 3133440 382 "
    b"18446744073709551615 93925502562304 93925502582185 140723610774320 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 "
    b"93925502598192 93925502599808 93926516457472 140723610782433 140723610782453 140723610782453 140723610783723 0\n"
)

STATUS = b"""Name:\tback\\\\slash\\nnewline: x
Umask:\t0027
State:\tR (running)
Tgid:\t29078
Ngid:\t0
Pid:\t29079
PPid:\t29071
TracerPid:\t0
Uid:\t1\t2\t3\t4
Gid:\t5\t6\t7\t8
FDSize:\t256
Groups:\t20 1000\x20
NStgid:\t29078\t12\t1
NSpid:\t29079\t13\t2
NSpgid:\t29071\t5\t0
NSsid:\t26990\t0\t0
Kthread:\t0
THP_enabled:\t0
Threads:\t2
SigQ:\t0/96365
SigPnd:\t0000000000000200
ShdPnd:\t0000000400000000
SigBlk:\t0000000000010000
SigIgn:\t0000000000001000
SigCgt:\t0000000180000002
CapInh:\t0000000000000001
CapPrm:\t000001fffeffffff
CapEff:\t0000000000000003
CapBnd:\t000001fffeffffff
CapAmb:\t0000000000000001
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t1
"""

LIMITS = b"""Limit                     Soft Limit           Hard Limit           Units     \n\
Max cpu time              10                   20                   seconds   \n\
Max file size             unlimited            unlimited            bytes     \n\
Max nice priority         0                    0                    \n\
Max realtime timeout      unlimited            99                   us        \n"""

TIMERS = b"""ID: 1
signal: 39/0000feedfacecafe
notify: signal/pid.31985
ClockID: 1
ID: 3
signal: 41/0000000000000005
notify: signal/tid.31986
ClockID: 7
ID: 4
signal: 0/0000000000000000
notify: none/pid.31985
ClockID: -6
ID: 12
signal: 14/000000000000000c
notify: thread/pid.0
ClockID: 0
"""

SMAPS = b"""55d0c8a00000-55d0c8a02000 r--p 00000000 08:01 42                         /bin/a VmFlags: b
Size:                  8 kB
KernelPageSize:        4 kB
Rss:                   8 kB
Private_Hugetlb:       0 kB
THPeligible:           0
VmFlags: rd mr mw me\x20
7ffd4a2c0000-7ffd4a2e1000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
ProtectionKey:         0
VmFlags: rd wr mr mw me gd ac gu\x20
NewField:              1 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Size:                  4 kB
VmFlags: ex\x20
"""


def test_stat_of_a_process() -> None:
    stat = parse_process_stat(STAT)
    assert (stat.process_group, stat.session, stat.terminal, stat.exit_signal) == (29070, 26990, 34816, 17)
    assert (stat.start_code_addr, stat.end_code_addr, stat.start_stack_addr) == (
        93925502562304,
        93925502582185,
        140723610774320,
    )
    assert (stat.start_data_addr, stat.end_data_addr, stat.start_brk_addr) == (
        93925502598192,
        93925502599808,
        93926516457472,
    )
    assert (stat.arg_start_addr, stat.arg_end_addr) == (140723610782433, 140723610782453)
    assert (stat.env_start_addr, stat.env_end_addr) == (140723610782453, 140723610783723)


def test_secret_addresses_in_stat_are_no_addresses() -> None:
    secret = STAT.replace(b"93925502562304 93925502582185 140723610774320", b"1 1 0")
    stat = parse_process_stat(secret)
    assert (stat.start_code_addr, stat.end_code_addr, stat.start_stack_addr) == (0, 0, 0)


def test_status_of_a_thread() -> None:
    status = parse_thread_status(STATUS)
    assert status.name == "back\\slash\nnewline: x"
    assert (status.ns_pids, status.ns_tids) == ([29078, 12, 1], [29079, 13, 2])
    assert (status.ns_process_groups, status.ns_sessions) == ([29071, 5, 0], [26990, 0, 0])
    assert status.umask == 0o27
    assert (status.uids, status.gids, status.groups) == ([1, 2, 3, 4], [5, 6, 7, 8], [20, 1000])
    assert status.caps == (1, 0x1FFFEFFFFFF, 3, 0x1FFFEFFFFFF, 1)
    assert (status.no_new_privs, status.seccomp_mode, status.thp_disabled) == (True, 2, True)
    assert (status.pending_signals, status.shared_pending_signals) == (1 << 9, 1 << 34)
    assert (status.ignored_signals, status.caught_signals) == (1 << 12, 0x180000002)
    assert handled_signals(STATUS) == 0x180001002


def test_status_of_a_thread_that_has_ended_and_of_a_kernel_without_pid_namespaces() -> None:
    lines = [line for line in STATUS.splitlines(keepends=True) if not line.startswith((b"NS", b"Umask"))]
    status = parse_thread_status(b"".join(lines))
    assert status.umask is None
    assert (status.ns_pids, status.ns_tids, status.ns_sessions) == ([29078], [29079], [])


def test_own_status() -> None:
    status = read_thread_status("self")
    assert status.umask is not None
    assert status.ns_pids
    assert handled_signals(Path("/proc/self/status").read_bytes()) == status.ignored_signals | status.caught_signals


def test_limits() -> None:
    assert parse_limits(LIMITS) == [(0, 10, 20), (1, INFINITY, INFINITY), (13, 0, 0), (15, INFINITY, 99)]
    own = parse_limits(Path("/proc/self/limits").read_bytes())
    assert [resource for resource, _, _ in own] == list(range(len(NAMES)))


def test_timers() -> None:
    assert parse_timers(TIMERS) == [
        Timer(id=1, signal=39, value=0xFEEDFACECAFE, notify=0, tid=0, clock=1),
        Timer(id=3, signal=41, value=5, notify=4, tid=31986, clock=7),
        Timer(id=4, signal=0, value=0, notify=1, tid=0, clock=-6),
        Timer(id=12, signal=14, value=12, notify=2, tid=0, clock=0),
    ]
    assert timer_ids(TIMERS) == [1, 3, 4, 12]
    assert parse_timers(b"") == timer_ids(b"") == []


def test_clock_offsets() -> None:
    assert parse_offsets(b"monotonic           0         0\nboottime            0         0\n") == (0, 0)
    assert parse_offsets(b"monotonic          -5 250000000\nboottime            7         1\n") == (
        -4_750_000_000,
        7_000_000_001,
    )


def test_namespace_links() -> None:
    assert parse_inode("net:[4026531833]") == 4026531833


@pytest.mark.parametrize(
    ("line", "home"),
    [
        ("0::/a:b/predump-throttle-12-345", "0::/a:b"),
        ("1:cpu:/predump-throttle-12-345-enabled", "1:cpu:/"),
        ("0::/a/predump-throttle-x", "0::/a/predump-throttle-x"),
        ("0::/predump-throttle-12-345/a", "0::/predump-throttle-12-345/a"),
        ("0::/", "0::/"),
    ],
)
def test_a_cgroup_that_predump_made_is_none_of_the_process(line: str, home: str) -> None:
    assert at_home(line) == home


def test_cgroups() -> None:
    assert parse_cgroups(b"4:memory:/a:b\n1:name=systemd:/\n0::/x \xff\n") == [
        "4:memory:/a:b",
        "1:name=systemd:/",
        "0::/x \udcff",
    ]


def test_flags_of_mappings() -> None:
    assert parse_smaps_flags(SMAPS) == [
        (0x55D0C8A00000, 0x55D0C8A02000, "rd mr mw me"),
        (0x7FFD4A2C0000, 0x7FFD4A2E1000, "rd wr mr mw me gd ac gu"),
        (0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, "ex"),
    ]
    assert parse_smaps_flags(b"") == []


def test_flags_of_own_mappings() -> None:
    text = read_smaps(os.getpid())
    assert len(parse_smaps_flags(text)) == text.count(b"VmFlags:")


@pytest.mark.parametrize(
    "damaged",
    [
        SMAPS.replace(b"7ffd4a2c0000-", b"7ffd4a2c0000+"),
        SMAPS.replace(b"VmFlags: rd wr", b"Vmflags: rd wr"),
        SMAPS[: SMAPS.index(b"NewField")] + b"what is this\n" + SMAPS[SMAPS.index(b"NewField") :],
        SMAPS[: SMAPS.index(b"VmFlags: ex")],
        SMAPS[20:],
        b"\xff" * 100,
    ],
)
def test_smaps_that_are_not_understood_are_never_passed_over(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="smaps"):
        parse_smaps_flags(damaged)


def test_whether_guards_are_shown_is_found_by_trying() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ) as page:
        try:
            page.madvise(MADV_GUARD_INSTALL)
        except OSError:
            assert not shows_guards()
            return
        flags = parse_smaps_flags(Path("/proc/self/smaps").read_bytes())
    assert shows_guards() == any(GUARD_FLAG in one.split() for _, _, one in flags)


PARSERS: list[tuple[Callable[[bytes], object], bytes]] = [
    (parse_process_stat, STAT),
    (parse_thread_status, STATUS),
    (handled_signals, STATUS),
    (parse_limits, LIMITS),
    (parse_timers, TIMERS),
    (timer_ids, TIMERS),
    (parse_offsets, b"monotonic           0         0\nboottime            0         0\n"),
    (parse_cgroups, b"4:memory:/a\n0::/\n"),
    (parse_smaps_flags, SMAPS),
    (lambda text: parse_inode(text.decode("latin-1")), b"net:[1]"),
]


@given(st.data())
def test_junk_is_a_value_error_or_nothing(data: st.DataObject) -> None:
    parse, sample = data.draw(st.sampled_from(PARSERS))
    at = data.draw(st.integers(0, len(sample)))
    junk = data.draw(st.binary(max_size=20))
    until = data.draw(st.integers(at, len(sample)))
    with contextlib.suppress(ValueError, KeyError):
        parse(sample[:at] + junk + sample[until:])


def test_instructions_are_those_of_programs_concern() -> None:
    text = (
        b"processor\t: 0\nflags\t\t: fpu sse2 avx2 ibrs hypervisor\nbugs\t: avx\n\nprocessor\t: 1\nflags\t: avx512f\n"
    )
    assert parse_instructions(text) == ["avx2", "sse2"]
    assert parse_instructions(b"") == []
    assert "sse2" in read_instructions()  # of x86-64, always


def test_own_namespaces() -> None:
    own = read_own()
    assert set(own) <= set(KINDS)
    assert own["pid"] == Path("/proc/self/ns/pid").stat().st_ino
