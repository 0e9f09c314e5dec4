"""Names of the kernel's numbers."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from display import names
from display.systemcalls import system_call_name

UNISTD = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


def test_system_calls() -> None:
    assert [system_call_name(n) for n in (0, 35, 202, 232, 334, 435, 462)] == [
        "read",
        "nanosleep",
        "futex",
        "epoll_wait",
        "rseq",
        "clone3",
        "mseal",
    ]
    assert [system_call_name(n) for n in (-1, 400, 9999)] == ["system call -1", "system call 400", "system call 9999"]


@pytest.mark.skipif(not UNISTD.exists(), reason="needs the kernel's headers")
def test_system_calls_are_those_of_the_header() -> None:
    found = re.findall(r"#define __NR_(\w+) (\d+)", UNISTD.read_text())
    assert len(found) > 300
    assert [(name, number) for name, number in found if system_call_name(int(number)) != name] == []


def test_signals() -> None:
    assert [names.signal_name(n) for n in (1, 9, 31, 32, 34, 35, 63, 64, 65, 0, -1)] == [
        "SIGHUP",
        "SIGKILL",
        "SIGSYS",
        "SIG32",
        "SIGRTMIN",
        "SIGRTMIN+1",
        "SIGRTMIN+29",
        "SIGRTMAX",
        "SIG65",
        "SIG0",
        "SIG-1",
    ]
    assert (signal.SIGRTMIN, signal.SIGRTMAX) == (names.SIGRTMIN, names.SIGRTMAX)


def test_signal_sets() -> None:
    everything = (1 << 64) - 1
    assert names.signal_set_text(0) == "none"
    assert names.signal_set_text(1 | 1 << 14) == "SIGHUP SIGTERM"
    assert names.signal_set_text(everything) == "all"
    blockable = everything & ~(1 << 8 | 1 << 18)  # what sigfillset(3) leaves in force
    assert names.signal_set_text(blockable & ~(1 << 31 | 1 << 32)) == "all"
    assert names.signal_set_text(everything & ~(1 << 10)) == "all but SIGSEGV"


def test_open_flags() -> None:
    flags = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK
    assert names.open_flag_names(flags | 0o100000) == ["O_RDWR", "O_APPEND", "O_NONBLOCK"]
    assert names.open_flag_names(os.O_RDONLY | os.O_SYNC, close_on_exec=True) == ["O_RDONLY", "O_SYNC", "O_CLOEXEC"]
    assert names.open_flag_names(os.O_WRONLY | os.O_DSYNC) == ["O_WRONLY", "O_DSYNC"]
    assert names.open_flag_names(os.O_PATH | os.O_DIRECTORY) == ["O_DIRECTORY", "O_PATH"]
    assert names.open_flag_names(os.O_RDWR | os.O_TMPFILE) == ["O_RDWR", "O_TMPFILE"]
    assert names.open_flag_names(1 << 40) == ["O_RDONLY", "0x10000000000"]


@pytest.mark.parametrize(
    "name", [n for n in dir(os) if n.startswith("O_") and n not in ("O_ACCMODE", "O_LARGEFILE", "O_RDONLY")]
)
def test_every_open_flag_is_that_of_the_system(name: str) -> None:
    aliases = {"O_NDELAY": "O_NONBLOCK", "O_RSYNC": "O_SYNC", "O_FSYNC": "O_SYNC"}
    assert aliases.get(name, name) in names.open_flag_names(getattr(os, name))


def test_bits_of_other_interfaces() -> None:
    assert names.sigaction_flag_names(0x14000004) == ["SA_SIGINFO", "SA_RESTART"]
    assert names.epoll_event_names(0x80002001) == ["EPOLLIN", "EPOLLRDHUP", "EPOLLET"]
    assert names.seal_names(0x0F) == ["F_SEAL_SEAL", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE"]
    assert names.sigaction_flag_names(0x40) == ["0x40"]


def test_capabilities() -> None:
    everything = (1 << 41) - 1
    assert names.capability_set_text(0) == "none"
    assert names.capability_set_text(everything) == "all"
    assert names.capability_set_text(1 << 40 | 1) == "CAP_CHOWN CAP_CHECKPOINT_RESTORE"
    assert names.capability_set_text(everything & ~(1 << 21)) == "all but CAP_SYS_ADMIN"
    assert names.capability_set_text(1 << 50) == "0x4000000000000"


def test_words_for_single_numbers() -> None:
    assert [names.policy_name(n) for n in (0, 1, 6, 4)] == ["SCHED_OTHER", "SCHED_FIFO", "SCHED_DEADLINE", "policy 4"]
    assert [names.io_priority_text(n) for n in (3 << 13, 1 << 13 | 7)] == ["idle 0", "real-time 7"]
    assert [names.clock_name(n) for n in (0, 7, -6)] == ["CLOCK_REALTIME", "CLOCK_BOOTTIME", "clock -6"]
    assert [names.limit_name(n) for n in (0, 7, 15, 16, -1)] == ["CPU", "NOFILE", "RTTIME", "limit 16", "limit -1"]
    assert [names.terminal_name(n) for n in (136 << 8 | 3, 137 << 8, 4 << 8 | 1)] == ["pts/3", "pts/256", "4:1"]


def test_sockets() -> None:
    kinds = [(2, 1, 6), (10, 2, 17), (1, 1, 0), (16, 3, 15), (99, 88, 0)]
    assert [names.socket_name(*kind) for kind in kinds] == [
        "tcp",
        "udp6",
        "unix stream",
        "netlink raw",
        "family 99 type 88",
    ]
