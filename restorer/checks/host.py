"""What this machine and its caller have for a restore, found out by trying: facts, on which the checks decide."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dumper import restoretrials
from dumper.headroom import free_bytes
from dumper.proc.cpuinfo import read_instructions
from dumper.proc.namespaces import read_own
from dumper.proc.status import read_thread_status
from dumper.state.threads import credentials
from formats.threadstate import Credentials
from restorer.checks.abilities import Trials
from restorer.clocks import Readings, now


@dataclass(frozen=True, slots=True)
class Host:
    """made_as: the credentials of a process that the caller makes; xstate: its NT_X86_XSTATE, b"" for none;
    instructions: sets of them, as in /proc/cpuinfo; clocks: what they show; cgroups: lines of /proc/self/cgroup;
    available_bytes: memory that could be had without harm to others, here and in its cgroups; max_fds: descriptors that
    a process of the caller may have; trials: what the kernel and the caller can do.
    """

    made_as: Credentials
    xstate: bytes
    instructions: frozenset[str]
    namespaces: Mapping[str, int]
    boot_id: str
    clocks: Readings
    cgroups: tuple[str, ...]
    available_bytes: int
    max_fds: int
    trials: Trials = field(default_factory=Trials, compare=False)


def look_at_host() -> Host:
    """This machine. Raises OSError if not even a blank process can be made."""
    with restoretrials.blank() as thread:
        made_as, xstate = credentials(read_thread_status(thread.tid)), b""
        with suppress(OSError):  # ENODEV: a processor without XSAVE
            xstate = thread.xstate()
    return Host(
        made_as=made_as,
        xstate=xstate,
        instructions=frozenset(read_instructions()),
        namespaces=read_own(),
        boot_id=_text("/proc/sys/kernel/random/boot_id").strip(),
        clocks=now(),
        cgroups=tuple(_text("/proc/self/cgroup").splitlines()),
        available_bytes=free_bytes(os.getpid()) + swap_free_bytes(_text("/proc/meminfo")),
        max_fds=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    )


def swap_free_bytes(meminfo: str) -> int:
    """SwapFree of /proc/meminfo: proc_meminfo(5); 0 where it does not say."""
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    with suppress(KeyError, ValueError):
        return int(fields["SwapFree"].split()[0]) * 1024
    return 0


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    return ""
